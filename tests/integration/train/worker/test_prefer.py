"""Preferences on real DeepSpeed, without Ray: margins rise, a stopped cell goes on as it was, nothing is cut."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing

from distill.config.objectives import IMITATE, Prefer
from distill.config.teachers import ChatFormat
from distill.core.errors import FullDiskError, StageError
from distill.core.run_dir import RunDir
from distill.core.schema import Dropped, Example, Message
from distill.mix.fit_scorer import FitJob, FitScorer
from distill.models.chat_template import render_example
from distill.models.resolve import load_tokenizer
from distill.train.layout import Layout
from distill.train.worker import job as worker_job
from distill.train.worker.checkpoint import Checkpoints
from distill.train.worker.deepspeed_engine import build_engine, build_loss
from distill.train.worker.metrics import StepMetrics, read_metrics
from distill.train.worker.pairs import REFERENCE_FILE, ReferenceScore
from distill.train.worker.process import prepare_process
from distill.train.worker.rows import load_rows
from tests.integration.train.worker.test_resume import Attempt, Stopped, curve, job_for, lines_of

DPO, JOINT = Prefer(beta=0.5), Prefer(beta=0.5, eps=0.1, alpha=1.0, learning_rate=2e-3)
NUM_PAIRS = 14


def pair(number: int, more: int = 0) -> list[Example]:
    asked, right = Message("user", f"{number}?"), f"It is {number + 1}."
    answers = {"chosen": right, "rejected": f"It is {number + 3}." + " So." * (number % 5 + more)}
    return [
        Example(f"t{number}{side}", f"p{number}", "mix", "long", "long", [asked, Message("assistant", text)], side=side)
        for side, text in answers.items()
    ]


def write_pairs(run_dir: RunDir) -> None:
    rows = [row for number in range(NUM_PAIRS) for row in pair(number)]
    run_dir.write_rows(rows, Example, "mix", "part-0.parquet")


def started(run_dir: RunDir, model: Path, tune: str, objective: Any = DPO, **changes: Any) -> Attempt:
    """A cell with pairs that has not begun; the rows are written where there are none."""
    if not run_dir.shards("mix"):
        write_pairs(run_dir)
    job = dataclasses.replace(job_for(run_dir, model, tune), objective=objective, **changes)
    prepare_process(job)
    rows = load_rows(job, run_dir, load_tokenizer(str(model)))
    return Attempt(job, run_dir, build_engine(job, build_loss(job)), rows, padding=1)


@pytest.mark.parametrize("tune", ["full", "lora"])
def test_margins_rise_from_zero_and_a_cell_stopped_anywhere_continues_on_the_very_same_curve(
    tmp_path: Path, model: Path, tune: str
) -> None:
    known = lines_of(started(RunDir(str(tmp_path / "undisturbed")), model, tune))
    assert len(known) == 8, "4 passes over 14 pairs, 8 pairs a step"
    assert known[0].pairs["margin"] == pytest.approx(0.0, abs=1e-3)
    assert known[0].loss == pytest.approx(0.6931, abs=1e-3)
    assert known[-1].pairs["margin"] > 1.0 and known[-1].pairs["positive"] > 0.9
    assert known[-1].loss < known[0].loss and not known[0].pools
    for stop in (1, 4, 7):
        run_dir = RunDir(str(tmp_path / str(stop)))
        with pytest.raises(Stopped):
            lines_of(started(run_dir, model, tune), stop=stop)
        again = lines_of(started(run_dir, model, tune))
        assert curve(again) == curve(known) and [line.pairs for line in again] == [line.pairs for line in known]


def test_the_reference_is_computed_once_and_is_what_the_fit_scorer_finds(tmp_path: Path, model: Path) -> None:
    run_dir = RunDir(str(tmp_path))
    with pytest.raises(Stopped):
        lines_of(started(run_dir, model, "full"), stop=1)
    parts = "train", "cell", REFERENCE_FILE
    stored = run_dir.read_table(*parts, row_type=ReferenceScore).to_pylist()
    assert len(stored) == 2 * NUM_PAIRS
    scorer = FitScorer(FitJob(str(model), ChatFormat(), 200, "cpu"))
    examples = {row.trace_id: row for number in range(NUM_PAIRS) for row in pair(number)}
    for row in stored[:6]:
        turns = [dataclasses.asdict(turn) for turn in examples[row["trace_id"]].messages]
        rendered = render_example(scorer.tokenizer, turns, 200)
        assert not isinstance(rendered, str)
        (fit,) = scorer.score([row["trace_id"]], [rendered])
        assert (row["num_tokens"], row["nll"]) == (
            fit.num_tokens,
            pytest.approx(fit.mean_nll * fit.num_tokens, rel=2e-2),
        )
    written = run_dir.local_path(*parts).stat().st_mtime_ns
    cell = started(run_dir, model, "full")
    lines_of(cell)
    assert cell.reference == [row["nll"] for row in stored]
    assert run_dir.local_path(*parts).stat().st_mtime_ns == written


def break_gradient(cell: Attempt, step: int, patch: pytest.MonkeyPatch) -> None:
    """Have a step's gradient be no number, though its loss is one."""
    update = cell._update

    def broken(rate: float, number: int, batch: Sequence[int]) -> float:
        if number == step:
            next(one.grad for one in cell.engine.module.parameters() if one.grad is not None).fill_(float("nan"))
        return update(rate, number, batch)

    patch.setattr(cell, "_update", broken)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_what_is_no_number_stops_the_pairs_names_rows_and_remedy_and_keeps_the_last_checkpoint(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    known = lines_of(started(RunDir(str(tmp_path / "undisturbed")), model, "full"))
    run_dir = RunDir(str(tmp_path / "broken"))
    broken = started(run_dir, model, "full")
    if what == "gradient":
        break_gradient(broken, 4, monkeypatch)
    else:
        broken.break_before = 4
    said = r"cell: the loss or its gradient is nan at step 5 of 8 \(rows t\d+chosen, t\d+rejected, .*"
    with pytest.raises(StageError, match=rf"{said}last checkpoint is kept\. Lower students\.tune\.learning_rate"):
        broken.run()
    assert Checkpoints(run_dir, "cell", "key").newest_intact() == 3
    assert [line.step for line in read_metrics(run_dir, "cell")] == [1, 2, 3, 4]
    assert curve(lines_of(started(run_dir, model, "full"))) == curve(known)


def test_a_disk_that_is_full_while_the_reference_is_written_is_said_and_leaves_no_part_of_it(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir, parts = RunDir(str(tmp_path)), ("train", "cell", REFERENCE_FILE)
    write = run_dir.fs.pipe_file

    def full(path: str, data: bytes) -> None:
        if REFERENCE_FILE in path:
            write(path, data[: len(data) // 2])
            raise OSError(28, "No space left on device")
        write(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(run_dir.fs, "pipe_file", full)
        with pytest.raises(FullDiskError, match=f"{REFERENCE_FILE} could not be written -> make room there"):
            started(run_dir, model, "full").run()
    assert not list(run_dir.local_path("train").rglob(f"{REFERENCE_FILE}*"))
    lines = lines_of(started(run_dir, model, "full"))
    assert len(lines) == 8 and lines[0].pairs["margin"] == pytest.approx(0.0, abs=1e-3)
    assert run_dir.exists(*parts)


def in_fp32() -> bool:
    """In place of `has_fast_bf16`: rounding to bf16 would hide what is compared, after a few steps."""
    return False


def numbers(lines: list[StepMetrics]) -> list[float]:
    return [value for line in lines for value in (line.loss, line.pairs["margin"], line.grad_norm)]


def test_how_pairs_are_packed_changes_neither_margins_nor_steps(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker_job, "has_fast_bf16", in_fp32)
    curves = []
    for micro in (1, 8):
        layout = Layout(zero_stage=0, micro_batch_size=micro)
        cell = started(RunDir(str(tmp_path / str(micro))), model, "full", layout=layout)
        assert cell.engine.module.packs
        curves.append(numbers(lines_of(cell)))
    assert curves[0] == pytest.approx(curves[1], rel=1e-2, abs=1e-4)


def work(worker: int, folder: str, model: str) -> None:
    """One of two workers of a cell, in a process of its own."""
    os.environ["LOCAL_RANK"] = str(worker)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=worker, world_size=2)
    worker_job.has_fast_bf16 = in_fp32
    cell = started(RunDir(folder), Path(model), "full", num_workers=2, layout=Layout(zero_stage=1, micro_batch_size=2))
    cell.run()
    dist.destroy_process_group()


def test_two_workers_share_the_pairs_of_a_step_and_find_the_margins_of_one(
    tmp_path: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both rows of a pair may be on different workers."""
    monkeypatch.setattr(worker_job, "has_fast_bf16", in_fp32)
    alone = lines_of(started(RunDir(str(tmp_path / "alone")), model, "full"))
    folder = tmp_path / "two"
    folder.mkdir()
    write_pairs(RunDir(str(folder)))
    torch.multiprocessing.spawn(work, (str(folder), str(model)), nprocs=2)
    together = read_metrics(RunDir(str(folder)), "cell")
    assert len(together) == len(alone)
    assert numbers(together) == pytest.approx(numbers(alone), rel=1e-2, abs=1e-4)


def test_joint_training_keeps_the_chosen_rows_likely_at_its_own_learning_rate(tmp_path: Path, model: Path) -> None:
    plain = lines_of(started(RunDir(str(tmp_path / "dpo")), model, "full"))
    joint = lines_of(started(RunDir(str(tmp_path / "joint")), model, "full", JOINT))
    assert max(line.lr for line in joint) == pytest.approx(2e-3) != max(line.lr for line in plain)
    assert joint[-1].pairs["chosen_nll"] < min(joint[0].pairs["chosen_nll"], plain[-1].pairs["chosen_nll"])
    assert joint[-1].pairs["margin"] > 0.5


def test_a_pair_that_does_not_fit_is_dropped_whole_and_counted(tmp_path: Path, model: Path) -> None:
    run_dir = RunDir(str(tmp_path))
    long = [*pair(90, more=60), *pair(91)]
    rows = [row for number in range(4) for row in pair(number)] + long
    run_dir.write_rows(rows, Example, "mix", "part-0.parquet")
    cell = started(run_dir, model, "full")
    assert cell.rows.reasons == {"too_long": 1, "other_side_too_long": 1}
    assert [row.trace_id for row in cell.rows.kept][-2:] == ["t91chosen", "t91rejected"]
    dropped: list[Dropped] = cell.rows.drops
    assert {one.reason for one in dropped} == {"too_long", "other_side_too_long"}


def test_rows_and_objective_that_do_not_go_together_are_refused(tmp_path: Path, model: Path) -> None:
    run_dir = RunDir(str(tmp_path))
    with pytest.raises(StageError, match=r"its rows and its objective \(prefer\) do not go together"):
        job = dataclasses.replace(job_for(run_dir, model, "full"), objective=DPO)
        load_rows(job, run_dir, load_tokenizer(str(model)))
    run_dir.write_rows(pair(1), Example, "mix", "part-0.parquet")
    with pytest.raises(StageError, match=r"objective \(imitate\)"):
        load_rows(dataclasses.replace(job, objective=IMITATE), run_dir, load_tokenizer(str(model)))


def test_an_adapter_has_no_dropout_while_it_learns_preferences(tmp_path: Path, model: Path) -> None:
    cell = started(RunDir(str(tmp_path)), model, "lora")
    rates = {module.p for module in cell.engine.module.modules() if isinstance(module, torch.nn.Dropout)}
    assert rates <= {0.0}, "the tune of this test asks for 0.1"
