"""Scores served models: sends the requests and grades the answers. Shared by a run's evaluation and `distill eval`."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from rich.console import Console

from distill.config.verify import VerifyConfig
from distill.core.events import log_event
from distill.core.manifest import Manifest, now
from distill.core.progress_bars import bars
from distill.core.run_dir import RunDir, StageName, benchmark_scores
from distill.core.schema import AnswerKind, Prompt, Score, Verdict
from distill.evaluate.answer_log import AnswerLog
from distill.evaluate.requests import (
    ENDPOINT_RULE,
    EvaluationItem,
    Scoring,
    asked_sampling,
    benchmark_settings,
    interleave,
    request_rows,
    score_rows,
)
from distill.generate.pools import RequestFields
from distill.grading import GraderPool
from distill.models.chat_template import with_mode
from distill.models.conversation import prompt_start
from serve.config import engine_key
from serve.dataset_client import BatchConfig, complete

ANSWER_FIELDS = ("completion", "finish_reason", "prompt_tokens", "completion_tokens")


@dataclass(frozen=True)
class ScoreSink:
    """Where scores and progress go, and how answers are graded."""

    run_dir: RunDir
    console: Console
    verify: VerifyConfig


@dataclass(frozen=True)
class EndpointAddress:
    """Where requests are sent, and how."""

    url: str
    """Base URL, without `/v1`."""
    batch: BatchConfig
    engines_at_once: int = 1
    """Engines that are asked at the same time, each for one item after another, which fills its batch."""
    served_as: str = ""
    """Name of the model there; empty: its own."""
    fields: RequestFields | None = None
    """What it takes in requests; None: what our own endpoints take."""


def score_items(
    todo: Sequence[EvaluationItem],
    benchmarks: Mapping[str, Sequence[Prompt]],
    recipe: Scoring,
    sink: ScoreSink,
    address: EndpointAddress,
) -> None:
    """Send the requests that have no answer yet, and write each score as soon as its last answer has come."""
    requests = {item: _requests(item, benchmarks, recipe, address) for item in todo}
    logs = {item: _log(item, sink.run_dir) for item in todo}
    answered = {item: _answered(item, rows, sink.run_dir) for item, rows in requests.items()}
    open_rows = {item: _unanswered(rows, answered[item]) for item, rows in requests.items()}
    if known := sum(map(len, answered.values())):
        sink.console.print(f"  {known} answers are on disk already")
    by_name = {(item.model.name, item.benchmark): item for item in todo}
    for item in todo:
        if not open_rows[item]:  # its score could not be written, and the engines were started anew
            _finish(item, answered[item], benchmarks, recipe, sink, address.fields)
    rows = list(interleave(_by_engine(open_rows), address.engines_at_once))
    try:
        with bars(sink.console) as shown:
            for row in complete(rows, address.url, address.batch).iter_rows() if rows else ():
                item = by_name[row["scored_as"], row["benchmark"]]
                answered[item].append(row)
                logs[item].add(row)
                total = len(requests[item])
                shown.update(f"{item.model.name} on {item.benchmark}", len(answered[item]), total)
                if len(answered[item]) == total:
                    logs[item].flush()
                    _finish(item, answered.pop(item), benchmarks, recipe, sink, address.fields)
    finally:
        for log in logs.values():
            log.flush()


def score_answered(
    todo: Sequence[EvaluationItem],
    benchmarks: Mapping[str, Sequence[Prompt]],
    recipe: Scoring,
    sink: ScoreSink,
    fields: RequestFields | None = None,
) -> list[EvaluationItem]:
    """Score the items whose answers are all on disk, before an engine is started; those that are left.

    Answers outlive their verdicts: a corrected reference or a newer verifier has them graded anew.

    `fields`: what an endpoint takes in requests; None: what our own endpoints take.
    """
    left, graded = list[EvaluationItem](), 0
    for item in todo:
        rows = list(request_rows(item, benchmarks[item.benchmark], recipe, fields=fields))
        answered = _answered(item, rows, sink.run_dir)
        if len(answered) == len(rows):
            _finish(item, answered, benchmarks, recipe, sink, fields)
            graded += len(answered)
        else:
            left.append(item)
    if graded:
        sink.console.print(f"  {graded} answers that are on disk were graded")
    return left


def _log(item: EvaluationItem, run_dir: RunDir) -> AnswerLog:
    return AnswerLog(run_dir, item.model.name, item.benchmark, item.answers_key)


def _answered(item: EvaluationItem, rows: Sequence[dict[str, Any]], run_dir: RunDir) -> list[dict[str, Any]]:
    """Those of the requests that have an answer on disk, with it: in the log, or in a score of other verdicts."""
    scored = {(one.prompt_id, one.sample_index): one for one in _stored(item, run_dir) if one.rule != ENDPOINT_RULE}
    found = {(row["prompt_id"], row["sample_index"]): row for row in _log(item, run_dir).answered(rows)}
    for row in rows:
        place = (row["prompt_id"], row["sample_index"])
        if place not in found and place in scored:
            answer = asdict(scored[place])
            found[place] = {**row, **{name: answer[name] for name in ANSWER_FIELDS}, "error": ""}
    return list(found.values())


def _stored(item: EvaluationItem, run_dir: RunDir) -> list[Score]:
    """The rows of a score whose answers would be given again."""
    manifest = run_dir.read_manifest(*item.folder)
    if manifest is None or manifest.details.get("answers") != item.answers_key:
        return []
    rows = run_dir.read_table(*benchmark_scores(item.model.name, item.benchmark), row_type=Score)
    return [Score(**row) for row in rows.to_pylist()]


def _by_engine(rows: Mapping[EvaluationItem, Sequence[dict[str, Any]]]) -> list[list[dict[str, Any]]]:
    """The rows of all items by the engine that answers them, item after item."""
    groups = defaultdict[tuple[str, str], list[dict[str, Any]]](list)
    for item, own in rows.items():
        groups[engine_key(item.model.shared_engine, item.model.source)] += own
    return list(groups.values())


def _requests(
    item: EvaluationItem, benchmarks: Mapping[str, Sequence[Prompt]], recipe: Scoring, address: EndpointAddress
) -> list[dict[str, Any]]:
    prompts = benchmarks[item.benchmark]
    return list(request_rows(item, prompts, recipe, served_as=address.served_as, fields=address.fields))


def _unanswered(rows: Sequence[dict[str, Any]], answered: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    known = {(row["prompt_id"], row["sample_index"]) for row in answered}
    return [row for row in rows if (row["prompt_id"], row["sample_index"]) not in known]


def _finish(
    item: EvaluationItem,
    rows: Sequence[dict[str, Any]],
    benchmarks: Mapping[str, Sequence[Prompt]],
    recipe: Scoring,
    sink: ScoreSink,
    fields: RequestFields | None,
) -> None:
    """Grade all answers of an item; they stay in the log until the score is written. What a judge said of one stays."""
    by_id = {prompt.prompt_id: prompt for prompt in benchmarks[item.benchmark]}
    judged = {
        (one.prompt_id, one.sample_index): one
        for one in _stored(item, sink.run_dir)
        if one.judge and by_id[one.prompt_id].answer_kind == AnswerKind.REFUSAL
    }
    with GraderPool.from_config(sink.verify) as graders:
        scores = score_rows(
            rows,
            by_id,
            benchmark_settings(recipe.evaluate, item.benchmark),
            graders.grade_batch,
            must_reason=is_opened(item, recipe),
            opening=item.model.plan.opening if item.model.plan else "",
        )
    named = [
        _with_judgement(replace(score, model=item.model.name), judged.get((score.prompt_id, score.sample_index)))
        for score in scores
    ]
    write_scores(sink.run_dir, item, named, asked_sampling(item, recipe, fields))
    _log(item, sink.run_dir).clear()


def _with_judgement(score: Score, before: Score | None) -> Score:
    # A judge is sent an answer only where the rules find one.
    if before is None or (before.verdict == Verdict.NO_ANSWER) != (score.verdict == Verdict.NO_ANSWER):
        return score
    return replace(score, judge_verdict=before.judge_verdict, judge=before.judge, judge_detail=before.judge_detail)


def is_opened(item: EvaluationItem, recipe: Scoring) -> bool:
    """Whether the model's prompts put it inside its reasoning; not known of another's endpoint."""
    model = item.model
    chat = with_mode(recipe.student_chat, model.asked_as)
    return bool(model.tokenizer) and prompt_start(model.tokenizer, chat).opened is not None


def write_scores(run_dir: RunDir, item: EvaluationItem, scores: Sequence[Score], sampling: Mapping[str, Any]) -> None:
    """Write a finished score and its manifest, after which it is not computed again.

    `sampling`: what applied to every answer.
    """
    errors = sum(score.verdict == Verdict.ERROR for score in scores)
    run_dir.write_rows(scores, Score, *benchmark_scores(item.model.name, item.benchmark))
    drops = {"error": errors} if errors else {}
    manifest = Manifest(
        StageName.EVALUATE,
        item.key,
        rows_in=len(scores),
        rows_out=len(scores) - errors,
        drops=drops,
        details={"sampling": dict(sampling), "weights": item.model.key, "answers": item.answers_key},
    )
    run_dir.write_manifest(replace(manifest, finished_at=now()), *item.folder)
    about = {"model": item.model.name, "benchmark": item.benchmark, "answers": len(scores), "errors": errors}
    log_event("model scored", run=run_dir.address, stage=StageName.EVALUATE, **about)


def unscored(items: Sequence[EvaluationItem], run_dir: RunDir) -> Iterator[EvaluationItem]:
    """The items that have no score under their key."""
    return (item for item in items if not run_dir.is_complete(item.key, *item.folder))
