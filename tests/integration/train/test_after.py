"""Training in stages for real: an arm that starts from another's student, through the train stage, with tiny models."""

import re
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from distill.config.recipe import Recipe
from distill.core.manifest import Manifest
from distill.core.run_dir import RunDir
from distill.evaluate.models import evaluated_models
from distill.run.context import RunContext
from distill.train.attempts import read_attempts
from distill.train.stage import train_stage
from distill.train.worker.metrics import read_metrics
from tests.fixtures.paths import ROOT
from tests.fixtures.tiny_models import make_tiny_model
from tests.fixtures.train_run import write_mixes

STEPS = 12
TUNES = {
    "full": {"kind": "full", "learning_rate": 3e-3},
    "lora": {"kind": "lora", "rank": 4, "dropout": 0.1, "learning_rate": 1e-2},
}
STAGES = [
    {"name": "long", "weights": {"long": 1.0}, "after": "short"},
    {"name": "mix-long", "weights": {"long": 0.2, "short": 0.8}, "after": "merged", "students": ["lora"]},
    {"name": "short", "weights": {"short": 1.0}},
]


def staged_recipe(model: Path, *tunes: str, **changes: Any) -> Recipe:
    raw = {
        "name": "stages",
        "device": "cpu",
        "models": {"m": {"sources": [str(model)]}},
        "prompts": {"sources": [{"kind": "file", "path": "p.jsonl"}]},
        "teachers": [{"name": style, "model": "m", "style": style} for style in ("long", "short")],
        "mixes": STAGES,
        "merges": [{"name": "merged", "of": ["short", "long"]}],
        "students": [{"name": name, "model": "m", "tune": TUNES[name]} for name in tunes],
        "train": {
            "budget": "steps",
            "num_steps": STEPS,
            "batch_size": 8,
            "max_length": 512,
            "checkpoint_every_steps": 2,
            "max_parallel_cells": 1,
        },
        "evaluate": {"benchmarks": ["gsm8k"]},
    }
    return Recipe.model_validate(raw | changes)


class Run:
    """A run directory with mixes, whose train stage has run once."""

    def __init__(self, folder: Path, recipe: Recipe) -> None:
        self.folder, self.recipe, self.run_dir = folder, recipe, RunDir(str(folder / "run"))
        write_mixes(self.run_dir)
        self.manifest = self.train()

    def train(self) -> Manifest:
        with ExitStack() as resources:
            context = RunContext(self.recipe, self.folder, self.run_dir, Console(quiet=True), resources)
            manifest = train_stage(context)
            self.models = context.models
        self.run_dir.write_manifest(manifest, "train")
        return manifest

    def weights(self, cell: str, folder: str = "model") -> dict[str, torch.Tensor]:
        name = "model.safetensors" if folder == "model" else "adapter_model.safetensors"
        return load_file(self.run_dir.local_path("train", cell, folder, name))

    def losses(self, cell: str) -> list[float]:
        return [line.loss for line in read_metrics(self.run_dir, cell)]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("base") / "model")


