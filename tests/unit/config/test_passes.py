"""Trained students as teachers: which recipes can run, in which passes, and what the keys of a pass contain."""

from pathlib import Path
from typing import Any

import pytest

from distill.config.load import parse_recipe
from distill.config.pass_order import pass_numbers
from distill.config.passes import base_model, passes, teaching_cell
from distill.core.manifest import Manifest
from distill.core.run_dir import RunDir, StageName
from distill.run.stage_keys import stage_states
from tests.fixtures.recipes import GOOD, problems_of, recipe_with

SAMPLING = {"sampling": {"max_tokens": 64}}
OWN = {"name": "own", "model": "s@sft", "style": "long", "num_samples": 4, **SAMPLING}
BEST = {"name": "best", "model": "s@again", "style": "long", "num_samples": 4, **SAMPLING}
MIXES: list[dict[str, Any]] = [
    {"name": "again", "policy": "single", "pool": "own", "after": "sft"},
    {"name": "sft", "weights": {"long": 1.0}},
    {"name": "last", "weights": {"best": 0.5, "short": 0.5}},
]


def with_students(**changes: Any) -> dict[str, Any]:
    """A recipe of three passes: the student of `sft` writes for `again`, and that one's for `last`."""
    teachers = [BEST, OWN, *GOOD["teachers"]]
    return recipe_with({"teachers": teachers, "mixes": MIXES} | changes)


def test_a_student_writes_in_the_pass_after_its_training_and_arms_wait_for_what_they_draw_from() -> None:
    recipe = parse_recipe(with_students())
    numbers = pass_numbers(recipe.teachers, recipe.mixes, recipe.merges)
    assert numbers.teachers == {"long": 1, "short": 1, "own": 2, "best": 3}
    assert numbers.arms == {"sft": 1, "again": 2, "last": 3}
    arms = [[mix.name for mix in one.mixes] for one in passes(recipe)]
    assert arms == [["sft"], ["again", "sft"], ["again", "sft", "last"]]
    assert [[one.name for one in part.teachers] for part in passes(recipe)][:2] == [
        ["long", "short"],
        ["own", "long", "short"],
    ]
    assert passes(recipe)[-1] is recipe


def test_arms_of_one_pass_teach_the_same_prompts_and_change_none_of_an_earlier_one() -> None:
    recipe = parse_recipe(with_students())
    groups = [(group.key.number, group.pools) for group in recipe.arm_groups]
    assert groups == [(1, ("long",)), (2, ("own",)), (3, ("best", "short"))]
    assert [group.pools for group in passes(recipe)[0].arm_groups] == [("long",)]


def test_an_arm_that_comes_after_one_of_a_later_pass_waits_and_a_merge_has_the_pass_of_its_last_parent() -> None:
    more = {"name": "more", "weights": {"long": 1.0}, "after": "again"}
    merged = {"name": "both", "of": ["sft", "again"]}
    recipe = parse_recipe(with_students(mixes=[*MIXES, more], merges=[merged]))
    arms = pass_numbers(recipe.teachers, recipe.mixes, recipe.merges).arms
    assert (arms["more"], arms["both"]) == (2, 2)


def test_of_several_seeds_the_first_ones_student_writes_unless_another_is_named() -> None:
    recipe = parse_recipe(with_students(train={"max_length": 256, "seeds": [7, 8]}))
    assert teaching_cell(recipe, "s@sft") == "s@sft@7" and teaching_cell(recipe, "s@sft@8") == "s@sft@8"
    assert base_model(recipe, "s@sft@8") == "m" == base_model(recipe, "m")
    assert teaching_cell(parse_recipe(with_students()), "s@sft") == "s@sft"


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"teachers": [{**OWN, "model": "t@sft"}]}, "teachers[own].model: no student is called 't'"),
        ({"teachers": [{**OWN, "model": "s@stf"}]}, "no mix and no merge is called 'stf'"),
        ({"teachers": [{**OWN, "model": "s@sft@3"}]}, "no student is trained with the seed '3'"),
        (
            {"teachers": [{**OWN, "model": "s@again"}]},
            "waits for itself: teacher own needs arm again needs teacher own",
        ),
        ({"mixes": [*MIXES, {"name": "auto", "weights": "auto", "pools": ["long", "own"]}]}, "run of one pass"),
        ({"generate": {"enough_prompts": 9}}, "generate.enough_prompts: counts the prompts of all pools together"),
        (
            {
                "mixes": [
                    {**MIXES[1], "modes": {"long": "Think."}},
                    {**MIXES[0], "modes": {"long": "Think long."}},
                    MIXES[2],
                ]
            },
            "mixes[again].modes: other modes than 'sft'",
        ),
    ],
)
def test_what_cannot_run_is_refused_by_name(change: dict[str, Any], what: str) -> None:
    if "teachers" in change:
        change = {"teachers": [*change["teachers"], BEST, *GOOD["teachers"]]}
    found = problems_of(with_students(**change))
    assert [one for one in found if what in one], found


def test_a_mode_and_a_student_that_is_not_trained_on_the_arm_are_told_apart() -> None:
    moded = [{**MIXES[1], "modes": {"long": "Think."}}, MIXES[0], MIXES[2]]
    asked = [{**OWN, "model": "s@sft:long"}, BEST, *GOOD["teachers"]]
    (mode,) = problems_of(with_students(mixes=moded, teachers=asked))
    assert "name s@sft, and ask for long in chat" in mode
    students = [*GOOD["students"], {"name": "t", "model": "m"}]
    mixes = [MIXES[0], {**MIXES[1], "students": ["t"]}, MIXES[2]]
    assert any(
        "'s' is not trained on 'sft'" in one for one in problems_of(with_students(students=students, mixes=mixes))
    )


def test_what_decides_an_earlier_pass_makes_the_later_ones_traces_stale_and_nothing_else_does(run_dir: RunDir) -> None:
    def keys(**changes: Any) -> dict[StageName, str]:
        states = stage_states(parse_recipe(with_students(**changes)), Path(), run_dir)
        return {stage: state.key for stage, state in states.items()}

    before = keys()
    other = keys(train={"max_length": 256, "num_epochs": 5})
    assert other[StageName.PROMPTS] == before[StageName.PROMPTS]
    assert other[StageName.GENERATE] != before[StageName.GENERATE], "other students write other traces"
    last = keys(mixes=[*MIXES[:2], {"name": "last", "weights": {"best": 0.25, "short": 0.75}}])
    assert last[StageName.GENERATE] == before[StageName.GENERATE] and last[StageName.MIX] != before[StageName.MIX]


def test_a_finished_run_counts_as_unchanged_where_its_input_files_cannot_be_seen(
    run_dir: RunDir, tmp_path: Path
) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"problem": "1 + 1 =", "answer": "2"}')
    recipe = parse_recipe(with_students(prompts={"sources": [{"kind": "file", "path": "prompts.jsonl"}]}))
    for state in stage_states(recipe, tmp_path, run_dir).values():
        run_dir.write_manifest(Manifest(state.stage, state.key, details={"config": dict(state.config)}), state.stage)
    assert {state.status for state in stage_states(recipe, None, run_dir).values()} == {"done"}
