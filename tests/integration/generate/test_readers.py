"""Teachers that read, on real engines: a chain of two survives kills; rules and endpoints read what engines wrote."""

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import pytest
from rich.console import Console

from distill.config.load import parse_recipe
from distill.core.manifest import Manifest
from distill.core.run_dir import RunDir
from distill.core.schema import Trace
from distill.generate.stage import generate_stage
from distill.prompts.stage import prompts_stage
from distill.run.context import RunContext
from distill.verify.stage import verify_stage
from tests.fixtures.chat_server import ChatServer, Reply, chat_server, completion
from tests.fixtures.killed_run import TARGETS, kill_one, name_of, remember, session
from tests.fixtures.teacher_run import rows_on_disk, shards, traces_on_disk, write_recipe
from tests.fixtures.tiny_models import make_tiny_model, teach_one_answer

# A chain on one engine, killed

POOLS = ("own", "edit", "last")
NUM_PROMPTS = 500
READER = """
[[teachers]]
name = "{name}"
model = "tiny"
style = "short"
reads = "{reads}"
takes = "any"
{how}
replicas = [{{engines}}, {{engines}}]
sampling = {{{{ temperature = 0.2, max_tokens = {{max_tokens}} }}}}
engine.max_model_len = {{max_model_len}}
engine.kv_cache_gib = 0.1
engine.kwargs.max_num_seqs = {{max_num_seqs}}
"""
CHAIN = READER.format(name="last", reads="edit", how='continues = "Wait,"') + READER.format(
    name="edit", reads="own", how='chat.template = "{{problem}} {{trace}}"'
)


def wait_for(driver: psutil.Popen, run: Path, pool: str) -> None:
    """Until a shard of a pool is there that was not."""
    before, deadline = shards(run, pool), time.monotonic() + 1200
    while not shards(run, pool) - before:
        remember(driver)
        assert driver.poll() is None, "the run ended before it was killed: raise NUM_PROMPTS"
        assert time.monotonic() < deadline, "nothing is written"
        time.sleep(0.02)


@pytest.mark.long
def test_a_chain_of_readers_needs_one_engine_and_loses_and_repeats_nothing_when_it_is_killed(tmp_path: Path) -> None:
    recipe, run = write_recipe(tmp_path, num_prompts=NUM_PROMPTS, num_samples=1, more=CHAIN), tmp_path / "run"
    seen: dict[str, dict[str, Any]] = {}
    for pool, target in (("edit", "driver"), ("last", "engine")):
        with session(recipe, run) as driver:
            wait_for(driver, run, pool)
            seen |= {name: row for one in POOLS for name, row in traces_on_disk(run, one).items()}
            assert kill_one(driver, target)
            if target != "driver":
                wait_for(driver, run, pool)
                kill_one(driver, "driver")
    engines: set[int] = set()
    with session(recipe, run) as driver:
        while driver.poll() is None:
            engines |= {process.pid for process in remember(driver) if TARGETS["engine"] in name_of(process)}
            time.sleep(0.05)
        assert driver.returncode == 0
    assert len(engines) == 1, "three pools of one engine start it once"
    final = {pool: traces_on_disk(run, pool) for pool in POOLS}
    assert all(len(rows_on_disk(run, pool)) == len(final[pool]) for pool in POOLS), "a trace stands on disk twice"
    assert len(final["own"]) == NUM_PROMPTS
    for pool, source in (("edit", "own"), ("last", "edit")):
        read = {name for name, row in final[source].items() if row["completion"].strip()}
        assert {row["parent"] for row in final[pool].values()} == read
    merged = {name: row for pool in POOLS for name, row in final[pool].items()}
    assert len(seen) < len(merged) and all(merged[name] == row for name, row in seen.items())
    for row in final["last"].values():
        begun = final["edit"][row["parent"]]["completion"].strip() + "\n\nWait,"
        assert row["completion"].startswith(begun) and row["given"] == len(begun)


# Rules and an endpoint, which read what an engine wrote

ONES = [f"What is {n} - {n - 1}?" for n in range(10, 30)]


class Done(NamedTuple):
    """A finished generation of three kinds of teacher."""

    run: RunContext
    server: ChatServer
    verified: Manifest

    def rows(self, name: str) -> list[dict[str, Any]]:
        (pool,) = (pool for pool in self.run.pools if pool.name == name)
        return self.run.run_dir.read_table("generate", pool.folder, row_type=Trace).to_pylist()