@pytest.fixture(scope="module")
def staged(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    yield Run(tmp_path_factory.mktemp("staged"), staged_recipe(base, "full", "lora"))


def are_equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture(scope="module")
def by_hand(staged: Run, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """The pair of runs: one with the first arm alone, and one whose model is the first one's student."""
    alone = {"mixes": [STAGES[2]], "merges": []}
    first = Run(tmp_path_factory.mktemp("first"), staged_recipe(base, "full", **alone))
    model = first.run_dir.local_path("train", "full@short", "model")
    alone = {"mixes": [{**STAGES[0], "after": None}], "merges": []}
    yield Run(tmp_path_factory.mktemp("second"), staged_recipe(model, "full", **alone))


def test_two_stages_are_the_hand_run_pair_to_the_bit(staged: Run, by_hand: Run) -> None:
    assert staged.losses("full@long") == by_hand.losses("full@long")
    assert len(staged.losses("full@long")) == STEPS
    assert are_equal(staged.weights("full@long"), by_hand.weights("full@long"))
    assert not are_equal(staged.weights("full@long"), staged.weights("full@short"))


def test_an_adapter_is_trained_on_over_the_untouched_weights(staged: Run, base: Path) -> None:
    first, second = (staged.weights(f"lora@{arm}", "adapter") for arm in ("short", "long"))
    assert first.keys() == second.keys() and not are_equal(first, second)
    merged, untouched = staged.weights("lora@long"), load_file(base / "model.safetensors")
    name = "model.layers.0.self_attn.q_proj"
    low, high = (second[f"base_model.model.{name}.lora_{part}.weight"].float() for part in "AB")
    expected = untouched[f"{name}.weight"].float() + 32.0 / 4 * high @ low
    assert torch.allclose(merged[f"{name}.weight"].float(), expected, atol=1e-2)


def test_a_stage_starts_where_its_parent_ended(staged: Run, base: Path, tmp_path: Path) -> None:
    direct = staged_recipe(base, "lora", mixes=[{**STAGES[0], "after": None}], merges=[])
    untouched = Run(tmp_path, direct).losses("lora@long")
    assert staged.losses("lora@long")[0] < 0.8 * untouched[0], "the same rows in the same order, after a first stage"


def test_a_stage_after_a_merge_starts_from_merged_weights_and_is_scored_as_a_whole_model(staged: Run) -> None:
    details = staged.manifest.details["cells"]
    assert details["lora@mix-long"]["after"] == ["lora@merged"]
    assert details["lora@merged"]["merged_from"] == ["lora@short", "lora@long"]
    models = {one.name: one for one in evaluated_models(staged.recipe, staged.models, staged.run_dir)}
    assert models["lora@long"].adapter and not models["lora@mix-long"].adapter
    assert models["lora@mix-long"].source.endswith("lora@mix-long/model")
    config = staged.run_dir.local_path("train", "lora@mix-long", "adapter", "adapter_config.json").read_text()
    assert str(staged.run_dir.local_path("train", "lora@merged", "model")) in config, "the adapter names its base"


def test_a_cell_begins_when_its_parents_are_done(staged: Run) -> None:
    ends = {cell: read_attempts(staged.run_dir, cell)[-1] for cell in ("lora@short", "lora@long", "lora@mix-long")}
    assert (ends["lora@short"].ended_at or 0) <= ends["lora@long"].started_at
    assert (ends["lora@long"].ended_at or 0) <= ends["lora@mix-long"].started_at
    assert [one.outcome for one in ends.values()] == ["done"] * 3


def test_cards_name_the_way_to_the_weights(staged: Run) -> None:
    card = staged.run_dir.local_path("train", "lora@mix-long", "model", "README.md").read_text()
    assert "after lora@merged (merged), after lora@long, after lora@short." in card
    assert "What it was trained on: short" in card and "What it was trained on: mix-long" in card


def killed_when(pattern: str, folder: Path, command: list[str]) -> None:
    """Run the train stage, and end its driver and all of Ray at once when a file is there."""
    process = psutil.Popen(command, cwd=ROOT)
    try:
        deadline = time.monotonic() + 300
        while not list(folder.glob(pattern)):
            assert process.poll() is None and time.monotonic() < deadline, f"it ended before {pattern} was there"
            time.sleep(0.01)
    finally:
        victims = [process, *process.children(recursive=True)]
        for victim in victims:
            with suppress(psutil.NoSuchProcess):
                victim.kill()
        psutil.wait_procs(victims, timeout=30)


@pytest.mark.long
def test_a_run_that_is_killed_in_either_stage_ends_with_the_same_weights(
    staged: Run, base: Path, tmp_path: Path
) -> None:
    recipe = staged_recipe(base, "lora", mixes=[STAGES[0], STAGES[2]], merges=[])
    write_mixes(RunDir(str(tmp_path / "run")))
    (tmp_path / "recipe.json").write_text(recipe.model_dump_json())
    words = (str(tmp_path / "recipe.json"), str(tmp_path / "run"))
    command = [sys.executable, "-m", "tests.fixtures.train_only", *words]
    for cell in ("lora@short", "lora@long"):
        killed_when(f"run/train/{cell}/checkpoints/*/complete.json", tmp_path, command)
        assert not (tmp_path / "run/train" / cell / "manifest.json").exists()
    subprocess.run(command, cwd=ROOT, check=True, timeout=400)
    for cell in ("lora@short", "lora@long"):
        found = load_file(tmp_path / "run/train" / cell / "adapter" / "adapter_model.safetensors")
        assert are_equal(found, staged.weights(cell, "adapter")), cell
        log = (tmp_path / "run/train" / cell / "log-rank0.txt").read_text()
        assert max(map(int, re.findall(r"starts after step (\d+)", log))) > 0, f"{cell} resumed"


def test_nothing_is_trained_twice_and_a_changed_parent_has_its_children_trained_again(staged: Run) -> None:
    def written() -> dict[str, int]:
        folder = staged.run_dir.local_path("train")
        return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("*/manifest.json")}

    before = written()
    staged.train()
    assert written() == before
    write_mixes(staged.run_dir, num_long_rows=30)
    staged.train()
    changed = {name for name, at in written().items() if at != before[name]}
    assert changed == {"full@long", "full@merged", "lora@long", "lora@merged", "lora@mix-long"}
