"""The plan of a fleet: what it tells, and what it refuses."""

from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from cluster.placement import Resources
from distill.config.arm_graph import ArmBudget
from distill.config.students import LoraTune, StudentConfig
from distill.config.train import TrainConfig
from distill.core.errors import ConfigError, InputError
from distill.ops.forecast.cell_plan import show_plan
from distill.train.cells import Cell
from distill.train.machines import Machines, described_machines
from distill.train.plan import MixData, Plan, describe_resources, model_problems, plan_cells
from tests.fixtures.model_shapes import LARGE, SMALL

DATA = {"long": MixData(1000, 400_000), "short": MixData(1000, 100_000)}
SHAPES = {"small": SMALL, "large": LARGE}


def grid(*students: StudentConfig, mixes: tuple[str, ...] = ("long", "short")) -> list[Cell]:
    return [Cell(f"{student.name}@{mix}", student, mix, 0) for student in students for mix in mixes]


def small(**changes: Any) -> StudentConfig:
    return StudentConfig(name="small", model="small", **changes)


def large(**changes: Any) -> StudentConfig:
    return StudentConfig(name="large", model="large", **changes)


def plan(cells: list[Cell], machines: str | Machines = "1x4x80", **train: Any) -> Plan:
    where = described_machines(machines) if isinstance(machines, str) else machines
    return plan_cells(cells, TrainConfig(**train), shapes=SHAPES, data=DATA, machines=where)


def test_every_cell_has_a_layout_steps_tokens_and_a_rank_in_the_queue() -> None:
    found = plan(grid(small(), large(num_workers=4)), num_epochs=2, batch_size=16)
    assert found.cells[0].cell.name == "large@long"
    assert {one.steps for one in found.cells} == {126}
    by_name = {one.cell.name: one for one in found.cells}
    assert by_name["small@long"].supervised_tokens == 800_000
    assert (by_name["large@long"].flops or 0) > 3 * (by_name["large@short"].flops or 0)
    assert found.starts["large@long"] == 0.0


def test_a_student_that_fits_nowhere_is_refused_with_what_would_fit() -> None:
    with pytest.raises(ConfigError) as caught:
        plan(grid(large()), "1x8x40", max_length=1024)
    problem = caught.value.problems[0]
    assert problem.where == "students[large]"
    assert "3,086 M parameters (full) with rows of 1024 tokens do not fit 1 x 40.0 GiB (gpu)" in problem.what
    assert "num_workers = " in problem.remedy


def test_more_workers_than_the_cluster_has_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"students\[small\]: needs 8 workers .* holds 4"):
        plan(grid(small(num_workers=8)))


@pytest.mark.parametrize(
    ("train", "is_refused"),
    [
        ({}, True),
        ({"unmatched": True}, False),
        ({"budget": "steps", "num_steps": 50}, False),
        ({"budget": "tokens", "num_steps": 50, "num_tokens": 100_000}, False),
    ],
)
def test_arms_with_unequal_steps_are_refused_unless_the_recipe_allows_them(
    train: dict[str, Any], is_refused: bool
) -> None:
    data = DATA | {"both": MixData(2000, 500_000)}
    cells = grid(small(), mixes=("long", "both"))

    def planned() -> Plan:
        machines = described_machines("1x4x80")
        return plan_cells(cells, TrainConfig(**train), shapes=SHAPES, data=data, machines=machines)

    if is_refused:
        with pytest.raises(ConfigError, match="different numbers of optimiser steps: long 126, both 250"):
            planned()
    else:
        assert len({one.steps for one in planned().cells}) == (2 if "unmatched" in train else 1)


def test_only_arms_of_one_number_of_prompts_must_take_equally_many_steps() -> None:
    few, many = replace(grid(small())[0], amount=ArmBudget(num_prompts=100)), grid(small())[1]
    data = DATA | {"long": MixData(100, 40_000)}
    machines = described_machines("1x4x80")
    found = plan_cells([few, many], TrainConfig(), shapes=SHAPES, data=data, machines=machines)
    assert {one.cell.mix: one.steps for one in found.cells} == {"long": 14, "short": 126}
    with pytest.raises(ConfigError, match="different numbers of optimiser steps: long 14, short 126"):
        plan_cells([replace(few, amount=ArmBudget()), many], TrainConfig(), shapes=SHAPES, data=data, machines=machines)


