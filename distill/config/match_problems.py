"""Arms that match teachers on the student's own answers: what of them does not go together."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from distill.config.arm_graph import arms_by_name, mixes_trained_before
from distill.config.base import one_of, section_of
from distill.config.mix import MergeConfig, MixConfig, PairsMix
from distill.config.objectives import Match, Reinforce
from distill.config.teachers import EngineConfig, TeacherConfig, VllmTeacher, read_pool
from distill.config.train import TrainConfig
from distill.core.errors import Problem


def scorers(mix: MixConfig) -> tuple[str, ...]:
    """The teachers that say how likely a student's tokens are; none unless the arm matches one."""
    if not isinstance(mix.objective, Match):
        return ()
    return (mix.objective.teacher,) if mix.objective.teacher else mix.drawn


def match_problems(
    raw: Mapping[str, Any],
    teachers: Sequence[TeacherConfig],
    mixes: Sequence[MixConfig],
    merges: Sequence[MergeConfig],
) -> Iterator[Problem]:
    """Matching without a trained student, by a teacher whose log-probabilities cannot be had, or by a foreign one.

    Args:
        raw: the recipe as it was written.
        teachers: those that are valid by themselves, as are the mixes and merges.
        mixes: of the recipe.
        merges: of the recipe.
    """
    arms, known = arms_by_name(mixes, merges), {teacher.name: teacher for teacher in teachers}
    for mix in mixes:
        objective, where = mix.objective, f"mixes[{mix.name}].objective"
        if not isinstance(objective, Match):
            continue
        if not mix.starts_from:
            what = "matches the answers of a trained student, and the arm starts from the untouched one"
            yield Problem(where, what, "name in `after` the arm whose student writes")
        if mix.modes_in:
            what = "the student writes its mode itself, and the teacher that compares is that of the row's"
            yield Problem(where, what, "remove modes_in, so that a row asks for its mode")
        if isinstance(mix, PairsMix):
            yield Problem(where, "the student answers each row by itself, and the policy is pairs", "use another one")
        named = objective.teacher
        if named is not None and named not in known:
            yield Problem(f"{where}.teacher", f"no teacher is called {named!r}", one_of(named, known))
        elif named is None and len(mix.drawn) > 1 and not mix.modes:
            what = f"rows of {', '.join(mix.drawn)}, and nothing in a prompt says whose manner is asked for"
            yield Problem(where, what, "give the arm modes, or name one teacher in objective.teacher")
        for name in scorers(mix):
            if name in known:
                yield from _scorer_problems(where, known[name])
        taught = {pool for one in mixes_trained_before(mix, arms) for pool in one.drawn}
        foreign = [name for name in scorers(mix) if name in known and name not in taught]
        if mix.starts_from and foreign and not objective.because:
            what = f"{', '.join(foreign)} did not write the rows of {mix.after!r} ({', '.join(sorted(taught))})"
            yield Problem(where, what, "take a teacher that did, or say in objective.because why this one")
        yield from answer_room_problems(where, objective, raw)


def _scorer_problems(where: str, teacher: TeacherConfig) -> Iterator[Problem]:
    if not isinstance(teacher, VllmTeacher):
        what = f"{teacher.name!r} is of kind {teacher.kind}: it cannot say how likely another's tokens are"
        yield Problem(where, what, "name a teacher that is a model of this cluster in objective.teacher")
    elif read_pool(teacher) is not None:
        what = f"{teacher.name!r} reads {teacher.reads!r}: it has no prompt of its own for a student's answer"
        yield Problem(where, what, "name a teacher that reads nothing in objective.teacher")


def answer_room_problems(where: str, objective: Match | Reinforce, raw: Mapping[str, Any]) -> Iterator[Problem]:
    """Answers of students for which their engine, or a row of the training, has no room behind a prompt.

    `raw`: the recipe as it was written.
    """
    limits = (
        ("serve.engine", section_of(raw, "serve").get("engine", {}), EngineConfig, "max_model_len"),
        ("train", section_of(raw, "train"), TrainConfig, "max_length"),
    )
    for section, found, config, name in limits:
        most, field = found.get(name, config.model_fields[name].default), f"{section}.{name}"
        if isinstance(most, int) and objective.max_tokens >= most:
            what = f"{objective.max_tokens} leaves no room for a prompt in {field} {most}"
            yield Problem(f"{where}.max_tokens", what, f"lower it, or raise {field}")
