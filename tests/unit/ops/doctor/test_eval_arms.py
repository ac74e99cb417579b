"""What is told of evaluation arms before a run starts. Tokenizers of bytes, templates of our own."""

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from distill.config.load import parse_recipe
from distill.core.errors import InputError
from distill.models.resolve import ResolvedModel
from distill.ops.doctor import preflight
from distill.ops.doctor.eval_arms import arm_findings
from distill.ops.doctor.findings import Finding
from tests.fixtures import chat_templates as templates
from tests.fixtures.byte_tokenizer import tokenizer
from tests.fixtures.mix_run import RECIPE


def recipe_with(arm: dict[str, Any], reasoning_end: str = "</think>") -> Any:
    evaluate = {**RECIPE["evaluate"], "arms": [arm], "reasoning_end": reasoning_end}
    return parse_recipe(RECIPE | {"evaluate": evaluate})


def found(template: str, arm: dict[str, Any], reasoning_end: str = "</think>") -> list[Finding]:
    return list(arm_findings(recipe_with(arm, reasoning_end), {"m": tokenizer(template)}))


def test_a_bias_on_an_end_of_several_tokens_is_a_problem_that_names_their_number() -> None:
    (problem,) = found(templates.PLAIN, {"of": "s@long", "end_bias": 2})
    assert (
        problem.status == "problem" and "</think> is 8 tokens" in problem.what and "budget or extend" in problem.remedy
    )
    assert not found(templates.PLAIN, {"of": "s@long", "end_bias": 2}, reasoning_end="#")


@pytest.mark.parametrize("arm", [{"budget": [9]}, {"extend": {"times": 1}}, {"think": False}])
def test_a_prompt_that_has_closed_the_reasoning_leaves_nothing_to_act_on(arm: dict[str, Any]) -> None:
    (problem,) = found(templates.CLOSED_BY_DEFAULT, {"of": "s@long", **arm})
    assert problem.status == "problem" and "has closed the reasoning" in problem.what
    assert not found(templates.OPENS, {"of": "s@long", **arm})


def test_an_untouched_student_whose_template_knows_no_mark_is_a_warning() -> None:
    (warned,) = found(templates.PLAIN, {"of": "s", "budget": [9]})
    assert warned.status == "warning" and "may never write it" in warned.what
    assert not found(templates.PLAIN, {"of": "s", "language": "de"}) and not found(
        templates.PLAIN, {"of": "s@long", "budget": [9]}
    )


def test_a_bias_that_cannot_be_applied_stops_a_run_before_its_first_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preflight, "load_tokenizer", lambda folder: tokenizer(templates.PLAIN))
    model = ResolvedModel("m", str(tmp_path), "somewhere", "id", 1, 1)
    recipe = recipe_with({"of": "s@long", "end_bias": 2})
    with pytest.raises(InputError, match=r"nothing was asked or trained yet(.|\n)*evaluation arms(.|\n)*8 tokens"):
        preflight.refuse_templates(recipe, {"m": model}, Console(quiet=True))
