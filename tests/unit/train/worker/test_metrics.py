"""The metrics file: whole lines only, no step twice."""

from pathlib import Path

import pytest

from distill.core.run_dir import RunDir
from distill.train.attempts import Lease, SupersededError
from distill.train.worker.metrics import MetricsLog, StepMetrics, read_metrics


def metrics(step: int) -> StepMetrics:
    return StepMetrics(
        step=step, num_steps=9, loss=1.0, lr=0.1, grad_norm=1.0, tokens=5, supervised_tokens=3, seconds=0.1
    )


def taken(run_dir: RunDir, attempt: str) -> Lease:
    lease = Lease(run_dir, "cell", attempt)
    lease.claim()
    return lease


def test_a_resumed_cell_drops_the_steps_that_it_repeats(tmp_path: Path) -> None:
    run_dir = RunDir(str(tmp_path))
    first = MetricsLog(run_dir, "cell", resume_step=0, lease=taken(run_dir, "first"))
    for step in (1, 2, 3):
        first.add(metrics(step))
    first.flush()
    second = MetricsLog(run_dir, "cell", resume_step=2, lease=taken(run_dir, "second"))
    second.add(metrics(3))
    second.flush()
    with pytest.raises(SupersededError, match="second has claimed the cell"):
        first.flush()
    assert [line.step for line in read_metrics(run_dir, "cell")] == [1, 2, 3]


def test_a_cell_without_metrics_reads_as_empty(tmp_path: Path) -> None:
    assert read_metrics(RunDir(str(tmp_path)), "cell") == []
