"""The optimiser's step on real DeepSpeed: in the precision of a CPU, and in that of a GPU, which a CPU computes too."""

from pathlib import Path
from typing import Any

import pytest
import torch

from distill.core.errors import StageError
from distill.core.run_dir import RunDir
from distill.models.resolve import load_tokenizer
from distill.train.layout import Layout
from distill.train.worker import deepspeed_engine
from distill.train.worker.deepspeed_engine import build_engine, build_loss, engine_config
from distill.train.worker.metrics import StepMetrics, read_metrics
from distill.train.worker.process import prepare_process
from distill.train.worker.rows import load_rows
from tests.integration.train.worker.test_resume import Attempt, Stopped, curve, job_for


class Observed(Attempt):
    """A cell with one weight whose gradient is set at a step, and that keeps its weights from before every step."""

    break_at, bad = -1, 0.0

    def step(self, step: int) -> StepMetrics:
        self.before = self.weights()
        if step == self.break_at:
            weight = next(one for one in self.engine.module.parameters() if one.requires_grad)
            weight.register_hook(lambda gradient: torch.full_like(gradient, self.bad))
        return super().step(step)

    def weights(self) -> dict[str, torch.Tensor]:
        return {name: one.detach().float().clone() for name, one in self.engine.module.named_parameters()}


def observed(folder: Path, model: Path, patch: pytest.MonkeyPatch, *, stage: int, is_bf16: bool, tune: str) -> Observed:
    run_dir = RunDir(str(folder))
    job = job_for(run_dir, model, tune)
    object.__setattr__(job, "layout", Layout(zero_stage=stage, micro_batch_size=2))
    prepare_process(job)
    rows = load_rows(job, run_dir, load_tokenizer(str(model)))
    loss = build_loss(job)
    if is_bf16:
        loss.model.to(torch.bfloat16)
        loss.is_mixed = False
        patch.setattr(deepspeed_engine, "engine_config", lambda layout, train, _: engine_config(layout, train, "gpu"))
    return Observed(job, run_dir, build_engine(job, loss), rows, padding=1)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize(
    ("stage", "is_bf16", "tune"),
    [(0, False, "full"), (0, False, "lora"), (1, False, "full"), (2, False, "full"), (0, True, "full"),
     (0, True, "lora"), (2, True, "full")],
)  # fmt: skip
def test_a_gradient_that_is_not_finite_changes_no_weight_and_stops_the_cell(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, stage: int, is_bf16: bool, tune: str, bad: float
) -> None:
    cell = observed(tmp_path, model, monkeypatch, stage=stage, is_bf16=is_bf16, tune=tune)
    cell.break_at, cell.bad = 2, bad
    with pytest.raises(StageError, match=r"(nan|inf) at step 3 of 8 \(rows"):
        cell.run()
    after = cell.weights()
    assert all(torch.equal(after[name], known) for name, known in cell.before.items())
    assert [line.step for line in read_metrics(RunDir(str(tmp_path)), "cell")] == [1, 2]


@pytest.mark.parametrize("tune", ["full", "lora"])
def test_in_the_precision_of_a_gpu_the_loss_falls_as_in_fp32(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, tune: str
) -> None:
    curves: list[list[float]] = []
    for is_bf16 in (False, True):
        with monkeypatch.context() as patch:
            cell = observed(tmp_path / str(is_bf16), model, patch, stage=0, is_bf16=is_bf16, tune=tune)
            cell.run()
        curves.append([line.loss for line in read_metrics(cell.run_dir, "cell")])
    assert curves[1][-1] < curves[1][0]
    assert curves[1] == pytest.approx(curves[0], rel=0.08)


def test_a_cell_in_the_precision_of_a_gpu_continues_on_the_very_same_curve(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(folder: str, stop: int = -1) -> list[tuple[int, float, float, float]]:
        with monkeypatch.context() as patch:
            cell = observed(tmp_path / folder, model, patch, stage=0, is_bf16=True, tune="full")
            cell.stop_before = stop
            cell.run()
        return curve(read_metrics(cell.run_dir, "cell"))

    undisturbed = run("undisturbed")
    with pytest.raises(Stopped):
        run("stopped", stop=5)
    assert run("stopped") == undisturbed


def test_gradients_of_micro_batches_are_added_up_in_fp32_and_small_steps_are_not_lost(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A step of 1e-5 of a weight is below the resolution of bf16: it must be kept in the optimiser's own copy."""
    cell: Any = observed(tmp_path, model, monkeypatch, stage=0, is_bf16=True, tune="full")
    assert cell.engine.get_data_types() == (torch.bfloat16, torch.float32)
    copies = [part for group in cell.engine.optimizer.param_groups for part in group["params"]]
    assert {copy.dtype for copy in copies} == {torch.float32}
