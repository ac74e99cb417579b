"""Arms that match teachers on the student's own answers: what is refused before anything runs."""

from typing import Any

import pytest

from distill.config.load import parse_recipe
from distill.config.match_problems import scorers
from tests.fixtures.recipes import GOOD, problems_of, recipe_with

SFT = {"name": "sft", "weights": {"long": 0.5, "short": 0.5}, "modes": {"long": "Think.", "short": "Be brief."}}
ONLY = {"name": "only", "weights": {"long": 1.0}}
OBJECTIVE = {"kind": "match", "max_tokens": 64}
FAR = {"kind": "endpoint", "name": "far", "style": "long", "base_url": "http://x/v1", "remote_model": "far"}
EDIT = {"name": "edit", "model": "m", "style": "long", "reads": "long", "chat": {"template": "{problem} {trace}"}}
FILE = {
    "kind": "dataset",
    "name": "file",
    "style": "long",
    "source": {"kind": "file", "path": "traces.jsonl"},
    "columns": {"problem": "q", "completion": "a"},
}
RULE = {"kind": "rule", "name": "rule", "style": "long", "reads": "long", "replace": [{"pattern": "So "}]}
TEACHERS = [*GOOD["teachers"], FAR, FILE, RULE, {**EDIT, "sampling": {"max_tokens": 64}}]


def refine(**changes: Any) -> dict[str, Any]:
    """An arm that matches, with changed fields."""
    return {**SFT, "name": "refine", "after": "sft", "objective": OBJECTIVE} | changes


def with_refine(**changes: Any) -> dict[str, Any]:
    return recipe_with({"mixes": [SFT, ONLY, refine(**changes)], "teachers": TEACHERS})


def test_each_answer_is_compared_by_the_teacher_of_its_mode_or_all_by_the_one_that_is_named() -> None:
    assert scorers(parse_recipe(with_refine()).mixes[2]) == ("long", "short")
    named = {"modes": {}, "objective": {**OBJECTIVE, "teacher": "long"}}
    assert scorers(parse_recipe(with_refine(**named)).mixes[2]) == ("long",)
    assert scorers(parse_recipe(with_refine()).mixes[0]) == ()


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"after": None}, "the arm starts from the untouched one"),
        ({"modes": {}}, "nothing in a prompt says whose manner is asked for"),
        ({"objective": {**OBJECTIVE, "teacher": "lang"}}, "no teacher is called 'lang'"),
        ({"objective": {**OBJECTIVE, "teacher": "far"}}, "'far' is of kind endpoint: it cannot say how likely"),
        ({"objective": {**OBJECTIVE, "teacher": "edit"}}, "'edit' reads 'long'"),
        ({"objective": {**OBJECTIVE, "teacher": "file"}}, "'file' is of kind dataset: it cannot say how likely"),
        ({"objective": {**OBJECTIVE, "teacher": "rule"}}, "'rule' is of kind rule: it cannot say how likely"),
        ({"modes_in": "completion"}, "the student writes its mode itself"),
        ({"after": "only"}, "short did not write the rows of 'only' (long)"),
        ({"objective": {**OBJECTIVE, "max_tokens": 8192}}, "no room for a prompt in serve.engine.max_model_len 8192"),
        ({"policy": "pairs", "pools": ["long"], "weights": None, "modes": {}}, "the policy is pairs"),
    ],
)
def test_what_cannot_be_matched_is_refused_with_a_remedy(change: dict[str, Any], what: str) -> None:
    raw = with_refine(**change)
    arm = {name: value for name, value in raw["mixes"][2].items() if value is not None}
    found = problems_of(raw | {"mixes": [SFT, ONLY, arm]})
    assert any(what in one and "->" in one for one in found), found


def test_a_foreign_teacher_needs_a_reason() -> None:
    foreign = {"after": "only", "weights": {"short": 1.0}, "modes": {}}
    assert any("objective.because" in one for one in problems_of(with_refine(**foreign)))
    parse_recipe(with_refine(**foreign, objective={**OBJECTIVE, "because": "both are the same model"}))
