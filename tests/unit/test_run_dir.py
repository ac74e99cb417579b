"""A run directory: manifests that must add up, shards that are whole or absent, stages stale by what changed."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from distill.config.load import parse_recipe
from distill.core.errors import InputError
from distill.core.run_dir import STAGES, Manifest, RunDir
from distill.core.schema import Prompt, arrow_schema, dropped, prompt_id, seed_for, trace_id
from distill.run import stage_keys as stages
from distill.run.stage_keys import changed_keys, stage_states
from tests.unit.test_recipe import recipe_with

PROMPT = Prompt(prompt_id("a"), "a", "1", "number", "s", "", "", "")


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir(str(tmp_path / "run"))


def test_a_manifest_that_does_not_add_up_is_refused() -> None:
    with pytest.raises(AssertionError, match="do not add up"):
        Manifest("mix", "k", rows_in=3, rows_out=1, drops={"x": 1})


def test_a_stage_is_complete_only_with_its_key(run_dir: RunDir) -> None:
    assert not run_dir.is_complete("k", "mix")
    run_dir.write_manifest(Manifest("mix", "k", rows_in=2, rows_out=1, drops={"x": 1}), "mix")
    assert run_dir.is_complete("k", "mix")
    assert not run_dir.is_complete("other", "mix")


def test_a_torn_manifest_says_what_to_do(run_dir: RunDir) -> None:
    run_dir.write_bytes(b'{"stage": "mi', "mix", "manifest.json")
    with pytest.raises(InputError, match="delete it"):
        run_dir.read_manifest("mix")


def test_rows_come_back_with_their_explicit_schema(run_dir: RunDir) -> None:
    run_dir.write_rows([], Prompt, "prompts", "a.parquet")
    run_dir.write_rows([PROMPT], Prompt, "prompts", "b.parquet")
    table = run_dir.read_table("prompts", row_type=Prompt)
    assert table.schema == arrow_schema(Prompt)
    assert [Prompt(**row) for row in table.to_pylist()] == [PROMPT]
    assert not list(Path(run_dir.path("prompts")).glob("*.tmp"))


def test_an_absent_folder_reads_as_no_rows(run_dir: RunDir) -> None:
    assert run_dir.read_table("nothing", row_type=Prompt).num_rows == 0


def test_a_run_directory_may_be_any_uri() -> None:
    run_dir = RunDir("memory://some-run")
    run_dir.write_manifest(Manifest("mix", "k"), "mix")
    run_dir.write_rows([PROMPT], Prompt, "prompts", "p.parquet")
    assert run_dir.is_complete("k", "mix")
    assert run_dir.read_table("prompts", row_type=Prompt).num_rows == 1
    with pytest.raises(InputError, match="not a local folder"):
        run_dir.local_path("train")


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


def test_who_does_not_know_where_a_runs_input_files_lie_takes_them_as_they_were(
    run_dir: RunDir, tmp_path: Path
) -> None:
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
        ({"seed": 99}, "prompts", "seed"),
    ],
)
def test_an_edited_recipe_redoes_from_the_stage_it_touches(
    run_dir: RunDir, change: dict[str, Any], first: str, reason: str
) -> None:
    finish(run_dir, recipe_with({}))
    states = stage_states(parse_recipe(recipe_with(change)), Path(), run_dir)
    expected = ["done"] * STAGES.index(first) + ["changed"] * (len(STAGES) - STAGES.index(first))
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


def test_identities_are_content() -> None:
    assert prompt_id("What is\n 1 + 1?") == prompt_id("What is 1 + 1? ")
    assert trace_id("p", "f", 0) != trace_id("p", "f", 1)
    assert 0 <= seed_for("a") < 2**31
    assert len(dataclasses.asdict(dropped("mix", "w", "r", row={"x": "y" * 9000}))["row"]) == 2000
