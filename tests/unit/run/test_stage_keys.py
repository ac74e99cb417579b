"""Which stages are stale after an edit of the recipe, and why."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from distill.config.load import parse_recipe
from distill.core.manifest import Manifest
from distill.core.run_dir import RunDir, StageName
from distill.run import stage_keys as stages
from distill.run.stage_keys import changed_keys, stage_configs, stage_states
from tests.fixtures.recipes import recipe_with


def finish(run_dir: RunDir, raw: dict[str, Any], base: Path = Path()) -> None:
    for state in stage_states(parse_recipe(raw), base, run_dir).values():
        run_dir.write_manifest(Manifest(state.stage, state.key, details={"config": state.config}), state.stage)


def statuses(run_dir: RunDir, raw: dict[str, Any]) -> dict[str, str]:
    return {state.stage: state.status for state in stage_states(parse_recipe(raw), Path(), run_dir).values()}


def test_a_finished_run_is_done_and_a_fresh_one_is_new(run_dir: RunDir) -> None:
    raw = recipe_with({})
    assert set(statuses(run_dir, raw).values()) == {"new"}
    finish(run_dir, raw)
    assert set(statuses(run_dir, raw).values()) == {"done"}


def test_without_the_folder_of_the_input_files_they_count_as_unchanged(run_dir: RunDir, tmp_path: Path) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"problem": "1 + 1 =", "answer": "2"}')
    source = {"kind": "file", "path": "prompts.jsonl", "answer_kind": "number"}
    raw = recipe_with({"prompts": {"sources": [source]}})
    finish(run_dir, raw, tmp_path)
    recipe = parse_recipe(raw)
    assert {state.status for state in stage_states(recipe, None, run_dir).values()} == {"done"}
    (tmp_path / "prompts.jsonl").write_text('{"problem": "1 + 1 =", "answer": "20"}')
    assert {state.status for state in stage_states(recipe, tmp_path, run_dir).values()} == {"changed"}


@pytest.mark.parametrize(
    ("change", "first", "reason"),
    [
        ({"train": {"num_epochs": 5, "max_length": 256}}, "train", "train.num_epochs"),
        ({"train": {"max_length": 200}}, "mix", "train.max_length"),
        (
            {"mixes": [{"name": "mix-long", "weights": {"long": 0.5, "short": 0.5}}]},
            "mix",
            "mixes[mix-long].weights.long",
        ),
        (
            {"evaluate": {"benchmarks": ["gsm8k"], "sampling": {"max_tokens": 9}}},
            "evaluate",
            "evaluate.sampling.max_tokens",
        ),
        ({"evaluate": {"benchmarks": ["gsm8k"], "reasoning_end": "<END>"}}, "mix", "reasoning_end"),
        ({"evaluate": {"benchmarks": ["gsm8k"], "reasoning_end": "[/THINK]"}}, "evaluate", "evaluate.reasoning_end"),
        ({"seed": 99}, "prompts", "seed"),
    ],
)
def test_an_edited_recipe_redoes_from_the_stage_it_touches(
    run_dir: RunDir, change: dict[str, Any], first: str, reason: str
) -> None:
    finish(run_dir, recipe_with({}))
    states = stage_states(parse_recipe(recipe_with(change)), Path(), run_dir)
    num_done = list(StageName).index(StageName(first))
    expected = ["done"] * num_done + ["changed"] * (len(StageName) - num_done)
    assert [state.status for state in states.values()] == expected
    assert reason in states[first].reason


def test_prompts_that_an_older_rule_cleaned_are_cleaned_again(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "CLEANER_VERSION", stages.CLEANER_VERSION - 1)
    finish(run_dir, recipe_with({}))
    monkeypatch.undo()
    assert set(statuses(run_dir, recipe_with({})).values()) == {"changed"}


def test_settings_that_change_no_result_make_nothing_stale(run_dir: RunDir) -> None:
    finish(run_dir, recipe_with({}))
    train = {"max_length": 256, "max_failures": 7, "max_parallel_cells": 1}
    assert set(statuses(run_dir, recipe_with({"train": train})).values()) == {"done"}


def test_changes_are_named_by_item() -> None:
    old = {"teachers": [{"name": "a", "n": 1}, {"name": "b", "n": 2}]}
    new = {"teachers": [{"name": "a", "n": 1}, {"name": "b", "n": 3}]}
    assert list(changed_keys(old, new)) == ["teachers[b].n"]


def test_an_edited_local_model_makes_what_depends_on_it_stale(run_dir: RunDir, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "tokenizer_config.json").write_text('{"chat_template": "one"}')
    raw = recipe_with({"models": {"m": {"sources": [str(folder)], "context_tokens": 512}}})
    finish(run_dir, raw)
    (folder / "README.md").write_text("a card is no part of the model")
    assert set(statuses(run_dir, raw).values()) == {"done"}
    (folder / "tokenizer_config.json").write_text('{"chat_template": "two"}')
    found = statuses(run_dir, raw)
    assert found["prompts"] == "done" and found["generate"] == found["mix"] == found["train"] == "changed"
    recipe = parse_recipe(raw)
    assert {one.status for one in stage_states(recipe, None, run_dir).values()} == {"done"}, "where it cannot be seen"


def test_rows_that_name_their_kind_depend_on_the_rules_of_every_kind() -> None:
    source = {"kind": "file", "path": "rows.jsonl", "answer_kind": "number"}
    verifiers = [
        stage_configs(parse_recipe(recipe_with({"benchmarks": {"gsm8k": {"source": one}}})), None)["prompts"][
            "verifier"
        ]
        for one in (source, source | {"columns": {"answer_kind": "kind"}})
    ]
    assert ["refusals-" in one for one in verifiers] == [False, True]


def test_a_cell_whose_folder_was_deleted_is_trained_and_scored_again(run_dir: RunDir) -> None:
    raw = recipe_with({})
    finish(run_dir, raw)
    done = run_dir.read_manifest("train")
    assert done is not None
    run_dir.write_manifest(
        dataclasses.replace(done, details={**done.details, "cells": {"s@a": {}, "s@b": {}}}), "train"
    )
    for cell in ("s@a", "s@b"):
        run_dir.write_manifest(Manifest("train", "key"), "train", cell)
    assert set(statuses(run_dir, raw).values()) == {"done"}
    run_dir.remove("train", "s@b")
    states = stage_states(parse_recipe(raw), Path(), run_dir)
    again = {stage: state.reason for stage, state in states.items() if state.status == "changed"}
    assert again == {"train": "train/s@b", "evaluate": "train before it", "report": "train before it"}
