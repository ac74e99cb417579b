"""The work of each stage of a recipe in prompts, traces and tokens: set in the recipe, measured or assumed. Pure.

A teacher is only asked prompts that the cheaper ones of its mixes solved, so counts follow from the solve rates in the
order in which teachers are asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from distill.config.asking_order import asking_order
from distill.config.mix import BothMix, PairsMix
from distill.config.prompt_sets import GroupKey
from distill.config.recipe import Recipe
from distill.config.sources import GymSource
from distill.config.teachers import (
    AskedTeacher,
    DatasetTeacher,
    Reader,
    RuleTeacher,
    TeacherConfig,
    engine_key,
    read_pool,
)
from distill.core.schema import Style
from distill.ops.forecast.expected_samples import ExpectedSamples, expected_samples
from distill.train.plan import MixData

SOLVE_RATE = 0.6
MEAN_TOKENS = {Style.LONG: 3500.0, Style.SHORT: 400.0}
PROMPT_TOKENS = 200.0
STUDENT_PROMPT_TOKENS = 150.0


class Assumption(NamedTuple):
    """One number that the forecast rests on, and where it is from."""

    name: str
    """The field of `[forecast]` that sets it."""
    value: float
    source: str
    """`recipe`, `measured` or `assumed`."""


@dataclass(frozen=True)
class MeasuredTeacher:
    """Measurements of one teacher in a run directory."""

    num_samples: int
    samples: ExpectedSamples
    """Traces per prompt, and the share of the prompts that it solved."""
    solve_rate: float
    """Correct share of its traces."""
    tokens: float
    """Mean completion."""
    correct_tokens: float
    """Mean correct completion."""


@dataclass(frozen=True)
class MeasuredWork:
    """Measurements of the work itself in a run directory, whatever machines it ran on. Absent: not measured."""

    teachers: Mapping[str, MeasuredTeacher] = field(default_factory=dict)
    prompt_tokens: float | None = None
    prefix_hits: float | None = None
    usable: float = 1.0
    """Share that the filters kept of the prompts which every pool solved."""
    row_prompt_tokens: float | None = None
    """Of a student's example."""
    answer_tokens: float | None = None
    answer_prompt_tokens: float | None = None


@dataclass(frozen=True)
class PoolWork:
    """The work of one teacher."""

    teacher: TeacherConfig
    prompts: float
    """Prompts that it is asked."""
    traces: float
    tokens: float
    """Mean completion, without what a teacher continues."""
    correct_tokens: float
    """Mean correct completion, all of it."""
    read_tokens: float = 0.0
    """Of what it reads, per request: they are part of its prompt."""

    @property
    def longest(self) -> float:
        """Expected length of the longest trace of a run, tokens."""
        limit = self.teacher.sampling.max_tokens if isinstance(self.teacher, AskedTeacher) else self.tokens
        return min(float(limit), 3.0 * self.tokens)


@dataclass(frozen=True)
class Workload:
    """A whole recipe."""

    prompts: float
    pools: tuple[PoolWork, ...]
    common: float
    """Prompts that are in every arm; where arms have sources of their own, the sum over these groups of arms."""
    mixes: Mapping[str, MixData]
    prompt_tokens: float
    """Of a teacher's prompt, without those in the engine's prefix cache."""
    row_prompt_tokens: float
    answer_tokens: float
    answer_prompt_tokens: float
    assumptions: tuple[Assumption, ...]

    @property
    def traces(self) -> float:
        """Of all pools."""
        return sum(pool.traces for pool in self.pools)


def teacher_order(recipe: Recipe) -> list[str]:
    """Teachers as they are asked (`distill.config.asking_order`)."""
    order = asking_order(recipe.teachers, {teacher.name: engine_key(teacher) for teacher in recipe.teachers})
    return [name for group in order for name in group]


