"""A run directory: manifests that must add up, shards that are whole or absent, stages stale by what changed."""

from pathlib import Path
from typing import Any

import pytest

from distill.core.errors import InputError
from distill.core.manifest import Manifest
from distill.core.run_dir import RunDir
from distill.core.schema import Prompt, arrow_schema, prompt_id

PROMPT = Prompt(prompt_id("a"), "a", "1", "number", "s", "", "", "")


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


def test_a_run_directory_inside_another_shares_what_comes_before_the_mix(tmp_path: Any) -> None:
    outer = RunDir(str(tmp_path))
    inner = outer.nested("search", "round-1")
    assert inner.path("prompts", "prompts.parquet") == outer.path("prompts", "prompts.parquet")
    assert inner.path("mix", "features", "k") == outer.path("mix", "features", "k")
    assert inner.path("mix", "auto.parquet") == outer.path("search", "round-1", "mix", "auto.parquet")
    assert inner.path("train", "c") == RunDir(inner.uri).path("train", "c")  # as workers open it
