"""Config of the primary question of a run: which arms are hoped to be better, and than which others."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import Field, ValidationError

from distill.config.arm_graph import arm_budgets
from distill.config.base import Section, items_of, one_of, section_of
from distill.config.mix import MergeConfig, MixConfig
from distill.core.errors import Problem


class QuestionConfig(Section):
    """The primary question, fixed before the run: is any of these arms better than all of those? The report answers it
    first, with one test per arm and student, corrected over all of them."""

    arms: tuple[str, ...] = ()
    """Mixes and merges that are hoped to be better. Absent: all that draw from several pools."""
    over: tuple[str, ...] = ()
    """Mixes and merges that each of them must beat, all of them. Of these an arm is compared with those that teach as
    many prompts in as many steps. Absent: all mixes of a single pool."""
    benchmark: str | None = Field(default=None)
    """One of `evaluate.benchmarks`. Absent: the mean of all."""
    margin_points: float = Field(default=0.0, ge=0.0, le=50.0)
    """Above 0 the question is whether accuracy is held: an arm need not be better than those of `over`, but has to be
    shown less than this many points below each of them (a test of non-inferiority)."""


class Candidate(NamedTuple):
    """An arm that is hoped to be better; names as students are scored under them."""

    arm: str
    over: tuple[str, ...]
    """The arms that it must beat, all of them."""


def candidates(
    question: QuestionConfig, mixes: Sequence[MixConfig], merges: Sequence[MergeConfig]
) -> tuple[Candidate, ...]:
    """The arms of a question, each with those that it must beat.

    Args:
        question: as it was asked.
        mixes: of the recipe; unknown names in the question are left out.
        merges: of the recipe.
    """
    names, budgets = _arm_names(mixes, merges), arm_budgets(mixes, merges)
    hoped = question.arms or [
        *(mix.name for mix in mixes if len(mix.drawn) > 1),
        *(merge.name for merge in merges),
    ]
    to_beat = question.over or [mix.name for mix in mixes if len(mix.drawn) == 1]
    over = [arm for name in to_beat for arm in names.get(name, ())]
    found = [
        Candidate(arm, tuple(other for other in over if budgets[other] == budgets[arm] and other != arm))
        for name in dict.fromkeys(hoped)
        for arm in names.get(name, ())
    ]
    return tuple(one for one in found if one.over or question.arms)


def _arm_names(mixes: Sequence[MixConfig], merges: Sequence[MergeConfig]) -> dict[str, tuple[str, ...]]:
    """Name in a recipe -> names that students are scored under: of a mix with modes one per mode."""
    arms = {one.name: tuple(one.arms) for one in (*mixes, *merges)}
    return arms | {arm: (arm,) for named in arms.values() for arm in named}


def question_problems(
    raw: Mapping[str, Any], mixes: Sequence[MixConfig], merges: Sequence[MergeConfig]
) -> Iterator[Problem]:
    """Unknown arms and benchmarks, an arm that is to beat itself, and a question that compares nothing."""
    if not isinstance(raw.get("question"), dict):
        return
    try:
        question = QuestionConfig.model_validate(raw["question"])
    except ValidationError:  # reported as a field problem
        return
    names = _arm_names(mixes, merges)
    unknown = [
        Problem(f"question.{field}", f"no mix and no merge is called {name!r}", one_of(name, names))
        for field, listed in (("arms", question.arms), ("over", question.over))
        for name in listed
        if name not in names
    ]
    yield from unknown
    for name in sorted({*question.arms} & {*question.over}):
        yield Problem("question.over", f"{name!r} is one of question.arms too", "remove it from one of them")
    benchmarks = [str(name) for name in items_of(section_of(raw, "evaluate").get("benchmarks"))]
    if question.benchmark is not None and question.benchmark not in benchmarks:
        what = f"{question.benchmark!r} is not evaluated"
        yield Problem("question.benchmark", what, one_of(question.benchmark, benchmarks))
    if mixes and not unknown:
        yield from _empty_problems(question, mixes, merges)


def _empty_problems(
    question: QuestionConfig, mixes: Sequence[MixConfig], merges: Sequence[MergeConfig]
) -> Iterator[Problem]:
    found = candidates(question, mixes, merges)
    if not found:
        what = "no mix of several pools and no merge has a mix of a single pool, of as many prompts and steps, to beat"
        yield Problem("question", what, "add such mixes, or name question.arms and question.over")
    for one in found:
        if not one.over:
            what = f"none of it teaches as many prompts in as many steps as {one.arm!r}"
            yield Problem("question.over", what, f"add one that does, or remove {one.arm!r} from question.arms")
