"""Scores served models: sends the requests and grades the answers. Shared by a run's evaluation and `distill eval`."""

import dataclasses
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console

from distill.config.verify import VerifyConfig
from distill.core.events import log_event
from distill.core.manifest import Manifest, now
from distill.core.progress_bars import bars
from distill.core.run_dir import RunDir, StageName, benchmark_scores
from distill.core.schema import Prompt, Score, Verdict
from distill.evaluate.answer_log import AnswerLog
from distill.evaluate.requests import (
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


@dataclasses.dataclass(frozen=True)
class ScoreSink:
    """Where scores and progress go, and how answers are graded."""

    run_dir: RunDir
    console: Console
    verify: VerifyConfig


@dataclasses.dataclass(frozen=True)
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
    logs = {item: AnswerLog(sink.run_dir, item.model.name, item.benchmark, item.key) for item in todo}
    answered = {item: list(logs[item].answered(rows)) for item, rows in requests.items()}
    open_rows = {item: _unanswered(rows, answered[item]) for item, rows in requests.items()}
    if known := sum(map(len, answered.values())):
        sink.console.print(f"  {known} answers are on disk already")
    by_name = {(item.model.name, item.benchmark): item for item in todo}
    for item in todo:
        if not open_rows[item]:
            _finish(item, answered[item], benchmarks, recipe, sink, logs[item], address.fields)
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
                    _finish(item, answered.pop(item), benchmarks, recipe, sink, logs[item], address.fields)
    finally:
        for log in logs.values():
            log.flush()


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
    log: AnswerLog,
    fields: RequestFields | None,
) -> None:
    """Grade all answers of an item; they stay in the log until the score is written."""
    log.flush()
    with GraderPool.from_config(sink.verify) as graders:
        by_id = {prompt.prompt_id: prompt for prompt in benchmarks[item.benchmark]}
        scores = score_rows(
            rows,
            by_id,
            benchmark_settings(recipe.evaluate, item.benchmark),
            graders.grade_batch,
            must_reason=is_opened(item, recipe),
        )
    named = [dataclasses.replace(score, model=item.model.name) for score in scores]
    write_scores(sink.run_dir, item, named, asked_sampling(item, recipe, fields))
    log.clear()


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
        details={"sampling": dict(sampling), "weights": item.model.key},
    )
    run_dir.write_manifest(dataclasses.replace(manifest, finished_at=now()), *item.folder)
    about = {"model": item.model.name, "benchmark": item.benchmark, "answers": len(scores), "errors": errors}
    log_event("model scored", run=run_dir.address, stage=StageName.EVALUATE, **about)


def unscored(items: Sequence[EvaluationItem], run_dir: RunDir) -> Iterator[EvaluationItem]:
    """The items that have no score under their key."""
    return (item for item in items if not run_dir.is_complete(item.key, *item.folder))
