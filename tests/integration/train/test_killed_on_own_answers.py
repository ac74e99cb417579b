"""Killed while students learn from their own answers, for real: a training process, and twice the driver with two cells
under way. The same command goes on each time, and asks, scores and steps nothing again that was finished."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from distill.config.recipe import Recipe
from distill.core.run_dir import RunDir, Training
from distill.train.attempts import read_attempts
from distill.train.rollouts.store import FIGURES, ROLLOUTS, scores_file
from distill.train.worker.metrics import read_metrics
from tests.fixtures.held_run import ASKED, ask_to_hold, held_at
from tests.fixtures.killed_run import is_named, remember, session
from tests.fixtures.tiny_models import make_tiny_model, teach_one_answer
from tests.integration.train import test_refine
from tests.integration.train.test_refine import write_arms

pytestmark = pytest.mark.long  # the command three times, with six starts of a training process

RL, REFINE = "s@rl", "s@refine"
WORKING = ("ray::RayTrainWorker", "ray::score_held")
"""How the names of processes begin that train or score."""
ROUNDS, SIZE, REFINE_STEPS = 5, 2, 8


def recipe_of(student: Path, teacher: Path) -> Recipe:
    """Imitation and refinement after it, and beside them rewards."""
    raw = test_refine.recipe_of(student, teacher).model_dump(mode="json")
    sft, refine = raw["mixes"]
    sft["num_steps"], refine["num_steps"] = raw["train"]["num_steps"], REFINE_STEPS
    objective = {"kind": "reinforce", "samples": 4, "steps_per_round": SIZE, "max_tokens": 40, "learning_rate": 5e-3}
    raw["mixes"].append({"name": "rl", "weights": {"long": 1.0}, "objective": objective})
    raw["train"] |= {"num_steps": ROUNDS * SIZE, "checkpoint_every_steps": 2, "max_parallel_cells": 2}
    return Recipe.model_validate(raw)


class Killed:
    """A run that was killed and begun again until it was done."""

    def __init__(self, folder: Path) -> None:
        teacher = make_tiny_model(folder / "teacher")
        teach_one_answer(teacher)
        self.recipe, self.run_dir = folder / "recipe.json", RunDir(str(folder / "run"))
        self.recipe.write_text(recipe_of(make_tiny_model(folder / "student", seed=1), teacher).model_dump_json())
        write_arms(self.run_dir, ("sft", "refine", "rl"))
        self.kept: list[dict[str, int]] = []
        self.end_driver_at(f"{RL}-step-5", f"{REFINE}-score-long", first=f"{RL}-write-1")
        self.end_driver_at(f"{RL}-write-3", f"{REFINE}-step-5")
        with session(self.recipe, self.run_dir.local_path(), "tests.fixtures.held_run") as driver:
            assert driver.wait(timeout=300) == 0
        self.kept.append(self.written())

    def end_driver_at(self, *places: str, first: str = "") -> None:
        """Kill the driver when processes are at these places. `first`: where a process is killed before that."""
        ask_to_hold(self.run_dir, *places, *filter(None, [first]))
        with session(self.recipe, self.run_dir.local_path(), "tests.fixtures.held_run") as driver:
            if first:
                psutil.Process(held_at(self.run_dir, first, driver)).kill()
            for place in places:
                held_at(self.run_dir, place, driver)
            working = [one for one in remember(driver) if any(is_named(one, name) for name in WORKING)]
            driver.kill()
            _, left = psutil.wait_procs(working, timeout=60)
            assert working and not left, "they end with their driver"
        self.kept.append(self.written())

    def written(self) -> dict[str, int]:
        """File of own answers -> when it was written, ns."""
        folder = self.run_dir.local_path("train")
        files = [*folder.glob("*/rounds/*"), *folder.glob(f"{REFINE}/rollouts.*"), *folder.glob(f"{REFINE}/scores-*")]
        return {str(file.relative_to(folder)): file.stat().st_mtime_ns for file in files}

    def started_after(self, cell: str) -> list[int]:
        """Of every attempt at a cell the steps that were done before."""
        log = self.run_dir.local_path(*Training(cell).log(0)).read_text()
        return [int(step) for step in re.findall(r"starts after step (\d+)", log)]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killed]:
    yield Killed(tmp_path_factory.mktemp("killed"))


def names_of(number: int) -> set[str]:
    parts = [Training(RL).round(number, ending) for ending in ("parquet", "json")]
    return {"/".join(one[1:]) for one in parts}


def test_rounds_that_were_written_are_not_asked_again_and_those_under_way_are(killed: Killed) -> None:
    asked = killed.run_dir.local_path(ASKED).read_text().split()
    assert asked == ["0", "1", "1", "2", "3", "3", "4"], "killed in the second, after the third, in the fourth"
    first, second, last = ({name: at for name, at in kept.items() if name.startswith(RL)} for kept in killed.kept)
    assert first.keys() == names_of(0) | names_of(1) | names_of(2) == second.keys()
    assert last.keys() == first.keys() | names_of(3) | names_of(4)
    assert first == second and first.items() <= last.items()


def test_each_cell_goes_on_at_its_checkpoint_and_takes_as_many_steps(killed: Killed) -> None:
    assert killed.started_after(RL) == [0, SIZE, 2 * SIZE, 3 * SIZE]
    assert killed.started_after(REFINE) == [0, 4]
    assert [one.outcome for one in read_attempts(killed.run_dir, RL)] == ["lost", "lost", "lost", "done"]
    for cell, steps in ((RL, ROUNDS * SIZE), (REFINE, REFINE_STEPS)):
        assert [line.step for line in read_metrics(killed.run_dir, cell)] == list(range(1, steps + 1))
        manifest = killed.run_dir.read_manifest(*Training(cell).folder)
        assert manifest is not None and manifest.details["steps"] == steps
        assert killed.run_dir.exists(*Training(cell).adapter)


def test_what_was_written_and_scored_is_not_done_again(killed: Killed) -> None:
    def of_refine(kept: dict[str, Any]) -> dict[str, int]:
        return {name.partition("/")[2]: at for name, at in kept.items() if name.startswith(REFINE)}

    first, second, last = map(of_refine, killed.kept)
    assert first.keys() == {ROLLOUTS, scores_file("@student")}, "killed while the teacher scored"
    assert second.keys() == first.keys() | {scores_file("long"), FIGURES}
    assert first.items() <= second.items() and second == last
