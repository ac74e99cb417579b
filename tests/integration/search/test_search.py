"""Weights searched for real: short trainings and a development set find the only pool that can be answered in time."""

import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from rich.console import Console

from distill.config.load import parse_recipe
from distill.core.manifest import Manifest
from distill.core.run_dir import HELD_OUT, RunDir, StageName, arm_examples, benchmark_problems, search_round
from distill.core.schema import Example
from distill.run.context import RunContext
from distill.search.stage import search_stage
from distill.stages import STAGES
from tests.fixtures.chat_server import Reply, chat_server, completion
from tests.fixtures.endpoint_run import endpoint_run
from tests.fixtures.tiny_models import make_tiny_model

NUM_PROMPTS, NUM_HELD_OUT, MAX_TOKENS = 28, 4, 40
STAGE_NAMES = [stage.name for stage in STAGES]
ANSWERS = {
    "short": "\\boxed{1}",
    "long": "Let us go through it all very slowly, one by one, to the end: \\boxed{1}",
}
"""Letters are tokens here: the long answer is cut before it is given, so what has learnt it scores 0."""


def recipe_of(folder: Path, url: str) -> dict[str, Any]:
    return {
        **endpoint_run(folder / "tiny", url, ANSWERS),
        "name": "searched",
        "mixes": [
            {"name": "long", "policy": "single", "pool": "long"},
            {"name": "auto", "weights": "auto", "pools": ["long", "short"]},
        ],
        "search": {"benchmark": "development", "grid": 2, "num_steps": 30, "keep": 0.3},
        "students": [{"name": "tiny", "model": "tiny", "tune": {"kind": "lora", "rank": 32, "learning_rate": 2e-2}}],
        "train": {"batch_size": 8, "max_length": 256, "held_out_prompts": NUM_HELD_OUT},
        "evaluate": {"benchmarks": ["held-out"], "sampling": {"max_tokens": MAX_TOKENS}},
        "benchmarks": {
            name: {"source": {"kind": "file", "path": f"{name}.jsonl", "answer_kind": "number"}}
            for name in ("held-out", "development")
        },
        "serve": {"cpus_per_engine": 0.1, "engine": {"max_model_len": 256, "kv_cache_gib": 0.1}},
    }


@pytest.fixture(scope="module")
def seen() -> set[str]:
    """Lines that the node's agent offered to Prometheus while the run went on, without their values."""
    return set()


def scrape(seen: set[str], is_over: threading.Event) -> None:
    """What is not told again is gone with the next look: so one must look all the time."""
    import ray

    node = ray.nodes()[0]
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    while not is_over.wait(1.0):
        seen |= {line.rpartition(" ")[0] for line in httpx.get(address, timeout=30).text.splitlines()}


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory, seen: set[str]) -> Iterator[tuple[RunContext, Manifest]]:
    folder = tmp_path_factory.mktemp("search")
    make_tiny_model(folder / "tiny")
    sets = {"prompts": range(10, 10 + NUM_PROMPTS), "held-out": range(90, 94), "development": range(93, 99)}
    for name, numbers in sets.items():
        problems = [{"problem": f"What is {n} - {n - 1}?", "answer": "1"} for n in numbers]
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, problems)))

    def answer(_number: int, body: dict[str, Any]) -> Reply:
        return 200, completion(ANSWERS[body["model"]])

    run_dir = RunDir(str(folder / "run"))
    with chat_server(answer) as server, ExitStack() as resources:
        run = RunContext(parse_recipe(recipe_of(folder, server.url)), folder, run_dir, Console(quiet=True), resources)
        is_over = threading.Event()
        resources.callback(is_over.set)
        _ = run.session
        threading.Thread(target=scrape, args=(seen, is_over), daemon=True).start()
        for stage in STAGES[: STAGE_NAMES.index(StageName.MIX) + 1]:
            run_dir.write_manifest(stage.run(run), stage.name)
        is_over.set()
        manifest = run_dir.read_manifest(StageName.SEARCH)
        assert manifest is not None
        yield run, manifest


