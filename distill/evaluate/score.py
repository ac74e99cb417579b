"""Ask served models the benchmarks and grade what they say: what a run's evaluation and `distill eval` share."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from rich.console import Console

from distill.config.verify import VerifyConfig
from distill.core.events import log_event
from distill.core.progress_bars import bars
from distill.core.run_dir import Manifest, RunDir, now
from distill.core.schema import Prompt, Score, Verdict
from distill.evaluate.answer_log import AnswerLog
from distill.evaluate.requests import Item, Scoring, asked, interleave, request_rows, score_rows
from distill.grading import GraderPool
from serve.dataset_client import BatchConfig, complete


@dataclasses.dataclass(frozen=True)
class Place:
    """Where scores go, what is shown meanwhile, and how answers are graded."""

    run_dir: RunDir
    console: Console
    verify: VerifyConfig


@dataclasses.dataclass(frozen=True)
class Address:
    """Where models are asked, and how."""

    url: str
    """Base URL, without `/v1`."""
    batch: BatchConfig
    one_by_one: bool
    """Benchmark after benchmark, which fills one engine's batch; else in turn, which keeps several busy."""
    served_as: str = ""
    """The one model's name there, where it is not that of the items."""


def score_items(
    todo: Sequence[Item],
    benchmarks: Mapping[str, Sequence[Prompt]],
    recipe: Scoring,
    place: Place,
    address: Address,
) -> None:
    """Ask what has no answer yet, and write each score as soon as its last answer is there."""
    served_as = address.served_as
    requests = {item: list(request_rows(item, benchmarks[item.benchmark], recipe, served_as)) for item in todo}
    logs = {item: AnswerLog(place.run_dir, item.model.name, item.benchmark, item.key) for item in todo}
    answered = {item: list(logs[item].answered(rows)) for item, rows in requests.items()}
    open_rows = {item: _unanswered(rows, answered[item]) for item, rows in requests.items()}
    if known := sum(map(len, answered.values())):
        place.console.print(f"  {known} answers are there already")
    by_name = {(item.model.name, item.benchmark): item for item in todo}
    for item in todo:
        if not open_rows[item]:
            _finish(item, answered[item], benchmarks, recipe, place, logs[item])
    rows = list(chain(*open_rows.values()) if address.one_by_one else interleave(open_rows.values()))
    try:
        with bars(place.console) as shown:
            for row in complete(rows, address.url, address.batch).iter_rows() if rows else ():
                item = by_name[row["scored_as"], row["benchmark"]]
                answered[item].append(row)
                logs[item].add(row)
                total = len(requests[item])
                shown.update(f"{item.model.name} on {item.benchmark}", len(answered[item]), total)
                if len(answered[item]) == total:
                    _finish(item, answered.pop(item), benchmarks, recipe, place, logs[item])
    finally:
        for log in logs.values():
            log.flush()


def _unanswered(rows: Sequence[dict[str, Any]], answered: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    known = {(row["prompt_id"], row["sample_index"]) for row in answered}
    return [row for row in rows if (row["prompt_id"], row["sample_index"]) not in known]


def _finish(
    item: Item,
    rows: Sequence[dict[str, Any]],
    benchmarks: Mapping[str, Sequence[Prompt]],
    recipe: Scoring,
    place: Place,
    log: AnswerLog,
) -> None:
    """Grade an item whole; its answers stay on disk until its score is."""
    log.flush()
    with GraderPool.of(place.verify) as graders:
        by_id = {prompt.prompt_id: prompt for prompt in benchmarks[item.benchmark]}
        scores = score_rows(rows, by_id, asked(recipe.evaluate, item.benchmark), graders.grade_batch)
    write_scores(place.run_dir, item, [dataclasses.replace(score, model=item.model.name) for score in scores])
    log.clear()


def write_scores(run_dir: RunDir, item: Item, scores: Sequence[Score]) -> None:
    """Write a finished score and its manifest, which makes it one that is never computed again."""
    errors = sum(score.verdict == Verdict.ERROR for score in scores)
    run_dir.write_rows(scores, Score, "evaluate", item.model.name, f"{item.benchmark}.parquet")
    drops = {"error": errors} if errors else {}
    manifest = Manifest("evaluate", item.key, rows_in=len(scores), rows_out=len(scores) - errors, drops=drops)
    run_dir.write_manifest(dataclasses.replace(manifest, finished_at=now()), *item.folder)
    about = {"model": item.model.name, "benchmark": item.benchmark, "answers": len(scores), "errors": errors}
    log_event("model scored", run=run_dir.uri, stage="evaluate", **about)


def unscored(items: Sequence[Item], run_dir: RunDir) -> Iterator[Item]:
    """The items that have no score under their key."""
    return (item for item in items if not run_dir.is_complete(item.key, *item.folder))
