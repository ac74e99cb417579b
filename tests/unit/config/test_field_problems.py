"""What pydantic refuses is one problem per mistake, in the recipe's own words."""

from typing import Any

import pytest

from distill.config.load import parse_recipe
from tests.fixtures.recipes import GOOD, problems_of, recipe_with

REMOTE = {"kind": "endpoint", "name": "far", "style": "long", "base_url": "http://h/v1", "remote_model": "m"}
ROWS = {"kind": "dataset", "name": "rows", "style": "long", "source": {"kind": "file", "path": "t.jsonl"}}


def with_teacher(teacher: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return recipe_with({"teachers": [*GOOD["teachers"], {**teacher, **fields}]})


def with_where(condition: Any) -> dict[str, Any]:
    return recipe_with({"prompts": {"sources": [{"kind": "file", "path": "p.jsonl", "where": {"level": condition}}]}})


@pytest.mark.parametrize(
    ("condition", "where", "said"),
    [
        ({"min": 2, "max": 1}, "level", "no number is at least 2 and at most 1"),
        ({}, "level", "needs `min`, `max` or both"),
        ({"min": float("nan")}, "level.min", "finite"),
        ({"max": float("inf")}, "level.max", "finite"),
        ({"mn": 1}, "level.mn", "did you mean 'min'"),
        (float("nan"), "level", "no row has this number"),
        ([1, float("nan")], "level[1]", "no row has this number"),
        ([], "level", "no row has one of no values"),
        ([[1]], "level[0]", "no value to compare with"),
        (None, "level", "no value to compare with"),
    ],
)
def test_a_condition_that_no_row_can_meet_is_one_problem_where_it_stands(condition: Any, where: str, said: str) -> None:
    (problem,) = problems_of(with_where(condition))
    assert problem.startswith(f"prompts.sources[0].where.{where}: ") and said in problem


def test_conditions_of_imported_traces_are_checked_alike() -> None:
    (problem,) = problems_of(with_teacher(ROWS, where={"dataset": {"min": 1, "max": 0}}))
    assert problem.startswith("teachers[rows].where.dataset: ")


@pytest.mark.parametrize("condition", [True, 4, 0.5, "easy", ["a", 1], {"min": 1}, {"min": 1, "max": 1}])
def test_conditions_that_rows_can_meet_are_taken(condition: Any) -> None:
    recipe = parse_recipe(with_where(condition))
    assert type(recipe).model_validate_json(recipe.model_dump_json()) == recipe


@pytest.mark.parametrize(
    ("change", "where", "said"),
    [
        (with_teacher(REMOTE, columns={}), "teachers[far].columns", ("kind = 'dataset'", "kind = 'endpoint'")),
        (with_teacher(REMOTE, kind="vllm", model="m"), "teachers[far].base_url", ("kind = 'endpoint'",)),
        (
            recipe_with({"mixes": [{"name": "a", "pool": "long", "weights": {"long": 1.0}}]}),
            "mixes[a].pool",
            ("policy = 'single'", "policy = 'weighted', which is the default"),
        ),
        (with_teacher(REMOTE, colums={}), "teachers[far].colums", ("did you mean columns (of 'dataset')",)),
        (with_teacher(REMOTE, kind="endpont"), "teachers[far]", ("no kind 'endpont'", "did you mean 'endpoint'")),
        (with_teacher(ROWS, dataset="a/b"), "teachers[rows].dataset", ("not a known key", "source")),
    ],
)
def test_a_key_of_another_kind_is_told_with_that_kind(
    change: dict[str, Any], where: str, said: tuple[str, ...]
) -> None:
    (problem,) = [one for one in problems_of(change) if one.startswith(f"{where}: ")]
    assert all(part in problem for part in said)


def test_a_value_that_may_be_of_several_types_is_refused_once() -> None:
    (problem,) = problems_of(with_teacher(ROWS, columns={"completion": ["a", 1]}))
    assert problem.startswith("teachers[rows].columns.completion[1]: 1 is refused")
    (problem,) = problems_of(with_teacher(ROWS, columns={"completion": 5}))
    assert problem.startswith("teachers[rows].columns.completion: 5 is refused") and ", or " in problem
    (problem,) = problems_of(with_teacher(REMOTE, chat={"template_options": {"full": 0.5}}))
    assert problem.startswith("teachers[far].chat.template_options.full: 0.5 is refused")


@pytest.mark.parametrize("columns", [{"completion": []}, {"completion": ""}, {"reasoning": []}])
def test_a_column_without_a_name_is_refused(columns: dict[str, Any]) -> None:
    assert all("teachers[rows].columns" in problem for problem in problems_of(with_teacher(ROWS, columns=columns)))


def test_names_of_the_recipe_are_never_taken_for_a_kind() -> None:
    (problem,) = [
        one for one in problems_of(recipe_with({"mixes": [{"name": "a", "weights": {"full": 2.0}}]})) if "2.0" in one
    ]
    assert problem.startswith("mixes[a].weights.full: ")
