"""The scores of a run in its trackers, beside the curves of its cells."""

from collections.abc import Callable, Sequence

from distill.config.train import TrainConfig
from distill.core.run_dir import RunDir, StageName
from distill.core.schema import content_hash
from distill.report.score_data import ModelScore
from distill.train.worker.trackers import TrackedRun, Trackers

NAME = "scores"
COLUMNS = ("model", "benchmark", "accuracy", "from", "to", "problems", "tokens", "truncated")


def track_scores(train: TrainConfig, run_dir: RunDir, scores: Sequence[ModelScore], log: Callable[[str], None]) -> None:
    """Show every score with its 95 % interval in a table of each tracker. `log`: where a failure is told."""
    rows = [
        (
            *(one.model, one.benchmark, one.accuracy, one.interval.low, one.interval.high),
            *(one.num_prompts, one.mean_tokens, one.truncated),
        )
        for one in scores
    ]
    run = TrackedRun(NAME, content_hash(NAME, run_dir.address, rows), (StageName.REPORT,))
    trackers = Trackers(train, run_dir, run, log=log)
    trackers.table(NAME, COLUMNS, rows)
    trackers.close()
