"""The fleet's cells and what each starts from, without Ray."""

from typing import Any

import pytest

from distill.config.recipe import Recipe
from distill.core.run_dir import RunDir
from distill.train.cells import Cell, all_cells, cells, num_at_once, trained_before
from distill.train.stage import StartingWeights, starting_weights


def recipe(seeds: tuple[int, ...], **changes: Any) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "r",
            "models": {"m": {"sources": ["m"]}},
            "prompts": {"sources": [{"kind": "file", "path": "p.jsonl"}]},
            "teachers": [{"name": "long", "model": "m", "style": "long"}],
            "mixes": [{"name": "a", "weights": {"long": 1.0}}, {"name": "b", "weights": {"long": 1.0}}],
            "students": [{"name": "s", "model": "m"}],
            "train": {"seeds": seeds},
            "evaluate": {"benchmarks": ["gsm8k"]},
        }
        | changes
    )


def mix(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "weights": {"long": 1.0}} | more


def by_name(made: Recipe) -> dict[str, Cell]:
    return {cell.name: cell for cell in all_cells(made)}


STAGES = [mix("third", after="merged"), mix("second", after="first", num_steps=5), mix("first"), mix("b")]
MERGES = [{"name": "merged", "of": ["second", "b"]}]


def test_a_cell_is_named_by_student_and_mix_and_by_its_seed_only_where_there_are_several() -> None:
    assert [cell.name for cell in cells(recipe((7,)))] == ["s@a", "s@b"]
    assert [cell.name for cell in cells(recipe((7, 8)))] == ["s@a@7", "s@a@8", "s@b@7", "s@b@8"]


def test_a_cell_starts_from_the_parents_cell_of_its_own_seed_and_student() -> None:
    students = [{"name": "s", "model": "m"}, {"name": "t", "model": "m"}]
    found = by_name(recipe((7, 8), mixes=STAGES, merges=MERGES, students=students))
    assert [one.name for one in found["t@second@8"].parents] == ["t@first@8"]
    assert [one.name for one in found["s@merged@7"].parents] == ["s@second@7", "s@b@7"]
    lineage = [one.name for one in found["s@third@7"].lineage]
    assert lineage == ["s@first@7", "s@second@7", "s@b@7", "s@merged@7", "s@third@7"]
    assert trained_before(found["s@third@7"]) == ("s@second@7", "s@b@7")
    assert found["s@first@7"].lineage == (found["s@first@7"],)


def test_the_control_starts_from_the_untouched_student_and_takes_the_steps_of_both_stages() -> None:
    control = mix("control", after="third", total_steps="with_parent")
    train = {"budget": "tokens", "num_steps": 10, "num_tokens": 1000}
    made = recipe((0,), mixes=[*STAGES, control], merges=MERGES, train=train)
    cell = by_name(made)["s@control"]
    assert cell.parents == ()
    assert cell.num_steps == 10 + 5 + 10 + 10 + 10, "third, second, first, b and its own"
    assert (cell.budget(made.train).num_steps, cell.budget(made.train).num_tokens) == (45, 4500)


def test_as_many_cells_run_at_once_as_one_generation_has() -> None:
    found = by_name(recipe((0,), mixes=STAGES, merges=MERGES))
    assert num_at_once(list(found.values()), None) == 2, "first and b"
    assert num_at_once([found["s@second"], found["s@b"], found["s@third"]], None) == 2, "first is done"
    assert num_at_once(list(found.values()), 1) == 1
    assert num_at_once([], None) == 1


FULL, LORA = {"kind": "full"}, {"kind": "lora", "rank": 2}


@pytest.mark.parametrize(
    ("tune", "arm", "model", "adapter", "has_adapter"),
    [
        (FULL, "first", "base", "", False),
        (FULL, "second", "first/model", "", False),
        (FULL, "third", "merged/model", "", False),
        (LORA, "first", "base", "", True),
        (LORA, "second", "base", "first/adapter", True),
        (LORA, "third", "merged/model", "", False),
        (LORA, "fourth", "merged/model", "third/adapter", False),
    ],
)
def test_full_weights_go_on_from_the_parents_and_an_adapter_is_trained_on_over_its_base(
    run_dir: RunDir, tune: dict[str, Any], arm: str, model: str, adapter: str, has_adapter: bool
) -> None:
    students = [{"name": "s", "model": "m", "tune": tune}]
    made = recipe((0,), mixes=[*STAGES, mix("fourth", after="third")], merges=MERGES, students=students)
    found = by_name(made)
    start = starting_weights(found[f"s@{arm}"], run_dir, "base", dict.fromkeys(found, "key"))

    def address(short: str) -> str:
        name, slash, folder = short.partition("/")
        return run_dir.address_of("train", f"s@{name}", folder) if slash else short

    assert start == StartingWeights(address(model), address(adapter))
    assert found[f"s@{arm}"].has_adapter == has_adapter
