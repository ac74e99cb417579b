"""Cells trained for real: Ray Train, DeepSpeed on CPU, models of two layers."""

import os
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from distill.config.students import FullTune, LoraTune, StudentConfig
from distill.config.train import TrainConfig
from distill.core.errors import StageError
from distill.core.manifest import Manifest
from distill.core.run_dir import RunDir
from distill.core.schema import Example, Message
from distill.train.cell_queue import Progress, train_all
from distill.train.cells import Cell, CellWork
from distill.train.train_cell import train_cell
from distill.train.worker.metrics import StepMetrics, read_metrics
from tests.fixtures.tiny_models import make_tiny_model

TRAIN = TrainConfig(num_epochs=8, batch_size=8, max_length=200, checkpoint_every_steps=4, max_failures=0)
NUM_ROWS = 30
NUM_STEPS = 32
LORA = LoraTune(rank=4, dropout=0.1, learning_rate=2e-2)
FULL = FullTune(learning_rate=3e-3)


def examples() -> list[Example]:
    rows = []
    for number in range(NUM_ROWS):
        answer = f"It is {number + 1}." + " I add one." * (number % 5)
        turns = [Message("user", f"What comes after {number}?"), Message("assistant", answer)]
        rows.append(Example(f"t{number}", f"p{number}", "mix", ("long", "short")[number % 2], "long", turns))
    too_long = [Message("user", "?"), Message("assistant", "so " * 200)]
    return [*rows, Example("t-long", "p-long", "mix", "long", "long", too_long)]


def work(run_dir: RunDir, name: str, student: StudentConfig, model: Path) -> CellWork:
    cell = Cell(f"{name}@mix", student.model_copy(update={"name": name}), "mix", 0)
    return CellWork(cell, str(model), tuple(run_dir.shards("mix", "mix")), f"key of {name}")


def student(tune: LoraTune | FullTune, **changes: Any) -> StudentConfig:
    return StudentConfig(name="s", model="m", tune=tune, micro_batch_size=4, **changes)


def make_broken_model(path: Path) -> Path:
    from transformers import AutoModelForCausalLM

    make_tiny_model(path)
    model = AutoModelForCausalLM.from_pretrained(path)
    model.model.norm.weight.data.fill_(float("nan"))
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    run_dir = RunDir(str(tmp_path_factory.mktemp("run")))
    run_dir.write_rows(examples(), Example, "mix", "mix", "part-0.parquet")
    return run_dir


class Fleet:
    """What became of one fleet: full weights, an adapter, two workers with ZeRO 3, and a model that is broken."""

    def __init__(self, run_dir: RunDir, model: Path, broken: Path) -> None:
        self.run_dir, self.model = run_dir, model
        self.progress: list[Progress] = []
        self.works = [
            work(run_dir, "full", student(FULL, zero_stage=0), model),
            work(run_dir, "lora", student(LORA), model),
            work(run_dir, "pair", student(FULL, num_workers=2, zero_stage=3), model),
            work(run_dir, "broken", student(FULL), broken),
        ]
        try:
            train_all(self.works, train=TRAIN, run_dir=run_dir, device="cpu", report_progress=self.progress.append)
            self.error = ""
        except StageError as error:
            self.error = str(error)

    def manifest(self, name: str) -> Manifest:
        manifest = self.run_dir.read_manifest("train", f"{name}@mix")
        assert manifest is not None
        return manifest

    def losses(self, name: str) -> list[float]:
        return [line.loss for line in self.metrics(name)]

    def metrics(self, name: str) -> list[StepMetrics]:
        return read_metrics(self.run_dir, f"{name}@mix")


