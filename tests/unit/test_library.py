"""What a program reads of a run: rows as tables, the report, the plan. No Ray and no model."""

from pathlib import Path
from typing import Any

import pytest

import distill
from distill.core.errors import InputError
from distill.core.run_dir import RECIPE as RECIPE_FILE
from distill.core.run_dir import VERDICTS, RunDir, pool_shards
from distill.core.schema import Example, IndexRow, Prompt, Score, Trace, arrow_schema
from tests.fixtures.mix_run import trace
from tests.fixtures.pipeline_run import RECIPE
from tests.fixtures.report_run import finish, make_recipe, make_run
from tests.fixtures.tiny_models import make_tiny_model


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    recipe = make_recipe()
    run_dir = make_run(tmp_path_factory.mktemp("run"), recipe, num_prompts=60, num_scored=40)
    run_dir.write_bytes(recipe.model_dump_json().encode(), *RECIPE_FILE)
    finish(run_dir, recipe)
    return run_dir


def test_rows_are_tables_with_the_columns_of_the_schema(run_dir: RunDir) -> None:
    run = distill.open_run(run_dir.uri)
    tables: dict[type, Any] = {Prompt: run.prompts(), Example: run.arm("mix-long"), Score: run.scores()}
    for row_type, table in tables.items():
        assert table.num_rows and table.schema == arrow_schema(row_type)
    frame = run.scores().to_pandas()
    assert set(frame["model"]) >= {"smol-135m", "smol-135m@mix-long"} and set(frame["benchmark"]) == {"arithmetic"}
    assert set(run.stages().values()) == {"done"}


def test_a_pool_holds_the_traces_of_its_present_fingerprint(run_dir: RunDir) -> None:
    index = run_dir.read_table(*VERDICTS, row_type=IndexRow, columns=("pool", "fingerprint")).to_pylist()
    (own,) = {row["fingerprint"] for row in index if row["pool"] == "long"}
    run_dir.write_rows([trace(1, "long")], Trace, *pool_shards(f"long-{own}", "shard.parquet"))
    run_dir.write_rows([trace(2, "long")], Trace, *pool_shards("long-of-an-earlier-recipe", "shard.parquet"))
    pool = distill.open_run(run_dir.uri).pool("long")
    assert pool.column("trace_id").to_pylist() == [trace(1, "long").trace_id]


def test_a_last_and_a_single_stage_are_not_asked_for_at_once(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="until 'mix' and only 'mix'"):
        distill.run_recipe("quickstart", run_dir=tmp_path / "run", until="mix", only="mix")


def test_the_report_has_the_numbers_of_the_page(run_dir: RunDir) -> None:
    report = distill.load_report(run_dir.uri)
    scores = {one.model: one for one in report.models}
    assert scores["smol-135m@mix-long"].accuracy is not None
    assert scores["smol-135m@mix-long"].interval.low < scores["smol-135m@mix-long"].accuracy


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda run: run.pool("lomg"), r"no teacher 'lomg' -> did you mean 'long'\?"),
        (lambda run: run.arm("other"), "no mix 'other' -> known: long, mix-long, short"),
        (lambda run: run.prompts("other"), "no benchmark 'other' -> known: arithmetic"),
    ],
)
def test_a_wrong_name_is_told_with_the_right_ones(run_dir: RunDir, ask: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        ask(distill.open_run(run_dir.uri))


def test_what_is_no_run_and_no_stage_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no run directory"):
        distill.load_report(tmp_path)
    with pytest.raises(InputError, match="there is no stage 'mixing' -> prompts, generate"):
        distill.run_recipe("quickstart", run_dir=tmp_path, until="mixing")


def test_a_plan_is_made_for_a_cluster_that_is_not_here(tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "model")
    for name in ("prompts.jsonl", "held_out.jsonl"):
        (tmp_path / name).write_text('{"problem": "What is 3 - 2?", "answer": "1"}')
    recipe = tmp_path / "tiny.toml"
    recipe.write_text(RECIPE.format(teacher=model, student=model))
    found = distill.plan_recipe(
        recipe, "prompts.num_prompts=9", "train.seeds=[0,1]", run_dir=tmp_path / "none", cluster="1x2cpu"
    )
    assert {planned.cell.name for planned in found.training.cells} == {
        f"{student}@mix-long@{seed}" for student in ("lora", "full") for seed in (0, 1)
    }
    assert found.forecast is not None and found.forecast.stages
    assert not (tmp_path / "none").exists()