def workload(recipe: Recipe, order: Sequence[str], prompts: float, measured: MeasuredWork) -> Workload:
    """The work of a recipe.

    Args:
        recipe: what it sets in `[forecast]` comes first.
        order: teachers in the order in which they are asked.
        prompts: number of prompts after cleaning.
        measured: used where the recipe sets nothing.
    """
    assumptions: list[Assumption] = []
    pools, solved = _pools(recipe, order, prompts, measured, assumptions)
    common = {group: count * measured.usable for group, count in solved.items()}
    settings = recipe.forecast
    hits = _pick(assumptions, "prefix_hits", settings.prefix_hits, measured.prefix_hits, 0.0)
    mixes = _mixes(recipe, pools, common)
    rows = sum(mix.rows for mix in mixes.values())
    taught_tokens = sum(mix.supervised_tokens for mix in mixes.values()) / max(1, rows)
    taught_tokens = min(taught_tokens, float(recipe.evaluate.sampling.max_tokens))
    return Workload(
        prompts=prompts,
        pools=tuple(pools),
        common=sum(common.values()),
        mixes=mixes,
        prompt_tokens=_pick(assumptions, "prompt_tokens", settings.prompt_tokens, measured.prompt_tokens, PROMPT_TOKENS)
        * (1.0 - hits),
        row_prompt_tokens=_pick(
            assumptions,
            "student_prompt_tokens",
            settings.student_prompt_tokens,
            measured.row_prompt_tokens,
            STUDENT_PROMPT_TOKENS,
        ),
        answer_tokens=_pick(
            assumptions, "answer_tokens", settings.answer_tokens, measured.answer_tokens, taught_tokens
        ),
        answer_prompt_tokens=measured.answer_prompt_tokens or settings.student_prompt_tokens or STUDENT_PROMPT_TOKENS,
        assumptions=tuple(assumptions),
    )


def _pools(
    recipe: Recipe, order: Sequence[str], prompts: float, measured: MeasuredWork, assumptions: list[Assumption]
) -> tuple[list[PoolWork], dict[GroupKey, float]]:
    """The work of all teachers, and of every group of arms the prompts that all of their pools solve."""
    teachers = {teacher.name: teacher for teacher in recipe.teachers}
    groups = recipe.arm_groups
    kept = {group.key: prompts * source_share(recipe, group.sources) for group in groups}
    asked = dict(kept)
    pools: dict[str, Estimate] = {}
    for name in order:
        mine = [group.key for group in groups if name in group.pools]
        reached = kept if recipe.generate.stop_early else asked
        num_asked = min(prompts, sum(reached[group] for group in mine)) if mine else prompts
        teacher, reads = teachers[name], read_pool(teachers[name])
        reading = None
        if reads is not None:
            together = any({name, reads} <= set(group.pools) for group in groups)
            reading = reading_of(teacher, pools[reads], has_solved=together and recipe.generate.stop_early)
        pools[name] = _pool(recipe, teacher, num_asked, measured, assumptions, reading)
        kept |= {group: kept[group] * pools[name].solved for group in mine}
    enough, common = recipe.generate.enough_prompts, sum(kept.values())
    share = min(1.0, enough / common) if enough and common > 0 else 1.0
    return [_scaled(pool.work, share) for pool in pools.values()], {
        group: count * share for group, count in kept.items()
    }


def source_share(recipe: Recipe, names: Sequence[str]) -> float:
    """The share of all prompts that come from some sources, as far as the recipe says how many each has; else 1."""
    sources = recipe.prompts.sources
    sizes = [source.size if isinstance(source, GymSource) else source.max_rows for source in sources]
    known = [size for size in sizes if size is not None]
    if not names or len(known) < len(sizes):
        return 1.0
    return sum(size for size, source in zip(known, sources, strict=True) if source.name in names) / sum(known)


class Estimate(NamedTuple):
    """What a teacher is expected to do with the prompts that reach it."""

    work: PoolWork
    rate: float
    """Chance that a trace is correct."""
    solved: float
    """Share of these prompts that it solves."""


class Reading(NamedTuple):
    """What a teacher that reads finds of another's traces."""

    available: float
    """Share of the prompts that reach it with a trace that it takes."""
    sources: float
    """Mean number of them, where there is one."""
    tokens: float
    """Mean length of what it reads."""


NOTHING_READ = Reading(1.0, 1.0, 0.0)


def reading_of(teacher: TeacherConfig, source: Estimate, *, has_solved: bool) -> Reading:
    """What a teacher reads of another's traces.

    Args:
        teacher: that reads.
        source: of the teacher whose traces it reads.
        has_solved: only prompts that the source solved reach the teacher.
    """
    assert isinstance(teacher, Reader)
    takes = teacher.takes if isinstance(teacher, AskedTeacher) else "correct"
    traces = source.work.traces / max(1e-9, source.work.prompts)
    share, number = {
        "correct": (source.solved, traces * source.rate),
        "wrong": (1.0 - source.rate ** max(1.0, traces), traces * (1.0 - source.rate)),
        "any": (1.0, traces),
    }[takes]
    length = source.work.correct_tokens if takes == "correct" else source.work.tokens
    available = 1.0 if takes == "correct" and has_solved else share
    return Reading(available, max(1.0, number / max(1e-9, share)), length * (teacher.keep or 1.0))