@pytest.fixture(scope="module")
def fleet(cluster: None, run_dir: RunDir, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Fleet:
    return Fleet(run_dir, model, make_broken_model(tmp_path_factory.mktemp("broken")))


@pytest.mark.parametrize("name", ["full", "lora", "pair"])
def test_the_loss_falls_and_every_row_is_accounted_for(fleet: Fleet, name: str) -> None:
    losses, manifest = fleet.losses(name), fleet.manifest(name)
    assert len(losses) == NUM_STEPS == manifest.details["steps"]
    assert losses[-1] < 0.7 * losses[0]
    assert (manifest.rows_in, manifest.rows_out, dict(manifest.drops)) == (NUM_ROWS + 1, NUM_ROWS, {"too_long": 1})
    assert set(fleet.metrics(name)[-1].pools) == {"long", "short"}


def test_two_workers_take_the_same_steps_as_one(fleet: Fleet) -> None:
    pair, full = fleet.losses("pair"), fleet.losses("full")
    assert pair[:4] == pytest.approx(full[:4], rel=2e-3)
    # Other rows share a pass, so bf16 products round otherwise, which adds up over the steps.
    assert pair == pytest.approx(full, abs=0.05)


@pytest.mark.parametrize("name", ["full", "lora", "pair"])
def test_the_saved_student_loads_anywhere_and_differs_from_its_base(fleet: Fleet, name: str) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = fleet.run_dir.local_path("train", f"{name}@mix", "model")
    trained, base = (AutoModelForCausalLM.from_pretrained(path).state_dict() for path in (folder, fleet.model))
    assert {key: value.shape for key, value in trained.items()} == {key: value.shape for key, value in base.items()}
    projection = "model.layers.0.self_attn.q_proj.weight"
    assert not torch.equal(trained[projection], base[projection])
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template
    assert AutoModelForCausalLM.from_pretrained(folder).generation_config.eos_token_id == [tokenizer.eos_token_id]
    assert (folder.parent / "adapter" / "adapter_model.safetensors").exists() == (name == "lora")
    assert not (folder.parent / "checkpoints").exists()


def test_one_broken_cell_is_named_with_step_rows_and_log_and_leaves_the_others_alone(fleet: Fleet) -> None:
    assert fleet.error.startswith("1 of 4 cells failed")
    assert re.search(r"broken@mix: the loss or its gradient is nan at step 1 of 32 \(rows t\d+, ", fleet.error)
    log = Path(fleet.error.rpartition("log: ")[2])
    assert log.is_file()
    assert not fleet.run_dir.is_complete("key of broken", "train", "broken@mix")


def test_progress_names_each_phase(fleet: Fleet) -> None:
    phases = {cell: [p.phase for p in fleet.progress if p.cell == cell] for cell in ("full@mix", "broken@mix")}
    assert phases["full@mix"][0] == "starting"
    assert phases["full@mix"][-1] == "done"
    assert phases["broken@mix"][-1] == "failed"
    assert fleet.progress[-1].num_steps in (0, NUM_STEPS)


def kill_worker(run_dir: RunDir, name: str) -> int:
    """End a cell's worker once it is past its first checkpoint; the step of that checkpoint."""
    folder = run_dir.local_path("train", f"{name}@mix")
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        if list(folder.glob("checkpoints/*/complete.json")):
            pids = re.findall(r"pid (\d+) trains", (folder / "log-rank0.txt").read_text())
            os.kill(int(pids[-1]), signal.SIGKILL)
            return min(int(path.parent.name[-8:]) for path in folder.glob("checkpoints/*/complete.json"))
        time.sleep(0.005)
    raise AssertionError(f"{name} wrote no checkpoint within two minutes")


def killed_and_restarted_by_ray(run_dir: RunDir, item: CellWork) -> Manifest:
    with ThreadPoolExecutor() as pool:
        killed = pool.submit(kill_worker, run_dir, "full")
        train = TRAIN.model_copy(update={"max_failures": 1})
        manifest = train_cell(item, train=train, run_dir=run_dir, device="cpu")
        assert killed.result() < NUM_STEPS
    return manifest


def killed_and_started_again(run_dir: RunDir, item: CellWork) -> Manifest:
    with ThreadPoolExecutor() as pool:
        killed = pool.submit(kill_worker, run_dir, "lora")
        with pytest.raises(StageError, match=r"lora@mix: .*log: "):
            train_cell(item, train=TRAIN, run_dir=run_dir, device="cpu")
        assert killed.result() < NUM_STEPS
    return train_cell(item, train=TRAIN, run_dir=run_dir, device="cpu")


def test_a_killed_cell_resumes_on_the_loss_curve_of_an_undisturbed_one(fleet: Fleet, tmp_path: Path) -> None:
    other = RunDir(str(tmp_path))
    other.write_rows(examples(), Example, "mix", "mix", "part-0.parquet")
    full, lora = (replace(item, shards=tuple(other.shards("mix", "mix"))) for item in fleet.works[:2])
    with ThreadPoolExecutor() as pool:
        by_ray = pool.submit(killed_and_restarted_by_ray, other, full)
        by_hand = pool.submit(killed_and_started_again, other, lora)
        assert by_ray.result().rows_out == by_hand.result().rows_out == NUM_ROWS
    for name in ("full", "lora"):
        lines = read_metrics(other, f"{name}@mix")
        assert [line.step for line in lines] == list(range(1, NUM_STEPS + 1))
        assert [line.loss for line in lines] == pytest.approx(fleet.losses(name), rel=1e-4)
        log = other.local_path("train", f"{name}@mix", "log-rank0.txt").read_text()
        assert [int(step) > 0 for step in re.findall(r"starts after step (\d+)", log)] == [False, True]