def test_a_stage_is_planned_after_its_parent_and_compared_with_those_of_as_many_steps_in_all() -> None:
    first, other = grid(small())
    before = ArmBudget(before=(ArmBudget(),))
    second = Cell("small@second", small(), "long", 0, amount=before, parents=(first,))
    train = {"budget": "steps", "num_steps": 90, "batch_size": 10}
    found = plan([other, second, first], **train)
    assert found.starts[first.name] < found.starts[second.name]
    starts = {one.cell.name: one.job.waits_for for one in found.cells}
    assert starts == {first.name: (), other.name: (), second.name: (first.name,)}
    control = replace(other, amount=before, num_steps=180)
    plan([first, second, control], **train)
    with pytest.raises(ConfigError, match=r"different numbers of optimiser steps: long 180, short 90"):
        plan([first, second, replace(control, num_steps=None)], **train)


def test_an_arm_with_its_own_number_of_steps_is_planned_with_it() -> None:
    own, common = replace(grid(small())[0], num_steps=9), grid(small())[1]
    found = {
        one.cell.mix: one
        for one in plan([own, common], budget="steps", num_steps=90, batch_size=10, unmatched=True).cells
    }
    assert (found["long"].steps, found["short"].steps) == (9, 90)
    assert found["long"].supervised_tokens == 9 * 10 * 400, "of 1000 rows with 400,000 tokens"


def test_a_mix_of_unknown_size_is_planned_without_numbers() -> None:
    cells = [replace(cell, mix="other") for cell in grid(small())]
    assert {(one.rows, one.steps, one.flops) for one in plan(cells).cells} == {(None, None, None)}
    assert {one.steps for one in plan(cells, budget="steps", num_steps=9).cells} == {9}


def test_cells_on_cpus_share_them_and_their_memory() -> None:
    machines = Machines((Resources(cpus=8, memory_gib=9.0),), "cpu")
    found = plan(grid(small()), machines, max_length=256, batch_size=4)
    assert sorted(found.starts.values())[0] == 0.0
    assert sorted(found.starts.values())[1] > 0.0, "two cells of 5.9 GiB do not fit 9 GiB at once"
    assert {one.job.worker.cpus for one in found.cells} == {8}, "none of them is idle then"


def test_clusters_are_described_in_one_word() -> None:
    assert described_machines("2x8x80").nodes == (Resources(cpus=64, gpus=8),) * 2
    assert described_machines("1x4cpu") == Machines((Resources(cpus=4, memory_gib=16.0),), "cpu")
    with pytest.raises(InputError, match="for example 2x8xh100"):
        described_machines("8 GPUs")


@pytest.mark.parametrize("targets", [("q_proj", "lm_head"), ("embed_tokens",), r".*(q_proj|lm_head)"])
def test_adapters_on_tied_embeddings_are_refused(targets: tuple[str, ...] | str) -> None:
    tied = replace(SMALL, tied_tables=("model.embed_tokens", "lm_head"))
    student = small(tune=LoraTune(targets=targets))
    (problem,) = model_problems(student, TrainConfig(), tied)
    assert problem.where == "students[small].tune.targets" and "merging would make two of it" in problem.what
    assert not list(model_problems(student, TrainConfig(), SMALL)), "not tied"
    assert not list(model_problems(small(tune=LoraTune()), TrainConfig(), tied)), "all-linear leaves them out"
    assert not list(model_problems(small(), TrainConfig(), tied)), "all weights are trained"


def test_rows_longer_than_the_models_context_are_refused() -> None:
    short = replace(SMALL, context_tokens=512)
    (problem,) = model_problems(small(), TrainConfig(max_length=1024), short)
    assert "train.max_length 1024 is longer than its model's context, 512 tokens" in problem.what
    assert not list(model_problems(small(), TrainConfig(max_length=512), short))
    with pytest.raises(ConfigError, match="512 tokens"):
        plan_cells(
            grid(small()), TrainConfig(max_length=1024), shapes={"small": short}, data=DATA,
            machines=described_machines("1x4x80"),
        )  # fmt: skip


def test_a_plan_says_once_for_each_student_why_its_rows_do_not_share_a_pass() -> None:
    reason = "it has layers of kind conv"
    cells = grid(small())
    shapes = {"small": replace(SMALL, one_row_reason=reason)}
    machines = described_machines("1x4x80")
    found = plan_cells(cells, TrainConfig(), shapes=shapes, data=DATA, machines=machines)
    assert describe_resources(found.cells[0]).endswith(f"; one row per forward pass: {reason}")
    console = Console(file=StringIO(), width=200)
    show_plan(found, machines, console)
    assert isinstance(console.file, StringIO)
    assert console.file.getvalue().count(f"small: one row per forward pass: {reason}") == 1
    assert "one row" not in describe_resources(plan(cells).cells[0])
