"""The metrics file: whole lines only, no step twice."""

from pathlib import Path

from distill.run_dir import RunDir
from distill.train.metrics import MetricsLog, StepMetrics, read_metrics


def metrics(step: int) -> StepMetrics:
    return StepMetrics(
        step=step, num_steps=9, loss=1.0, lr=0.1, grad_norm=1.0, tokens=5, supervised_tokens=3, seconds=0.1
    )


def test_a_resumed_cell_drops_the_steps_that_it_repeats(tmp_path: Path) -> None:
    run_dir = RunDir(str(tmp_path))
    first = MetricsLog(run_dir, "cell", resume_step=0)
    for step in (1, 2, 3):
        first.add(metrics(step))
    first.flush()
    second = MetricsLog(run_dir, "cell", resume_step=2)
    second.add(metrics(3))
    second.flush()
    assert [line.step for line in read_metrics(run_dir, "cell")] == [1, 2, 3]


def test_a_cell_without_metrics_reads_as_empty(tmp_path: Path) -> None:
    assert read_metrics(RunDir(str(tmp_path)), "cell") == []