def answer(number: int, body: dict[str, Any]) -> Reply:
    """Changes the answer to the first problem, and is longer than what it reads at the second."""
    asked = body["messages"][-1]["content"]
    if ONES[0] in asked:
        return 200, completion("2")
    return 200, completion("It is, as I was told, " * 9 + "1." if ONES[1] in asked else "\\boxed{1}")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    folder = tmp_path_factory.mktemp("readers")
    teach_one_answer(make_tiny_model(folder / "tiny"))
    (folder / "prompts.jsonl").write_text("\n".join(json.dumps({"problem": one, "answer": "1"}) for one in ONES))
    (folder / "held_out.jsonl").write_text(json.dumps({"problem": "What is 90 - 89?", "answer": "1"}))
    with chat_server(answer) as server, ExitStack() as resources:
        recipe = parse_recipe(recipe_of(folder, server.url))
        run = RunContext(recipe, folder, RunDir(str(folder / "run")), Console(quiet=True), resources)
        run.run_dir.write_manifest(prompts_stage(run), "prompts")
        run.run_dir.write_manifest(generate_stage(run), "generate")
        yield Done(run, server, verify_stage(run))


def recipe_of(folder: Path, url: str) -> dict[str, Any]:
    source = {"kind": "file", "answer_kind": "number"}
    sampling = {"temperature": 0.0, "max_tokens": 40}  # each is right: which ones are must not depend on the machine
    return {
        "name": "readers",
        "device": "cpu",
        "models": {"tiny": {"sources": [str(folder / "tiny")]}},
        "prompts": {
            "sources": [{**source, "path": "prompts.jsonl"}],
            "near_duplicates": 0,
            "decontaminate_ngram": 0,
        },
        "teachers": [
            {
                "kind": "endpoint",
                "name": "far",
                "style": "short",
                "reads": "rules",
                "keep_if": "shorter",
                "base_url": url,
                "remote_model": "remote-1",
                "chat": {"template": "{problem} {trace}"},
            },
            {
                "kind": "rule",
                "name": "rules",
                "style": "short",
                "reads": "own",
                "replace": [{"pattern": "The answer", "by": "It"}],
            },
            {
                "name": "own",
                "model": "tiny",
                "style": "long",
                "num_samples": 1,
                "sampling": sampling,
                "engine": {"max_model_len": 256, "kv_cache_gib": 0.1},
            },
        ],
        "mixes": [{"name": "far", "policy": "single", "pool": "far"}],
        "students": [{"name": "s", "model": "tiny"}],
        "train": {"max_length": 128},
        "benchmarks": {"held-out": {"source": {**source, "path": str(folder / "held_out.jsonl")}}},
        "evaluate": {"benchmarks": ["held-out"], "sampling": {"temperature": 0.0, "max_tokens": 40}},
    }


def test_rules_rewrite_what_the_engine_wrote_and_an_endpoint_reads_that(done: Done) -> None:
    own, rules, far = ({row["trace_id"]: row for row in done.rows(name)} for name in ("own", "rules", "far"))
    right = {name for name, row in own.items() if row["verdict"] == "CORRECT" and row["finish_reason"] != "length"}
    assert right and {row["parent"] for row in rules.values()} == right
    assert {row["completion"] for row in rules.values()} >= {"It is \\boxed{1}."}
    assert {row["parent"] for row in far.values()} <= rules.keys()
    asked = [body["messages"][-1]["content"] for body in done.server.requests]
    assert all(any(row["completion"] in text for row in rules.values()) for text in asked)


def test_edits_that_are_not_used_are_counted_by_reason(done: Done) -> None:
    edits = done.verified.details["pools"]["far"]["edits"]
    assert (edits["answer changed"], edits["not shorter than its source"]) == (1, 1)
    assert edits["kept"] == len(done.rows("far")) - 2 == done.verified.details["pools"]["far"]["correct"]
    assert done.verified.drops["answer changed"] == 1
    assert done.verified.rows_in == done.verified.rows_out + sum(done.verified.drops.values())


def test_asked_again_only_the_edit_that_is_gone_is_made(done: Done) -> None:
    before, asked = {row["trace_id"] for row in done.rows("far")}, len(done.server.requests)
    generate_stage(done.run)
    assert len(done.server.requests) == asked
    (pool,) = (pool for pool in done.run.pools if pool.name == "far")
    *kept, gone = (Trace(**row) for row in done.rows("far"))
    done.run.run_dir.remove("generate", pool.folder)
    done.run.run_dir.write_rows(kept, Trace, "generate", pool.folder, "kept.parquet")
    generate_stage(done.run)
    (body,) = done.server.requests[asked:]
    read = {row["trace_id"]: row["completion"] for row in done.rows("rules")}
    assert body["messages"][-1]["content"].endswith(read[gone.parent]) and body["seed"] == gone.seed
    assert {row["trace_id"] for row in done.rows("far")} == before
