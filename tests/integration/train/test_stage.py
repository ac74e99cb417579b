"""A fleet for real: two students x three mixes through the train stage, one cell killed mid-way, and its report."""

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from distill.cli.main import main
from distill.core.errors import ConfigError
from distill.core.run_dir import RunDir
from distill.models.folder import count_parameters
from distill.models.shape import read_settings, shape_of
from distill.report.build import build_report
from distill.report.write import write_report
from distill.run.context import RunContext
from distill.train.attempts import read_attempts
from distill.train.stage import train_stage
from distill.train.worker.metrics import read_metrics
from tests.fixtures.train_run import NUM_ROWS, NUM_STEPS, NUM_TOKENS, train_recipe, write_mixes

KILLED = "wide@long"


def kill_once_past_a_checkpoint(run_dir: RunDir) -> int:
    """End the worker of one cell; its process id."""
    folder = run_dir.local_path("train", KILLED)
    deadline = time.monotonic() + 480
    while time.monotonic() < deadline:
        if list(folder.glob("checkpoints/*/complete.json")):
            pid = int(re.findall(r"pid (\d+) trains", (folder / "log-rank0.txt").read_text())[-1])
            os.kill(pid, signal.SIGKILL)
            return pid
        time.sleep(0.005)
    raise AssertionError(f"{KILLED} wrote no checkpoint within eight minutes")


class Trained:
    """A run directory whose train stage has run while one of its cells was killed."""

    def __init__(self, folder: Path) -> None:
        self.recipe, self.run_dir = train_recipe(folder), RunDir(str(folder / "run"))
        write_mixes(self.run_dir)
        with ExitStack() as resources, ThreadPoolExecutor() as pool:
            current = RunContext(self.recipe, folder, self.run_dir, Console(quiet=True), resources)
            killed = pool.submit(kill_once_past_a_checkpoint, self.run_dir)
            self.manifest = train_stage(current)
            self.killed_pid = killed.result()
            self.run_dir.write_manifest(self.manifest, "train")

    @property
    def cells(self) -> list[str]:
        return [f"{student.name}@{mix.name}" for student in self.recipe.students for mix in self.recipe.mixes]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    yield Trained(tmp_path_factory.mktemp("fleet"))


def test_the_killed_cell_resumes_and_the_others_are_not_affected(trained: Trained) -> None:
    attempts = {cell: read_attempts(trained.run_dir, cell) for cell in trained.cells}
    assert [one.outcome for one in attempts[KILLED]] == ["lost", "done"]
    assert attempts[KILLED][0].pid == trained.killed_pid
    assert 0 < attempts[KILLED][1].first_step < NUM_STEPS
    assert attempts[KILLED][0].ended_at is not None
    others = [one.outcome for cell, of_cell in attempts.items() if cell != KILLED for one in of_cell]
    assert others == ["done"] * 5


def test_several_cells_are_trained_at_once(trained: Trained) -> None:
    spans = [
        (one.started_at, one.ended_at or 0.0) for cell in trained.cells for one in read_attempts(trained.run_dir, cell)
    ]
    assert any(a != b and a[0] < b[0] < a[1] for a in spans for b in spans)


def test_every_arm_takes_the_same_steps_and_tokens_though_its_rows_differ(trained: Trained) -> None:
    details = {cell: trained.manifest.details["cells"][cell] for cell in trained.cells}
    assert {cell["steps"] for cell in details.values()} == {NUM_STEPS}
    tokens = [cell["supervised_tokens"] for cell in details.values()]
    assert min(tokens) >= NUM_TOKENS
    assert max(tokens) < 1.02 * NUM_TOKENS
    assert all(cell["flops"] > 0 and cell["mfu"] is None for cell in details.values())


@pytest.mark.parametrize("student", ["wide", "deep"])
def test_a_merged_arm_costs_no_step_and_lies_between_its_parents(trained: Trained, student: str) -> None:
    details = trained.manifest.details["cells"][f"{student}@merged"]
    assert details["steps"] == 0 and details["merged_from"] == [f"{student}@short", f"{student}@long"]
    base = Path(trained.recipe.models[student].sources[0])
    short, long, merged = (
        load_file(trained.run_dir.local_path("train", f"{student}@{arm}", "model", "model.safetensors"))
        for arm in ("short", "long", "merged")
    )
    name = "model.layers.0.self_attn.q_proj.weight"
    untouched = load_file(base / "model.safetensors")[name]
    assert not torch.equal(merged[name], untouched)
    low, high = torch.stack([untouched, short[name], long[name]]).aminmax(dim=0)
    assert ((merged[name] >= low - 1e-6) & (merged[name] <= high + 1e-6)).all()


