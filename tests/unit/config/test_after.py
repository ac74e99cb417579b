"""`after`, `total_steps` and `sources`: what is refused while a recipe is read, and which arms are compared."""

from typing import Any

import pytest

from distill.config.arm_graph import ArmBudget, arm_budgets
from distill.config.load import parse_recipe
from tests.fixtures.recipes import problems_of, recipe_with

STEPS = {"budget": "steps", "num_steps": 40, "max_length": 256}
SOURCES = [
    {"kind": "reasoning_gym", "task": "knights_knaves", "name": "puzzles", "size": 50},
    {"kind": "file", "path": "sums.jsonl", "name": "sums", "max_rows": 80},
    {"kind": "file", "path": "more.jsonl"},
]


def mix(name: str, pool: str = "long", **more: Any) -> dict[str, Any]:
    return {"name": name, "weights": {pool: 1.0}} | more


def staged(*mixes: dict[str, Any], **more: Any) -> dict[str, Any]:
    return recipe_with({"mixes": [mix("warm"), mix("direct"), *mixes], **more})


@pytest.mark.parametrize(
    ("mixes", "where", "what"),
    [
        (
            [mix("a", after="wram")],
            "mixes[a].after",
            "no mix and no merge is called 'wram'\n    -> did you mean 'warm'",
        ),
        ([mix("a", after="a")], "mixes[a].after", "leads back to 'a': a after a\n    -> let one of them start without"),
        (
            [mix("a", after="b"), mix("b", after="c"), mix("c", after="a")],
            "mixes[a].after",
            "leads back to 'a': a after b after c after a",
        ),
        ([mix("a", after="of-s", students=["t"])], "mixes[a].after", "t is trained on 'a', but not on 'of-s'"),
        ([mix("a", after="of-s")], "mixes[a].after", "t is trained on 'a', but not on 'of-s'\n    -> add it to"),
        ([mix("a", total_steps="with_parent")], "mixes[a].total_steps", 'is "with_parent", and no `after` says which'),
        (
            [mix("a", after="warm", total_steps="with_parent")],
            "mixes[a].total_steps",
            'is "with_parent", and train.budget is "epochs"',
        ),
        (
            [{"name": "a", "weights": "auto", "pools": ["long", "short"], "after": "warm", "students": ["s"]}],
            "mixes[a].after",
            "weights are searched in short runs of the untouched student",
        ),
    ],
)
def test_an_arm_after_nothing_that_it_could_start_from_is_refused(
    mixes: list[dict[str, Any]], where: str, what: str
) -> None:
    students = [{"name": name, "model": "m"} for name in ("s", "t")]
    search = {"search": {"benchmark": "svamp", "num_steps": 5}} if mixes[0]["weights"] == "auto" else {}
    found = problems_of(staged(mix("of-s", students=["s"]), *mixes, students=students, **search))
    assert any(one.startswith(f"{where}: {what}") for one in found), found
    assert len(found) == len(mixes)


def test_a_circle_through_a_merge_is_found_and_one_beside_the_arm_is_not_its_own() -> None:
    merges = [{"name": "merged", "of": ["a", "warm"]}]
    found = problems_of(staged(mix("a", after="merged"), mix("b", after="a"), merges=merges))
    assert found == ["mixes[a].after: leads back to 'a': a after merged after a\n    -> let one of them start without"]


def test_a_merge_has_no_after() -> None:
    (problem,) = problems_of(staged(merges=[{"name": "merged", "of": ["warm", "direct"], "after": "warm"}]))
    assert problem.startswith("merges[merged].after: ")


def test_an_arm_of_one_size_starts_from_that_size_unless_another_is_named() -> None:
    mixes = [mix("warm"), mix("a", after="warm"), mix("b", after="warm-9")]
    recipe = parse_recipe(recipe_with({"mixes": mixes, "sizes": [5, 9]}))
    assert {one.name: one.after for one in recipe.mixes if one.after} == {
        "a-5": "warm-5", "a-9": "warm-9", "b-5": "warm-9", "b-9": "warm-9",
    }  # fmt: skip
    found = problems_of(recipe_with({"mixes": [mix("warm"), mix("a", after="warm-7")], "sizes": [5]}))
    assert "no mix and no merge is called 'warm-7'" in found[0]


def test_a_stage_has_its_own_number_of_steps_without_being_unfair() -> None:
    recipe = parse_recipe(
        recipe_with({"mixes": [mix("warm", num_steps=10), mix("a", after="warm", num_steps=30)], "train": STEPS})
    )
    assert [one.num_steps for one in recipe.mixes] == [10, 30]


def test_stages_are_compared_with_their_control_and_not_with_one_stage_of_fewer_steps() -> None:
    recipe = parse_recipe(
        staged(
            mix("a", after="warm"),
            mix("b", "short", after="other"),
            mix("other", "short"),
            mix("control", after="warm", total_steps="with_parent"),
            mix("few", num_prompts=7),
            merges=[{"name": "merged", "of": ["a", "b"]}, {"name": "mixed", "of": ["a", "warm"]}],
            train=STEPS,
        )
    )
    budgets = arm_budgets(recipe.mixes, recipe.merges)
    staged_budget = ArmBudget(before=(ArmBudget(),))
    assert {name for name, one in budgets.items() if one == staged_budget} == {"a", "b", "control", "merged"}
    assert {name for name, one in budgets.items() if one == ArmBudget()} == {"warm", "direct", "other", "mixed"}


def test_arms_with_the_same_sources_teach_the_same_prompts() -> None:
    mixes = [mix("a", sources=["sums", "puzzles"]), mix("b", "short", sources=["puzzles", "sums"]), mix("c")]
    recipe = parse_recipe(recipe_with({"mixes": mixes, "prompts": {"sources": SOURCES}}))
    groups = recipe.arm_groups
    assert [(one.sources, one.pools) for one in groups] == [(("puzzles", "sums"), ("long", "short")), ((), ("long",))]
    assert [one.has("sums") for one in groups] == [True, True] and [one.has("") for one in groups] == [False, True]


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"mixes": [mix("a", sources=["puzzels"])]}, "mixes[a].sources: no source is called 'puzzels'"),
        ({"prompts": {"sources": [*SOURCES, SOURCES[0]]}}, "prompts.sources: the name 'puzzles' is used 2 times"),
        (
            {"mixes": [mix("a", sources=["puzzles"], num_prompts=51)]},
            "mixes[a].num_prompts: 51, but its sources (puzzles) have at most 50 rows",
        ),
        (
            {"mixes": [mix("a", sources=["sums", "puzzles"], num_prompts=131)]},
            "mixes[a].num_prompts: 131, but its sources (sums, puzzles) have at most 130 rows",
        ),
        (
            {"mixes": [mix("a", sources=["sums"])], "generate": {"enough_prompts": 5}},
            "generate.enough_prompts: counts the prompts of all sources together",
        ),
    ],
)
def test_sources_that_cannot_be_taught_so_are_refused(change: dict[str, Any], what: str) -> None:
    (problem,) = problems_of(recipe_with({"prompts": {"sources": SOURCES}} | change))
    assert problem.startswith(what)
