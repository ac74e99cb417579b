"""Problems of a recipe that only show when its sections are seen together.

They are checked on every section that parses by itself, even where others do not, so that all of a recipe's problems
come in one go.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from distill.config.arm_graph import after_problems
from distill.config.base import names_of, one_of, repeated, section_of
from distill.config.eval_arms import arm_problems
from distill.config.evaluate import benchmark_problems, evaluate_problems, leak_problems, template_problems
from distill.config.forecast import forecast_problems
from distill.config.match_problems import match_problems
from distill.config.mix import MergeConfig, MixConfig
from distill.config.mix_problems import filter_problems, merge_problems, mix_problems, mode_problems
from distill.config.pair_problems import pair_problems, unequal_pair_problems
from distill.config.pass_order import pass_problems, trained_student
from distill.config.prompt_sets import size_problems, source_problems
from distill.config.question import question_problems
from distill.config.reinforce_problems import reinforce_problems
from distill.config.search import search_problems
from distill.config.students import StudentConfig, base_problems, batch_problems, layout_problems, length_problems
from distill.config.teacher_problems import engine_problems, reader_problems, same_teachers, teacher_problems
from distill.config.teachers import AskedTeacher, TeacherConfig, VllmTeacher
from distill.config.train import (
    budget_problems,
    own_steps_problems,
    tracker_problems,
    unequal_arm_problems,
)
from distill.core.errors import Problem

SectionT = TypeVar("SectionT")


def cross_problems(raw: Mapping[str, Any]) -> list[Problem]:
    """Problems that only show when sections are seen together."""
    teachers = _parsed(TypeAdapter(TeacherConfig), raw.get("teachers"))
    students = _parsed(TypeAdapter(StudentConfig), raw.get("students"))
    mixes = _parsed(TypeAdapter(MixConfig), raw.get("mixes"))
    merges = _parsed(TypeAdapter(MergeConfig), raw.get("merges"))
    pools = {name: _samples(teachers, name) for name in names_of(raw.get("teachers"))}
    ours = [teacher for teacher in teachers if isinstance(teacher, VllmTeacher)]
    untrained = [teacher for teacher in ours if trained_student(teacher.model) is None]
    asked = [teacher for teacher in teachers if isinstance(teacher, AskedTeacher)]
    return [
        *_duplicate_names(raw),
        *_unknown_models(raw, [*_numbered("teachers", untrained), *_numbered("students", students)]),
        *pass_problems(raw, teachers, mixes, merges, names_of(raw.get("students"))),
        *(problem for mix in mixes for problem in mix_problems(mix, pools, names_of(raw.get("students")))),
        *(
            problem
            for mix in mixes
            for problem in mode_problems(mix, _styles(teachers), section_of(raw, "filters").get("too_long_takes"))
        ),
        *(problem for mix in mixes for problem in pair_problems(mix, pools)),
        *match_problems(raw, teachers, mixes, merges),
        *reinforce_problems(raw, mixes, merges, students),
        *filter_problems(section_of(raw, "filters"), mixes, section_of(raw, "train").get("max_length", 4096)),
        *(problem for teacher in asked for problem in teacher_problems(teacher)),
        *(problem for teacher in ours for problem in engine_problems(teacher)),
        *same_teachers(teachers),
        *reader_problems(teachers, names_of(raw.get("teachers"))),
        *length_problems(raw, students),
        *(problem for student in students for problem in batch_problems(raw, student)),
        *budget_problems(section_of(raw, "train")),
        *tracker_problems(section_of(raw, "train")),
        *unequal_arm_problems(section_of(raw, "train"), mixes),
        *unequal_pair_problems(section_of(raw, "train"), mixes),
        *own_steps_problems(section_of(raw, "train"), mixes),
        *size_problems(raw, mixes),
        *source_problems(raw, mixes),
        *merge_problems(merges, mixes),
        *after_problems(section_of(raw, "train"), mixes, merges, names_of(raw.get("students"))),
        *search_problems(raw, mixes, names_of(raw.get("students"))),
        *(problem for student in students for problem in layout_problems(student)),
        *base_problems(students, names_of(raw.get("students"))),
        *benchmark_problems(raw),
        *template_problems(raw),
        *leak_problems(raw),
        *evaluate_problems(raw),
        *question_problems(raw, mixes, merges),
        *arm_problems(raw, mixes, merges, names_of(raw.get("students"))),
        *forecast_problems(section_of(raw, "forecast"), names_of(raw.get("teachers"))),
    ]


def _parsed(section: TypeAdapter[SectionT], items: Any) -> list[SectionT]:
    """The items of a list that are valid by themselves; the others are reported as field problems."""
    parsed = []
    for item in items if isinstance(items, list | tuple) else ():
        try:
            parsed.append(section.validate_python(item))
        except ValidationError:
            continue
    return parsed


def _styles(teachers: Iterable[TeacherConfig]) -> dict[str, str]:
    return {teacher.name: str(teacher.style) for teacher in teachers}


def _samples(teachers: Sequence[TeacherConfig], name: str) -> int:
    """Most traces per prompt of a teacher; of one that does not parse nothing is known."""
    return next((teacher.num_samples for teacher in teachers if teacher.name == name), 0)


def _numbered(where: str, items: Sequence[Any]) -> list[tuple[str, str]]:
    return [(f"{where}[{item.name}].model", item.model) for item in items]


def _duplicate_names(raw: Mapping[str, Any]) -> Iterator[Problem]:
    for section in ("teachers", "mixes", "merges", "students"):
        names = names_of(raw.get(section))
        for name in sorted(repeated(names)):
            yield Problem(section, f"the name {name!r} is used {names.count(name)} times", "give each its own name")


def _unknown_models(raw: Mapping[str, Any], uses: Iterable[tuple[str, str]]) -> Iterator[Problem]:
    models = section_of(raw, "models")
    for where, model in uses:
        if model not in models:
            yield Problem(where, f"no model is called {model!r}", one_of(model, models))