def test_every_student_has_a_card_with_what_it_was_taught(trained: Trained) -> None:
    card = trained.run_dir.local_path("train", "deep@mix-long", "adapter", "README.md").read_text()
    assert "# deep@mix-long" in card and f"{NUM_STEPS} optimiser steps" in card and f"{NUM_ROWS} rows" in card
    merged = trained.run_dir.local_path("train", "wide@merged", "model")
    assert "ties, density 0.5: 1 of wide@short, 1 of wide@long" in (merged / "README.md").read_text()
    assert set(json.loads((merged / "mix.json").read_text())) == {"short", "long"}
    for folder in (merged, trained.run_dir.local_path("train", "deep@mix-long", "adapter")):
        lines = (folder / "README.md").read_text().partition("## Its files")[2].split("```")[1].strip()
        (folder / "SHA256SUMS").write_text(f"{lines}\n")
        subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=folder, check=True, capture_output=True)


def test_metrics_hold_speed_memory_and_the_loss_of_each_pool(trained: Trained) -> None:
    lines = read_metrics(trained.run_dir, "wide@mix-long")
    assert [line.step for line in lines] == list(range(1, NUM_STEPS + 1))
    assert all(line.tokens_per_s > 0 and line.mfu is None and line.grad_norm > 0 for line in lines)
    assert all(0.1 < (line.memory_gib or 0) < 8 for line in lines)
    assert {pool for line in lines for pool in line.pools} == {"long", "short"}
    assert lines[-1].loss < lines[0].loss


def test_the_report_shows_the_timeline_and_what_each_arm_cost(trained: Trained) -> None:
    report = build_report(trained.recipe, trained.run_dir)
    assert len(report.attempts()) == 7
    page = Path(write_report(report, trained.run_dir)).read_text()
    assert 'aria-label="When each cell was trained"' in page
    assert page.count("× 10^") >= 6


def test_the_memory_estimate_is_no_less_than_what_was_used(trained: Trained) -> None:
    for cell in trained.cells:
        details = trained.manifest.details["cells"][cell]
        assert details["resources"]["zero_stage"] == 0
        assert details["peak_rss_gib"] <= details["resources"]["memory_gib"]


def test_a_shape_from_the_config_alone_counts_every_weight(trained: Trained) -> None:
    folder = Path(trained.recipe.models["wide"].sources[0])
    assert shape_of(read_settings(folder)).num_parameters == count_parameters(folder)


def test_arms_with_unequal_steps_are_refused_before_anything_is_trained(trained: Trained, tmp_path: Path) -> None:
    run_dir = RunDir(str(tmp_path))
    write_mixes(run_dir, num_long_rows=2 * NUM_ROWS)
    unequal = trained.recipe.model_copy(update={"train": trained.recipe.train.model_copy(update={"budget": "epochs"})})
    with ExitStack() as resources, pytest.raises(ConfigError, match="different numbers of optimiser steps"):
        train_stage(RunContext(unequal, tmp_path, run_dir, Console(quiet=True), resources))
    assert not run_dir.fs.exists(run_dir.path("train"))


def plan_quickstart(trained: Trained, folder: Path, *words: str) -> int:
    model = trained.recipe.models["wide"].sources[0]
    models = [f"models.{name}.sources=['{model}']" for name in ("smollm2-135m", "smollm2-26-layers")]
    layers = "models.smollm2-26-layers.keep_layers=2"
    return main(["plan", "quickstart", "--run-dir", str(folder / "none"), *models, layers, *words])


def test_a_plan_lists_every_cell_before_there_is_a_run(
    trained: Trained, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert plan_quickstart(trained, tmp_path, "--cluster", "1x2cpu") == 0
    shown = capfd.readouterr().out
    assert "machines: 2 CPU + 8.0 GiB" in shown
    rows = [line.split() for line in shown.splitlines() if "@" in line]
    assert len(rows) == 6
    assert rows[0][1].endswith("@long") or rows[0][1].endswith("@mix-long")
    assert "≤ 128" in shown and "≤ 64" in shown
    assert not (tmp_path / "none").exists()


def test_a_plan_refuses_what_can_never_be_placed_with_exit_code_2(
    trained: Trained, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ("device=gpu", "students.smol-135m.num_workers=3", "train.batch_size=12", "--cluster", "1x2x80")
    assert plan_quickstart(trained, tmp_path, *words) == 2
    errors = capfd.readouterr().err
    assert "students[smol-135m]: needs 3 workers of 1 CPU + 1 GPU at once" in errors
    assert "-> set num_workers to at most 2" in errors
    assert "Traceback" not in errors


def test_finished_cells_are_not_planned_again(trained: Trained, tmp_path: Path) -> None:
    with ExitStack() as resources:
        current = RunContext(trained.recipe, tmp_path, trained.run_dir, Console(quiet=True), resources)
        assert train_stage(current).details["cells"] == trained.manifest.details["cells"]
        assert "session" not in vars(current), "no Ray is started for nothing"
