"""Suites: a word for several benchmarks, resolved when a recipe is read."""

from typing import Any

import pytest

from distill.config.benchmarks import DEFINITIONS, SUITES, suite_benchmarks
from distill.config.load import parse_recipe
from distill.core.languages import COMMA_LANGUAGES, KNOWN_LANGUAGES
from distill.evaluate.language_detector import known_languages
from tests.fixtures.recipes import problems_of, recipe_with

OWN: dict[str, Any] = {
    "source": {"kind": "file", "path": "own.jsonl", "answer_kind": "choice", "language": "de"},
    "suite": ["choices", "mine"],
}


def benchmarks(evaluate: dict[str, Any], own: dict[str, Any] | None = None) -> tuple[str, ...]:
    return parse_recipe(recipe_with({"evaluate": evaluate, "benchmarks": own or {}})).evaluate.benchmarks


def test_a_suite_stands_for_its_built_in_benchmarks() -> None:
    assert benchmarks({"suite": ["maths"]}) == SUITES["maths"]
    assert benchmarks({"benchmarks": ["svamp", "gsm8k"], "suite": ["maths"]}) == (
        *("svamp", "gsm8k"),
        *SUITES["maths"][1:],
    )
    assert len(benchmarks({"suite": ["languages", "choices"]})) == 11 + 3


def test_benchmarks_of_the_recipe_take_the_place_of_built_in_ones() -> None:
    assert benchmarks({"suite": ["choices"]}, {"own": OWN}) == ("own",)
    assert benchmarks({"suite": ["mine", "maths"]}, {"own": OWN}) == ("own", *SUITES["maths"])
    assert suite_benchmarks("choices", {"own": ("maths",)}) == SUITES["choices"]


def test_a_resolved_recipe_is_the_same_recipe() -> None:
    recipe = parse_recipe(recipe_with({"evaluate": {"suite": ["choices"]}, "benchmarks": {"own": OWN}}))
    assert parse_recipe(recipe.model_dump(mode="json")) == recipe


def test_suites_name_benchmarks_that_exist() -> None:
    assert {name for names in SUITES.values() for name in names} <= set(DEFINITIONS)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"evaluate": {"suite": ["choice"]}}, "no suite is called 'choice'\n    -> did you mean 'choices'?"),
        ({"evaluate": {"benchmarks": ["gsm8k"], "suite": "choices"}}, "evaluate.suite"),
        ({"benchmarks": {"own": OWN | {"suite": "choices"}}}, "benchmarks.own.suite"),
        ({"benchmarks": {"own": {"source": OWN["source"] | {"language": "german"}}}}, "knows no such language"),
        (
            {"prompts": {"sources": [{"kind": "file", "path": "p.jsonl", "language": "xx"}]}},
            'prompts.sources[0].language: "xx" is refused: the detector knows no such language',
        ),
        (
            {
                "evaluate": {
                    "benchmarks": ["mgsm-de"],
                    "arms": [{"of": "s", "language": {"name": "pirate", "opening": "Arr,"}}],
                }
            },
            "evaluate.arms[0].language: the detector knows no language 'pirate'",
        ),
    ],
)
def test_what_is_unknown_is_one_clear_error(change: dict[str, Any], said: str) -> None:
    (problem,) = problems_of(recipe_with(change))
    assert said in problem


def test_the_languages_that_a_recipe_may_name_are_those_of_the_detector() -> None:
    assert known_languages() == KNOWN_LANGUAGES and KNOWN_LANGUAGES > COMMA_LANGUAGES
