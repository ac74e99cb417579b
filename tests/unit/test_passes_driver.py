"""The driver runs the stages once for each pass, goes on where it stopped, and repeats only a pass that has changed."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from distill import pipeline
from distill.config.load import parse_recipe
from distill.core.errors import StageError
from distill.core.manifest import Manifest
from distill.core.run_dir import RunDir, StageName, Training, finished_pass
from distill.run.context import RunContext
from distill.run.stage_keys import StageState, stage_states
from distill.stages import Stage
from tests.fixtures.recipes import GOOD
from tests.unit.config.test_passes import MIXES, OWN, with_students

TWO_PASSES = {"teachers": [OWN, *GOOD["teachers"]], "mixes": MIXES[:2]}


def unmeasured(stage: Stage, context: RunContext, state: StageState) -> Manifest:
    """A stage's manifest with its key, without what the driver measures."""
    return dataclasses.replace(stage.run(context), key=state.key, details={"config": state.config})


class Driver:
    """A driver whose stages only say what they were run for."""

    def __init__(self, run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
        self.run_dir, self.calls = run_dir, list[tuple[str, tuple[str, ...]]]()
        self.keys = {"s@sft": "first"}
        self.fails = ""
        """The stage that fails."""
        monkeypatch.setattr(pipeline, "STAGES", tuple(self.stage(one.name, one.reads) for one in pipeline.STAGES))
        monkeypatch.setattr(pipeline, "run_stage", unmeasured)
        monkeypatch.setattr(pipeline, "refuse_unready", lambda *_: None)
        monkeypatch.setattr(pipeline, "refuse_templates", lambda *_: None)
        monkeypatch.setattr(pipeline, "cell_keys", lambda *_: self.keys)
        monkeypatch.setattr(RunContext, "models", {})

    def stage(self, name: StageName, reads: tuple[StageName, ...]) -> Stage:
        def run(context: RunContext) -> Manifest:
            self.calls.append((name, tuple(mix.name for mix in context.recipe.mixes)))
            if name == StageName.TRAIN:
                self.run_dir.write_manifest(Manifest(name, "first"), *Training("s@sft").folder)
            if name == self.fails:
                raise StageError("stopped")
            return Manifest(name, "")

        return Stage(name, run, reads, ())

    def run(self, until: StageName = StageName.TRAIN, **changes: Any) -> list[tuple[str, tuple[str, ...]]]:
        """The stages that ran, with the arms of each."""
        self.calls.clear()
        recipe = parse_recipe(with_students(**{**TWO_PASSES, **changes}))
        states = stage_states(recipe, Path(), self.run_dir)
        pipeline.run(recipe, Path(), self.run_dir, states, Console(quiet=True), until=until)
        return list(self.calls)


@pytest.fixture
def driver(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> Driver:
    return Driver(run_dir, monkeypatch)


FIRST, BOTH = ("sft",), ("again", "sft")
PASS = ("generate", "verify", "search", "mix", "train")


def test_the_student_is_trained_before_it_writes_and_nothing_is_done_again(driver: Driver) -> None:
    assert driver.run() == [("prompts", FIRST), *((one, FIRST) for one in PASS), *((one, BOTH) for one in PASS)]
    assert driver.run() == []
    done = driver.run_dir.read_manifest(*finished_pass(1))
    assert done is not None and done.details["cells"] == {"s@sft": "first"}


def test_a_run_goes_on_in_its_later_pass_and_a_change_there_leaves_the_earlier_one(driver: Driver) -> None:
    driver.run()
    driver.run_dir.remove("mix", "manifest.json")
    assert driver.run() == [("mix", BOTH)], "its key says that what follows is still there"
    other = [{**MIXES[0], "num_prompts": 3}, MIXES[1]]
    assert driver.run(mixes=other) == [("mix", BOTH), ("train", BOTH)]


def test_what_changes_the_student_does_its_pass_again(driver: Driver) -> None:
    driver.run()
    again = driver.run(train={"max_length": 256, "num_epochs": 7})
    assert ("train", FIRST) in again and again[-5:] == [(one, BOTH) for one in PASS]


def test_prompts_alone_need_no_pass(driver: Driver) -> None:
    assert driver.run(until=StageName.PROMPTS) == [("prompts", BOTH)]


def test_rows_that_changed_since_their_student_wrote_are_told_and_the_pass_is_done_again(driver: Driver) -> None:
    driver.run(until=StageName.MIX)
    driver.keys = {"s@sft": "second"}
    with pytest.raises(StageError, match="the rows of s@sft have changed since they were trained and wrote traces"):
        driver.run()
    again = driver.run()
    assert ("train", FIRST) in again and ("train", BOTH) in again


def test_a_deleted_cell_is_trained_again_in_its_pass_and_scored_again_even_after_a_stop(driver: Driver) -> None:
    driver.run(StageName.EVALUATE)
    driver.run_dir.remove(*Training("s@sft").folder)
    train = driver.run_dir.read_manifest("train")
    assert train is not None
    train = dataclasses.replace(train, details={**train.details, "cells": {"s@sft": {}}})
    driver.run_dir.write_manifest(train, "train")
    driver.fails = StageName.TRAIN
    with pytest.raises(StageError, match="stopped"):
        driver.run(StageName.EVALUATE)
    assert driver.calls[-1] == ("train", FIRST)
    driver.fails = ""
    assert driver.run(StageName.EVALUATE)[-1] == ("evaluate", BOTH)
