"""Students and teachers that cannot be matched token by token are told before anything is asked."""

from typing import Any

from distill.config.load import parse_recipe
from distill.ops.doctor.findings import Finding
from distill.ops.doctor.matching import match_findings
from tests.fixtures import chat_templates as templates
from tests.fixtures.byte_tokenizer import tokenizer
from tests.fixtures.recipes import GOOD, recipe_with

SFT = {"name": "sft", "weights": {"long": 1.0}}
REFINE = {"name": "refine", "weights": {"long": 1.0}, "after": "sft", "objective": {"kind": "match", "max_tokens": 64}}
MODELS = dict.fromkeys(("m", "n"), GOOD["models"]["m"])
LONG, SHORT = GOOD["teachers"]
OF_N = [{**LONG, "model": "n"}, SHORT]


def found(student: Any, teacher: Any, **change: Any) -> list[Finding]:
    recipe = parse_recipe(recipe_with({"models": MODELS, "teachers": OF_N, "mixes": [SFT, REFINE]} | change))
    return list(match_findings(recipe, {"m": student, "n": teacher}))


def test_models_of_one_family_are_fine_and_arms_that_imitate_are_not_looked_at() -> None:
    (one,) = found(tokenizer(templates.PLAIN), tokenizer(templates.PLAIN))
    assert one.status == "ok" and "student s (m) and teacher long (n)" in one.what
    assert found(tokenizer(None), tokenizer(None), mixes=[SFT]) == []


def test_another_vocabulary_rendering_end_or_thinking_is_a_problem() -> None:
    plain, other = tokenizer(templates.PLAIN), tokenizer(templates.PLAIN)
    other.add_tokens(["<extra>"])
    (one,) = found(plain, other)
    assert one.status == "problem" and "other vocabularies" in one.what
    ends = tokenizer(templates.PLAIN.replace("{{ m.content }}<|im_end|>", "{{ m.content }}<|im_start|>"))
    assert any("end a turn with '<|im_end|>' and '<|im_start|>'" in one.what for one in found(plain, ends))
    assert any("render the same turns" in one.what for one in found(plain, tokenizer(templates.OPENS)))
    assert any("begin an answer differently" in one.what for one in found(plain, tokenizer(templates.OPENS)))


def test_a_reason_for_a_foreign_teacher_is_a_warning() -> None:
    foreign = {**REFINE, "weights": {"short": 1.0}, "objective": {**REFINE["objective"], "because": "one family"}}
    plain = tokenizer(templates.PLAIN)
    warning, fine = found(plain, plain, mixes=[SFT, foreign])
    assert warning.status == "warning" and "short compares, because one family" in warning.what and fine.status == "ok"
