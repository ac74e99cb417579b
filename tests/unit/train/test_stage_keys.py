"""A cell's key changes with what its weights come from, and with nothing else."""

from pathlib import Path
from typing import Any

import pytest

from distill.config.recipe import Recipe
from distill.core.errors import StageError
from distill.core.manifest import Manifest
from distill.core.run_dir import RunDir, Training
from distill.core.schema import Example, Message
from distill.models.resolve import ResolvedModel
from distill.train.stage import cell_keys, train_manifest
from tests.unit.train.test_cells import MERGES, STAGES, recipe


@pytest.fixture
def taught(run_dir: RunDir) -> RunDir:
    for mix in STAGES:
        teach(run_dir, mix["name"], "one")
    return run_dir


def teach(run_dir: RunDir, mix: str, answer: str) -> None:
    turns = [Message("user", mix), Message("assistant", answer)]
    run_dir.write_rows([Example("t", "p", mix, "long", "long", turns)], Example, "mix", f"{mix}.parquet")


def keys(run_dir: RunDir, made: Recipe) -> dict[str, str]:
    model = ResolvedModel("m", "path", "source", "identity", 1, 1)
    return cell_keys(made, run_dir, {"m": model})


def staged(**changes: Any) -> Recipe:
    return recipe((0,), mixes=STAGES, merges=MERGES, **changes)


def test_a_changed_parent_has_its_children_trained_again_and_nobody_else(taught: RunDir) -> None:
    before = keys(taught, staged())
    teach(taught, "first", "two")
    after = keys(taught, staged())
    assert {name for name in before if before[name] != after[name]} == {"s@first", "s@second", "s@merged", "s@third"}


def test_an_arm_that_starts_from_another_is_another_result_and_its_parent_is_not(taught: RunDir) -> None:
    before = keys(taught, recipe((0,), mixes=[{**mix, "after": None} for mix in STAGES], merges=MERGES))
    after = keys(taught, staged())
    assert {name for name in before if before[name] != after[name]} == {"s@second", "s@merged", "s@third"}


def test_what_of_a_row_is_not_learnt_decides_its_cell(taught: RunDir) -> None:
    """`teach = "suffix"` changes no text: the cells would have counted as trained."""
    before = keys(taught, staged())
    turns = [Message("user", "first"), Message("assistant", "one")]
    taught.write_rows([Example("t", "p", "first", "long", "long", turns, given=2)], Example, "mix", "first.parquet")
    after = keys(taught, staged())
    assert {name for name in before if before[name] != after[name]} == {"s@first", "s@second", "s@merged", "s@third"}


def test_the_name_of_an_arm_decides_nothing(taught: RunDir, tmp_path: Path) -> None:
    renamed = [{**mix, "name": "start"} if mix["name"] == "first" else mix for mix in STAGES]
    renamed = [{**mix, "after": "start"} if mix.get("after") == "first" else mix for mix in renamed]
    teach(taught, "start", "one")
    table = taught.read_table("mix", "first.parquet", row_type=Example)
    taught.write_table(table, "mix", "start.parquet")
    before, after = keys(taught, staged()), keys(taught, recipe((0,), mixes=renamed, merges=MERGES))
    assert after["s@start"] == before["s@first"] and after["s@third"] == before["s@third"]


def test_what_students_write_with_decides_the_arms_that_learn_from_it(taught: RunDir) -> None:
    own = {"kind": "reinforce", "max_tokens": 8}
    mixes = [{**mix, "objective": own} if mix["name"] == "third" else mix for mix in STAGES]
    shared = {"mixes": mixes, "merges": MERGES, "train": {"budget": "steps", "num_steps": 4}}
    engine = {"serve": {"engine": {"max_model_len": 4096}}}
    before, after = keys(taught, recipe((0,), **shared)), keys(taught, recipe((0,), **shared, **engine))
    assert {name for name in before if before[name] != after[name]} == {"s@third"}


def test_training_is_not_committed_while_a_cell_is_missing(taught: RunDir) -> None:
    made = staged()
    names = list(keys(taught, made))
    for name in names[1:]:
        taught.write_manifest(Manifest("train", "key"), *Training(name).folder)
    with pytest.raises(StageError, match=f"not trained: {names[0]} -> the same command"):
        train_manifest(made, taught, {})
    taught.write_manifest(Manifest("train", "key"), *Training(names[0]).folder)
    assert set(train_manifest(made, taught, {}).details["cells"]) == set(names)