def _pick(
    assumptions: list[Assumption], name: str, setting: float | None, found: float | None, default: float
) -> float:
    """The recipe's value, else the measured one, else the default; records which in `assumptions`."""
    for value, source in ((setting, "recipe"), (found, "measured"), (default, "assumed")):
        if value is not None:
            assumptions.append(Assumption(name, float(value), source))
            return float(value)
    raise AssertionError("unreachable: there is a default")


def _pool(
    recipe: Recipe,
    teacher: TeacherConfig,
    prompts: float,
    measured: MeasuredWork,
    assumptions: list[Assumption],
    reading: Reading | None,
) -> Estimate:
    """The work of one teacher for the prompts that reach it, and the share of them that it solves."""
    name, settings = teacher.name, recipe.forecast
    found, read = measured.teachers.get(name), reading or NOTHING_READ
    default = read.tokens if isinstance(teacher, RuleTeacher) else min(MEAN_TOKENS[teacher.style], _limit(teacher))
    tokens = _pick(
        assumptions, f"mean_tokens.{name}", settings.mean_tokens.get(name), found.tokens if found else None, default
    )
    rate = _pick(
        assumptions,
        f"solve_rate.{name}",
        settings.solve_rate.get(name),
        found.solve_rate if found else None,
        SOLVE_RATE,
    )
    correct = found.correct_tokens if found and name not in settings.mean_tokens else tokens
    if isinstance(teacher, AskedTeacher) and teacher.continues is not None:
        correct += read.tokens
    if isinstance(teacher, DatasetTeacher):
        work = PoolWork(teacher, prompts, prompts, tokens, correct)
        return Estimate(work, rate, found.samples.solved if found else rate)
    is_same = found is not None and found.num_samples == teacher.num_samples and name not in settings.solve_rate
    if found is not None and is_same:
        return Estimate(
            PoolWork(teacher, prompts, prompts * found.samples.traces, tokens, correct, read.tokens),
            rate,
            found.samples.solved,
        )
    wanted = teacher.num_correct if isinstance(teacher, AskedTeacher) else 1
    num_samples = round(read.sources) * teacher.num_samples
    expected = expected_samples(rate, num_samples, wanted, stop_early=recipe.generate.stop_early)
    asked = prompts * read.available
    work = PoolWork(teacher, asked, asked * expected.traces, tokens, correct, read.tokens)
    return Estimate(work, rate, expected.solved * read.available)


def _limit(teacher: TeacherConfig) -> float:
    return float(teacher.sampling.max_tokens) if isinstance(teacher, AskedTeacher) else float("inf")


def _scaled(pool: PoolWork, share: float) -> PoolWork:
    return replace(pool, prompts=pool.prompts * share, traces=pool.traces * share)


def _mixes(recipe: Recipe, pools: Sequence[PoolWork], common: Mapping[GroupKey, float]) -> dict[str, MixData]:
    """Rows and supervised tokens of every arm; a completion's tokens are counted with the one that ends it."""
    tokens = {pool.teacher.name: min(pool.correct_tokens, float(recipe.train.max_length)) for pool in pools}
    return dict(_arms(recipe, tokens, common))


def _arms(
    recipe: Recipe, tokens: Mapping[str, float], common: Mapping[GroupKey, float]
) -> Iterator[tuple[str, MixData]]:
    for mix, key in ((mix, group.key) for group in recipe.arm_groups for mix in group.mixes):
        prompts = common[key]
        prompts = min(prompts, mix.num_prompts or prompts)
        rows = round(prompts * (len(mix.shares) if isinstance(mix, BothMix) else 1))
        shares = {name: share if share is not None else 1 / len(mix.shares) for name, share in mix.shares.items()}
        mean = sum(share * tokens[name] for name, share in shares.items()) / max(1e-9, sum(shares.values()))
        sides = 2 if isinstance(mix, PairsMix) else 1  # an upper bound: not every prompt has a pair
        yield mix.name, MixData(rows, round(rows * mean * sides))
