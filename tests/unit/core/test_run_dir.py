"""A run directory: manifests that must add up, shards that are whole or absent, stages stale by what changed."""

import json
from pathlib import Path
from typing import Any

import pytest

from distill.core.errors import InputError
from distill.core.manifest import Manifest
from distill.core.run_dir import (
    TRACE_FATES,
    RunDir,
    StageName,
    Training,
    arm_examples,
    benchmark_scores,
    dropped_rows,
    event_path,
    log_path,
    pool_shards,
)
from distill.core.schema import Prompt, arrow_schema, prompt_id
from distill.core.stage_names import NO_ARM_NAMES
from distill.train.worker.checkpoint import Checkpoints

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


def test_no_mix_may_be_called_as_a_file_of_the_mix_stage() -> None:
    own = [TRACE_FATES, dropped_rows(StageName.MIX)]
    assert [arm_examples(name) for name in NO_ARM_NAMES] == own


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


@pytest.mark.parametrize("name", ["test[1]", "a*b", "what?", "[!x]"])
def test_a_run_directory_may_have_any_name_and_sees_its_own_files_only(tmp_path: Path, name: str) -> None:
    run_dir, others = RunDir(str(tmp_path / name)), [RunDir(str(tmp_path / other)) for other in ("test1", "a?b", "y")]
    for one in (run_dir, *others):
        one.write_rows([PROMPT], Prompt, *pool_shards("pool-1", "a.parquet"))
        one.write_bytes(b"{}", *Training("s@m").checkpoint(3), "complete.json")
        one.write_rows([PROMPT], Prompt, *benchmark_scores("s@m", "gsm8k"))
    assert run_dir.shards(*pool_shards("pool-1")) == [run_dir.path(*pool_shards("pool-1", "a.parquet"))]
    assert run_dir.read_table(*pool_shards("pool-1"), row_type=Prompt).num_rows == 1
    assert run_dir.matching(*pool_shards("pool-*")) == [run_dir.path(*pool_shards("pool-1"))]
    assert run_dir.matching(*benchmark_scores("*", "gsm8k")) == [run_dir.path(*benchmark_scores("s@m", "gsm8k"))]
    assert run_dir.matching(*benchmark_scores("*", "other")) == []
    assert Checkpoints(run_dir, "s@m", "key")._steps() == [3]
    run_dir.remove("generate")
    assert run_dir.shards(*pool_shards("pool-1")) == []
    assert all(len(one.shards(*pool_shards("pool-1"))) == 1 for one in others)


def test_names_that_are_looked_for_in_no_folder_or_in_a_file_are_not_found(run_dir: RunDir) -> None:
    assert run_dir.matching("generate", "*") == []
    run_dir.write_bytes(b"", "generate", "file")
    assert run_dir.matching("generate", "file", "*") == []
    assert run_dir.matching("generate", "*", "*.parquet") == []


def test_only_a_line_feed_ends_a_line_of_json(run_dir: RunDir) -> None:
    assert run_dir.read_lines("a.jsonl") == []
    run_dir.write_bytes('{"a": "x\u2028y\x85z"}\r\n\n{"b": 1}'.encode(), "a.jsonl")
    assert [json.loads(line) for line in run_dir.read_lines("a.jsonl")] == [{"a": "x\u2028y\x85z"}, {"b": 1}]


def test_a_write_that_fails_leaves_nothing(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    run_dir.write_bytes(b"before", "folder", "file")

    def failing(path: str, data: bytes) -> None:
        Path(path).write_bytes(data[:1])
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(run_dir.fs, "pipe_file", failing)
    with pytest.raises(OSError, match="Input/output error"):
        run_dir.write_bytes(b"after", "folder", "file")
    assert [file.read_bytes() for file in run_dir.local_path("folder").iterdir()] == [b"before"]


def test_logs_of_runs_in_buckets_are_this_users_and_each_runs_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    one, other = log_path(RunDir("memory://one")), log_path(RunDir("memory://other"))
    assert one != other and one.name == other.name == "run.log"
    assert all(path.is_relative_to(tmp_path) for path in (one, other, event_path(RunDir("memory://one"))))
