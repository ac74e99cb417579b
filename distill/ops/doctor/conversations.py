"""Renders every student, teacher and mode before anything is paid for, and tells what their chat templates do."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from distill.config.recipe import Recipe
from distill.config.teachers import ChatFormat, VllmTeacher
from distill.core.errors import InputError
from distill.core.schema import Style
from distill.models.chat_template import chat_messages, end_of_turn, prompt_text, with_fixed_date, with_mode
from distill.models.thinking import PromptEnd, prompt_end, reasoning_delimiters
from distill.ops.doctor.findings import Finding

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHECK = "templates"
CHANNELS = {"<|channel|>": "harmony", "to=self<|message|>": "ATEM"}
"""Marks of templates whose models write reasoning and answer as messages of their own: gpt-oss, Muse Glimmer."""


class Asked(NamedTuple):
    """One way in which a model of the recipe is asked."""

    who: str
    model: str
    """A key of `[models]`."""
    chat: ChatFormat
    styles: frozenset[Style]
    """Of the traces that it is taught, or that it writes."""
    is_student: bool
    modes_of: str = ""
    """The student and the mix that it is a mode of, where the prompt is to tell it from the others; empty: it need
    not."""


def asked_ways(recipe: Recipe) -> list[Asked]:
    """Every student in every mode, and every teacher of this cluster."""
    students = [one for student in recipe.students for one in _student_ways(recipe, student.name, student.model)]
    teachers = [
        Asked(f"teacher {one.name}", one.model, one.chat, frozenset({Style(one.style)}), is_student=False)
        for one in recipe.teachers
        if isinstance(one, VllmTeacher)
    ]
    return [*students, *teachers]


def _student_ways(recipe: Recipe, name: str, model: str) -> Iterator[Asked]:
    styles = {teacher.name: Style(teacher.style) for teacher in recipe.teachers}
    plain: set[Style] = set()
    for mix in (mix for mix in recipe.mixes if recipe.takes(name, mix.name)):
        if not mix.modes:
            plain |= {styles[pool] for pool in mix.shares if pool in styles}
        for style, mode in mix.prompt_modes.items():
            arm = f"student {name} of {mix.name}"
            chat = with_mode(recipe.student_chat, mode)
            told_apart = "" if mix.modes_in else arm
            yield Asked(f"{arm} in mode {style}", model, chat, frozenset({style}), is_student=True, modes_of=told_apart)
    yield Asked(f"student {name}", model, recipe.student_chat, frozenset(plain), is_student=True)


def template_findings(asked: Iterable[Asked], tokenizers: Mapping[str, Any]) -> Iterator[Finding]:
    """What is found; models without a tokenizer in `tokenizers` (by their key) are left out."""
    here = [one for one in asked if one.model in tokenizers]
    for one in here:
        yield from _findings(one, tokenizers[one.model])
    for arm in dict.fromkeys(one.modes_of for one in here if one.modes_of):
        modes = [one for one in here if one.modes_of == arm]
        yield from _alike(arm, modes, tokenizers[modes[0].model])


def _findings(asked: Asked, tokenizer: "PreTrainedTokenizerBase") -> Iterator[Finding]:
    template = str(tokenizer.chat_template)
    if kind := next((kind for mark, kind in CHANNELS.items() if mark in template), ""):
        what = f"{asked.who}: {asked.model} writes reasoning and answer in channels ({kind}), which are not supported"
        yield Finding(CHECK, "problem", what, "ask it behind an endpoint that separates the reasoning")
        return
    try:
        prompt = _prompt(asked, tokenizer)
        end = tokenizer.decode([end_of_turn(tokenizer)[-1]])
    except InputError as error:
        yield Finding(CHECK, "problem", f"{asked.who}: {str(error).partition(' -> ')[0]}", _remedy(asked, error))
        return
    faults = list(_faults(asked, prompt_end(prompt), template, prompt))
    yield from faults
    if not any(fault.status == "problem" for fault in faults):
        yield Finding(CHECK, "ok", f"{asked.who}: {told(prompt_end(prompt))}; its turn ends with {end}")


def _alike(arm: str, modes: Sequence[Asked], tokenizer: "PreTrainedTokenizerBase") -> Iterator[Finding]:
    """The modes of a student whose prompts are the same: whatever it learnt, nothing could ask for one of them."""
    names: dict[str, list[str]] = {}
    try:
        for one in modes:
            names.setdefault(_prompt(one, tokenizer), []).extend(one.styles)
    except InputError:
        return  # told of that mode already
    for alike in (alike for alike in names.values() if len(alike) > 1):
        what = f"{arm}: its modes {' and '.join(alike)} render one and the same prompt, so nothing tells them apart"
        remedy = (
            "give them lines or template_options that the chat template writes into the prompt"
            ' (a line also with system_as = "user", where the template drops a system turn)'
        )
        yield Finding(CHECK, "problem", what, remedy)


def _prompt(asked: Asked, tokenizer: "PreTrainedTokenizerBase") -> str:
    return prompt_text(tokenizer, chat_messages("2 + 2?", asked.chat), asked.chat.template_options)


def told(start: PromptEnd) -> str:
    """What a prompt does with the reasoning, in words."""
    if start.opened:
        return f"the prompt opens {start.opened.start}"
    if start.closed:
        return f"the prompt closes {start.closed.start}, without reasoning"
    return "the prompt begins the answer" if start.is_answer else "the prompt opens nothing"


def _remedy(asked: Asked, error: InputError) -> str:
    if asked.chat.system is not None and asked.chat.system_as is None and "rejects the turns system" in str(error):
        section = "student_chat" if asked.is_student else "the teacher's chat"
        return f'set system_as = "user" in {section}: the system text then stands above the first question'
    return str(error).partition(" -> ")[2] or "set models.NAME.chat_template to a template that takes these turns"


def _faults(asked: Asked, start: PromptEnd, template: str, prompt: str) -> Iterator[Finding]:
    if start.closed and Style.LONG in asked.styles:
        what = f"{asked.who}: the prompt has closed {start.closed.start}, but its traces reason"
        remedy = "open it with the template's own switch, for example template_options = { enable_thinking = true }"
        yield Finding(CHECK, "problem" if asked.is_student else "warning", what, remedy)
    if start.opened and asked.styles == {Style.SHORT} and not asked.is_student:
        what = f"{asked.who}: the prompt opens {start.opened.start}, and its traces are to be short"
        remedy = "close it with the template's own switch, for example template_options = { enable_thinking = false }"
        yield Finding(CHECK, "warning", what, remedy)
    if unknown := [name for name in asked.chat.template_options if name not in template]:
        what = f"{asked.who}: its chat template has no variable {', '.join(unknown)}"
        yield Finding(CHECK, "problem", what, "correct template_options, or leave it out")
    if "strftime_now" in with_fixed_date(template).replace("strftime_now is defined", ""):
        what = f"{asked.who}: its chat template writes today's date in a way that cannot be fixed"
        yield Finding(CHECK, "problem", what, "set models.NAME.chat_template to the template without the date")
    if any(_is_lost(example.completion, prompt) for example in asked.chat.examples):
        what = f"{asked.who}: its chat template drops the reasoning of the worked examples"
        yield Finding(CHECK, "warning", what, "show examples without reasoning, or none")


def _is_lost(completion: str, prompt: str) -> bool:
    tags = reasoning_delimiters(completion.strip())
    return tags is not None and completion.partition(tags.end)[0].removeprefix(tags.start).strip() not in prompt
