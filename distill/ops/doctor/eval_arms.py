"""Whether the students of the evaluation arms can answer as the arms ask, by their tokenizers and chat templates."""

from collections.abc import Iterator, Mapping
from typing import Any

from distill.config.eval_arms import NEED_MARKS, EvaluationArm
from distill.config.recipe import Recipe
from distill.config.teachers import ChatFormat
from distill.core.errors import InputError
from distill.models.chat_template import chat_messages, prompt_text, with_mode
from distill.models.thinking import prompt_end
from distill.ops.doctor.findings import Finding

CHECK = "evaluation arms"


def arm_findings(recipe: Recipe, tokenizers: Mapping[str, Any]) -> Iterator[Finding]:
    """What is found; students whose model has no tokenizer in `tokenizers` (by its key) are left out."""
    models = {student.name: student.model for student in recipe.students}
    for arm in recipe.evaluate.arms:
        for of in arm.answering:
            tokenizer = tokenizers.get(models[of.partition("@")[0]])
            if tokenizer is not None:
                yield from _findings(recipe, arm, of, tokenizer)


def _findings(recipe: Recipe, arm: EvaluationArm, of: str, tokenizer: Any) -> Iterator[Finding]:
    end, who = recipe.evaluate.reasoning_end, f"{arm.key} of {of}"
    num_tokens = len(tokenizer.encode(end, add_special_tokens=False))
    if arm.end_bias is not None and num_tokens != 1:
        what = f"{who}: {end} is {num_tokens} tokens of its tokenizer, and a bias applies to one"
        yield Finding(CHECK, "problem", what, "use budget or extend, which find the end of the reasoning as text")
    if arm.key not in NEED_MARKS:
        return
    try:
        chat = _chat(recipe, of)
        closed = prompt_end(prompt_text(tokenizer, chat_messages("2 + 2?", chat), chat.template_options)).closed
    except InputError:  # the student's own finding says what is wrong
        return
    if closed:
        what = f"{who}: the prompt has closed the reasoning, so that there is none to act on"
        remedy = "open it with the template's own switch, for example template_options = { enable_thinking = true }"
        yield Finding(CHECK, "problem", what, remedy)
    elif arm.key != "think" and "@" not in of and end not in str(tokenizer.chat_template):
        what = f"{who}: its chat template knows no {end}; an untouched student may never write it"
        yield Finding(CHECK, "warning", what, "compare trained students, whose traces have it")


def _chat(recipe: Recipe, of: str) -> ChatFormat:
    """How a student, named as an evaluation arm names it, is asked."""
    name, _, style = of.partition("@")[2].partition(":")
    modes = next((mix.prompt_modes for mix in recipe.mixes if mix.name == name), {})
    return with_mode(recipe.student_chat, next((mode for one, mode in modes.items() if one == style), None))