def test_the_pool_that_can_be_answered_in_time_is_chosen(searched: tuple[RunContext, Manifest]) -> None:
    run, manifest = searched
    found = manifest.details["arms"]["auto"]
    (only,) = found["rounds"]
    by_share = dict(zip([one["short"] for one in only["weights"]], only["accuracies"], strict=True))
    assert by_share[1.0] == 1.0 and by_share[0.0] == 0.0
    assert found["weights"] == {"long": 0.0, "short": 1.0}
    rows = run.run_dir.read_table(*arm_examples("auto"), row_type=Example, columns=("pool",))
    assert set(rows.column(0).to_pylist()) == {"short"} and rows.num_rows == NUM_PROMPTS - NUM_HELD_OUT


def test_a_problem_that_is_reported_is_not_searched_on(searched: tuple[RunContext, Manifest]) -> None:
    run, manifest = searched
    assert manifest.details["arms"]["auto"]["rounds"][0]["problems"] == 5
    assert run.run_dir.num_rows(*benchmark_problems("development")) == 5


def test_the_loss_on_held_out_prompts_falls_for_what_was_taught(searched: tuple[RunContext, Manifest]) -> None:
    run, _ = searched
    mix = run.run_dir.read_manifest(StageName.MIX)
    assert mix is not None and mix.drops["held out"] == NUM_HELD_OUT
    inside = run.run_dir.nested(*search_round(1))
    taught = {
        name: set(inside.read_table(*arm_examples(name), row_type=Example, columns=("prompt_id",))[0].to_pylist())
        for name in ("auto.0-100", "auto.100-0")
    }
    held = inside.read_table(*HELD_OUT, row_type=Example, columns=("prompt_id", "pool")).to_pylist()
    assert len(held) == 2 * NUM_HELD_OUT and not {row["prompt_id"] for row in held} & set.union(*taught.values())
    for name, pool, other in (("auto.0-100", "short", "long"), ("auto.100-0", "long", "short")):
        cell = inside.read_manifest("train", f"tiny@{name}")
        assert cell is not None
        loss = cell.details["held_out_loss"]
        assert loss["after"][pool] < 0.2 * loss["before"][pool] and loss["after"][pool] < loss["after"][other]


def test_a_finished_search_is_never_done_again(searched: tuple[RunContext, Manifest]) -> None:
    run, manifest = searched
    inside = run.run_dir.local_path(*search_round(1))
    before = {path: path.stat().st_mtime_ns for path in inside.rglob("*") if path.is_file()}
    again = search_stage(run)
    assert again.details == manifest.details
    assert before == {path: path.stat().st_mtime_ns for path in inside.rglob("*") if path.is_file()}


def test_prometheus_reads_the_cells_values_from_the_node_while_they_train(
    searched: tuple[RunContext, Manifest], seen: set[str]
) -> None:
    cells = [line for line in seen if line.startswith("ray_distill_cell_step{")]
    assert any('run="searched"' in line and 'cell="tiny@auto.0-100"' in line for line in cells)


def test_other_traces_are_searched_again_and_trained_cells_that_they_do_not_change_are_kept(
    searched: tuple[RunContext, Manifest],
) -> None:
    run, manifest = searched
    verify, inside = run.run_dir.read_manifest("verify"), run.run_dir.nested(*search_round(1))
    cells, before = sorted(inside.local_path("train").glob("*/manifest.json")), inside.read_manifest()
    assert verify is not None and before is not None and len(cells) == 3
    trained = [path.stat().st_mtime_ns for path in cells]
    run.run_dir.write_manifest(replace(verify, key="of other traces"), "verify")
    again, after = search_stage(run), inside.read_manifest()
    assert after is not None and after.key != before.key
    assert again.details == manifest.details
    assert [path.stat().st_mtime_ns for path in cells] == trained
