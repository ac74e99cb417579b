"""All kinds of teacher in one run, past a real vLLM engine, a real HTTP address and a data set on disk."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from rich.console import Console

from distill.config.load import parse_recipe
from distill.core.manifest import Manifest
from distill.core.run_dir import RunDir
from distill.core.schema import Dropped, Trace
from distill.generate.stage import generate_stage
from distill.prompts.stage import prompts_stage
from distill.run.context import RunContext
from tests.fixtures.chat_server import ChatServer, Reply, chat_server, completion
from tests.fixtures.tiny_models import make_tiny_model, teach_one_answer

ONES = [f"What is {n} - {n - 1}?" for n in range(10, 16)]
"""Problems whose answer is 1, the only one that the tiny teacher knows."""
OTHERS = [f"What is {n} + {n}?" for n in range(2, 5)]
KEY = "MIX_TEST_KEY"


def answer(number: int, body: dict[str, Any]) -> Reply:
    """Solves what it is asked, after a refusal, a malformed reply and for one problem never."""
    problem = body["messages"][-1]["content"]
    if number == 1:
        return 429, {"error": {"message": "slow down"}}
    if number == 2:
        return 200, b"no JSON {"
    if ONES[0] in problem:
        return 400, {"error": {"message": "this problem is not welcome"}}
    return 200, completion("It is 1. \\boxed{1}")


class Done(NamedTuple):
    """A finished generation."""

    run_dir: RunDir
    manifest: Manifest
    server: ChatServer
    run: RunContext


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    folder = tmp_path_factory.mktemp("generate")
    teach_one_answer(make_tiny_model(folder / "teacher"))
    problems = [{"problem": text, "answer": "1"} for text in ONES]
    problems += [{"problem": text, "answer": "8"} for text in OTHERS]
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, problems)))
    (folder / "traces.jsonl").write_text("\n".join(map(json.dumps, imported())))
    patch = pytest.MonkeyPatch()
    patch.setenv(KEY, "secret-1")
    with chat_server(answer) as server, ExitStack() as resources:
        recipe = parse_recipe(recipe_of(folder, server.url))
        run = RunContext(recipe, folder, RunDir(str(folder / "run")), Console(quiet=True), resources)
        run.run_dir.write_manifest(prompts_stage(run), "prompts")
        yield Done(run.run_dir, generate_stage(run), server, run)
    patch.undo()


def imported() -> list[dict[str, Any]]:
    turns = [{"from": "human", "value": ONES[1]}, {"from": "gpt", "value": "One. \\boxed{1} <end>"}]
    return [
        {"problem": ONES[0], "completion": "So 1. \\boxed{1} <end>", "model": "big"},
        {"problem": ONES[0], "completion": "So 1. \\boxed{1} <end>", "model": "big"},
        {"completion": turns, "model": "big"},
        *(
            {"problem": text, "completion": ["\\boxed{1} <end>", "\\boxed{2} <end>"], "model": "big"}
            for text in ONES[2:5]
        ),
        {"problem": ONES[5], "completion": "So it must be \\boxed{1} but wai", "model": "big"},
        {"problem": "What is love?", "completion": "\\boxed{1} <end>", "model": "big"},
        {"problem": ONES[5], "completion": "\\boxed{1} <end>", "model": "small"},
        {"problem": ONES[5], "completion": "", "model": "big"},
    ]


def recipe_of(folder: Path, url: str) -> dict[str, Any]:
    sampling = {"temperature": 0.2, "max_tokens": 40}
    columns: dict[str, Any] = {"answer_kind": "number"}
    held_out = folder / "held_out.jsonl"
    held_out.write_text(json.dumps({"problem": "What is 90 - 89?", "answer": "1"}))
    imported_teacher = {
        "kind": "dataset",
        "name": "imported",
        "style": "long",
        "source": {"kind": "file", "path": "traces.jsonl"},
        "where": {"model": "big"},
        "ends_with": "<end>",
    }
    remote = {
        "kind": "endpoint",
        "name": "remote",
        "style": "short",
        "base_url": url,
        "remote_model": "remote-1",
        "api_key_env": KEY,
        "usd_per_million_tokens": 9.0,
        "num_samples": 2,
        "sampling": sampling,
    }
    own = {
        "name": "own",
        "model": "tiny",
        "style": "short",
        "num_samples": 3,
        "usd_per_million_tokens": 1.0,
        "sampling": sampling,
        "engine": {"max_model_len": 256, "kv_cache_gib": 0.1},
    }
    return {
        "name": "kinds",
        "device": "cpu",
        "models": {"tiny": {"sources": [str(folder / "teacher")]}},
        "prompts": {"sources": [{"kind": "file", "path": "prompts.jsonl", **columns}]},
        "teachers": [remote, own, imported_teacher],
        "mixes": [{"name": "third", "weights": {"imported": 0.4, "own": 0.3, "remote": 0.3}}],
        "students": [{"name": "s", "model": "tiny"}],
        "train": {"max_length": 128},
        "benchmarks": {"held-out": {"source": {"kind": "file", "path": str(held_out), **columns}}},
        "evaluate": {"benchmarks": ["held-out"], "sampling": {"temperature": 0.0, "max_tokens": 40}},
    }


def rows(done: Done, name: str) -> list[dict[str, Any]]:
    (pool,) = (pool for pool in done.run.pools if pool.name == name)
    return done.run_dir.read_table("generate", pool.folder, row_type=Trace).to_pylist()


def solved_by(done: Done, name: str) -> set[str]:
    whole = [trace for trace in rows(done, name) if trace["finish_reason"] != "length"]
    return {trace["prompt_id"] for trace in whole if trace["verdict"] == "CORRECT"}


def test_a_data_set_becomes_a_pool_that_is_verified_like_any_other(done: Done) -> None:
    traces = rows(done, "imported")
    assert len(traces) == 9
    assert [trace["verdict"] for trace in traces].count("CORRECT") == 6
    assert [trace["finish_reason"] for trace in traces if "wai" in trace["completion"]] == ["length"]


def test_dropped_rows_of_a_data_set_are_counted_with_reasons(done: Done) -> None:
    drops = done.manifest.drops
    assert drops["duplicate trace"] == 1
    assert drops["not one of the run's prompts"] == 1
    assert drops["no completion"] == 1


def test_the_cheaper_teacher_is_asked_only_for_what_the_data_set_solved(done: Done) -> None:
    asked = {trace["prompt_id"] for trace in rows(done, "own")}
    assert asked == solved_by(done, "imported"), "a trace that was cut solves nothing"
    assert len(asked) == 5
    assert all("boxed{1}" in trace["completion"] for trace in rows(done, "own") if trace["verdict"] == "CORRECT")
    assert all(trace["engine"].startswith("vllm") for trace in rows(done, "own"))


def test_an_endpoint_teacher_gets_the_key_a_seed_each_and_only_prompts_that_all_cheaper_ones_solved(done: Done) -> None:
    traces = rows(done, "remote")
    assert {trace["prompt_id"] for trace in traces} <= solved_by(done, "own")
    assert len(traces) >= 1
    assert set(done.server.keys) == {"Bearer secret-1"}
    assert all(body["seed"] >= 0 for body in done.server.requests)
    assert "secret-1" not in "".join(map(str, traces))


def test_faults_of_an_endpoint_are_retried_and_refusals_are_kept(done: Done) -> None:
    refused = done.run_dir.read_table("generate", "failed", row_type=Dropped).to_pylist()
    mine = [row for row in refused if row["where"] == "remote"]
    assert all("not welcome" in row["detail"] and "400" in row["detail"] for row in mine)
    statuses = [body["messages"][-1]["content"] for body in done.server.requests]
    assert statuses.count(ONES[0]) <= 3, "a refusal was asked again"


def test_the_numbers_add_up(done: Done) -> None:
    manifest = done.manifest
    assert manifest.rows_out == sum(pool["traces"] for pool in manifest.details["pools"].values())
    assert manifest.details["not_asked"]["lost"] > 0


def test_asked_again_nothing_is_generated(done: Done) -> None:
    num_requests, before = len(done.server.requests), rows(done, "own")
    done.server.answer = lambda number, body: (400, {"error": {"message": "this problem is not welcome"}})
    generate_stage(done.run)
    assert rows(done, "own") == before
    assert len(done.server.requests) - num_requests <= 2, "only what was refused may be tried again"
