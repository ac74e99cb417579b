"""Whether students can be matched with their teachers token by token, before anything is asked or trained."""

from collections.abc import Iterator, Mapping
from typing import Any

from distill.config.match_problems import scorers
from distill.config.mix import MixConfig
from distill.config.objectives import Match
from distill.config.recipe import Recipe
from distill.config.students import StudentConfig
from distill.config.teachers import ChatFormat, VllmTeacher
from distill.core.errors import InputError
from distill.models.chat_template import chat_messages, end_of_turn, prompt_text, with_mode
from distill.models.thinking import prompt_end
from distill.ops.doctor.findings import Finding

CHECK = "matching"
PLAIN = ChatFormat()


def match_findings(recipe: Recipe, tokenizers: Mapping[str, Any]) -> Iterator[Finding]:
    """Other vocabulary, other rendering or other end of a turn, of every student and teacher that an arm matches.

    `tokenizers`: by the models' names in the recipe; models that are not here are left out.
    """
    teachers = {one.name: one for one in recipe.teachers}
    for mix in recipe.mixes:
        if not isinstance(mix.objective, Match):
            continue
        if mix.objective.because:
            what = f"{mix.name}: {', '.join(scorers(mix))} compares, because {mix.objective.because}"
            yield Finding(CHECK, "warning", what, "it may draw the student to a text that it was never shown")
        for student in recipe.students:
            for name in scorers(mix):
                teacher = teachers[name]
                if recipe.takes(student.name, mix.name) and isinstance(teacher, VllmTeacher):
                    yield from _findings(recipe, mix, student, teacher, tokenizers)


def _findings(
    recipe: Recipe, mix: MixConfig, student: StudentConfig, teacher: VllmTeacher, tokenizers: Mapping[str, Any]
) -> Iterator[Finding]:
    if not {student.model, teacher.model} <= tokenizers.keys():
        return
    mine, its = tokenizers[student.model], tokenizers[teacher.model]
    who = f"{mix.name}: student {student.name} ({student.model}) and teacher {teacher.name} ({teacher.model})"
    chat = with_mode(recipe.student_chat, mix.modes.get(teacher.style))
    try:
        found = [*_differences(mine, its, chat, teacher.chat)]
    except InputError as error:
        found = [str(error).partition(" -> ")[0]]
    for what in found:
        yield Finding(CHECK, "problem", f"{who} {what}", "match a teacher of the same family, or imitate its traces")
    if not found:
        yield Finding(CHECK, "ok", f"{who} have the same tokens, rendering and end of a turn")


def _differences(mine: Any, its: Any, chat: ChatFormat, teacher_chat: ChatFormat) -> Iterator[str]:
    """What of student and teacher is not the same, in words."""
    if mine.get_vocab() != its.get_vocab():
        yield "have other vocabularies: a token of one is not a token of the other"
        return
    ends = [one.decode([end_of_turn(one)[-1]]) for one in (mine, its)]
    if ends[0] != ends[1]:
        yield f"end a turn with {ends[0]!r} and {ends[1]!r}"
    turns = chat_messages("?", PLAIN)
    if prompt_text(mine, turns) != prompt_text(its, turns):
        yield "have chat templates that render the same turns in different ways"
    asked = [
        prompt_end(prompt_text(one, chat_messages("?", how, trace="?"), how.template_options))
        for one, how in ((mine, chat), (its, teacher_chat))
    ]
    if asked[0] != asked[1]:
        yield "begin an answer differently: one prompt opens or closes the thinking, and the other does not"
