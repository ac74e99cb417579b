"""Which teachers are trained students, and in which pass of a run teachers are asked and arms are trained. Pure."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any, NamedTuple

from distill.config.arm_graph import ArmConfig, arms_by_name, students_of
from distill.config.base import circle, items_of, one_of, section_of
from distill.config.match_problems import scorers
from distill.config.mix import AutoMix, MergeConfig, Mix, MixConfig
from distill.config.teachers import TeacherConfig, VllmTeacher, read_pool
from distill.core.errors import Problem


class StudentName(NamedTuple):
    """A trained student as a teacher names it: `STUDENT@ARM`, or `STUDENT@ARM@SEED` for another seed than the first."""

    student: str
    arm: str
    seed: str
    """Empty: the first training seed."""


def trained_student(model: str) -> StudentName | None:
    """The student that a teacher's `model` names; None where it names one of `[models]`."""
    if "@" not in model:
        return None
    student, arm, seed = (*model.split("@", 2), "")[:3]
    return StudentName(student, arm, seed)


def student_of(teacher: TeacherConfig) -> StudentName | None:
    """The trained student that a teacher is; None for any other teacher."""
    return trained_student(teacher.model) if isinstance(teacher, VllmTeacher) else None


class PassNumbers(NamedTuple):
    """In which pass, counted from 1, a teacher is asked and an arm is mixed and trained."""

    teachers: Mapping[str, int]
    arms: Mapping[str, int]

    @property
    def last(self) -> int:
        """Number of passes."""
        return max([1, *self.teachers.values(), *self.arms.values()])


def pass_numbers(
    teachers: Sequence[TeacherConfig], mixes: Sequence[MixConfig], merges: Sequence[MergeConfig]
) -> PassNumbers:
    """The pass of every teacher and arm; of a recipe without circles."""
    by_name, arms = {teacher.name: teacher for teacher in teachers}, arms_by_name(mixes, merges)

    @cache
    def of_teacher(name: str) -> int:
        teacher = by_name.get(name)
        if teacher is None:
            return 1
        student, reads = student_of(teacher), read_pool(teacher)
        return max(1 if student is None else of_arm(student.arm) + 1, of_teacher(reads) if reads else 1)

    @cache
    def of_arm(name: str) -> int:
        arm = arms.get(name)
        if arm is None:
            return 1
        return max([1, *map(of_teacher, _pools(arm)), *map(of_arm, arm.starts_from)])

    return PassNumbers({name: of_teacher(name) for name in by_name}, {name: of_arm(name) for name in arms})


def _pools(arm: ArmConfig) -> tuple[str, ...]:
    """The teachers that an arm draws from or is compared with."""
    return (*arm.shares, *scorers(arm)) if isinstance(arm, Mix) else ()


def pass_problems(
    raw: Mapping[str, Any],
    teachers: Sequence[TeacherConfig],
    mixes: Sequence[MixConfig],
    merges: Sequence[MergeConfig],
    students: Sequence[str],
) -> Iterator[Problem]:
    """Teachers that are no student of the run, or wait for themselves, and settings that need a run of one pass.

    Args:
        raw: the recipe as it was written.
        teachers: those that are valid by themselves, as are the mixes and merges.
        mixes: of the recipe.
        merges: of the recipe.
        students: their names.
    """
    named = {teacher.name: found for teacher in teachers if (found := student_of(teacher))}
    if not named:
        return
    arms = arms_by_name(mixes, merges)
    for teacher, found in named.items():
        yield from _name_problems(f"teachers[{teacher}].model", found, arms, students, section_of(raw, "train"))
    following = _following({one.name: one for one in teachers}, arms)
    told = set[str]()
    for teacher in named:
        way = circle(f"teacher {teacher}", following)
        if way and teacher not in told:
            told |= {one.removeprefix("teacher ") for one in way}
            what = f"waits for itself: {' needs '.join(way)}"
            yield Problem(f"teachers[{teacher}].model", what, "let the arm draw from pools that are there before it")
    yield from _single_pass_problems(raw, mixes)


def _name_problems(
    where: str, name: StudentName, arms: Mapping[str, ArmConfig], students: Sequence[str], train: Mapping[str, Any]
) -> Iterator[Problem]:
    if name.student not in students:
        yield Problem(where, f"no student is called {name.student!r}", one_of(name.student, students))
    elif name.arm not in arms:
        arm, _, mode = name.arm.partition(":")
        is_mode = bool(mode) and arm in arms
        remedy = f"name {name.student}@{arm}, and ask for {mode} in chat" if is_mode else one_of(name.arm, arms)
        yield Problem(where, f"no mix and no merge is called {name.arm!r}", remedy)
    elif name.student not in students_of(arms[name.arm], arms, students):
        what = f"{name.student!r} is not trained on {name.arm!r}"
        yield Problem(where, what, f"add it to the students of {name.arm!r}, or name another arm")
    seeds = [str(seed) for seed in items_of(train.get("seeds", (0,)))]
    if name.seed and name.seed not in seeds:
        yield Problem(where, f"no student is trained with the seed {name.seed!r}", one_of(name.seed, seeds))


def _following(teachers: Mapping[str, TeacherConfig], arms: Mapping[str, ArmConfig]) -> Callable[[str], Iterator[str]]:
    """What a teacher or an arm has to wait for, each by its kind and name."""

    def names(node: str) -> Iterator[str]:
        kind, _, name = node.partition(" ")
        if kind == "teacher" and name in teachers:
            student, reads = student_of(teachers[name]), read_pool(teachers[name])
            yield from [f"arm {student.arm}"] if student else []
            yield from [f"teacher {reads}"] if reads else []
        elif kind == "arm" and name in arms:
            yield from (f"teacher {pool}" for pool in _pools(arms[name]))
            yield from (f"arm {one}" for one in arms[name].starts_from)

    return names


def _single_pass_problems(raw: Mapping[str, Any], mixes: Sequence[MixConfig]) -> Iterator[Problem]:
    """What would let a later pass change the arms of an earlier one, whose student has written by then."""
    why = "a trained student is a teacher"
    for mix in mixes:
        if isinstance(mix, AutoMix):
            what = f"weights are searched in a run of one pass, and {why}"
            yield Problem(f"mixes[{mix.name}].weights", what, "name the weights")
    if section_of(raw, "generate").get("enough_prompts") is not None:
        what = f"counts the prompts of all pools together, and {why}: its pool is filled in a later pass"
        yield Problem("generate.enough_prompts", what, "remove it, or set prompts.num_prompts")
    moded = [mix for mix in mixes if mix.modes]
    for mix in moded[1:]:
        if mix.modes != moded[0].modes:
            what = f"other modes than {moded[0].name!r}, and {why}: rows must have the same room in every pass"
            yield Problem(f"mixes[{mix.name}].modes", what, f"give it those of {moded[0].name!r}, or none")
