"""What a recipe asks of each stage, in prompts, traces and tokens: told, measured or assumed. Pure.

A teacher is asked for what the cheaper ones of its mixes solved, so counts follow from the solve rates in the order in
which teachers are asked.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from distill.config.mix import BothMix
from distill.config.recipe import Recipe
from distill.config.teachers import AskedTeacher, DatasetTeacher, TeacherConfig, VllmTeacher
from distill.core.schema import Style
from distill.ops.forecast.expected_samples import Asking, asking
from distill.train.plan import MixData

SOLVE_RATE = 0.6
MEAN_TOKENS = {Style.LONG: 3500.0, Style.SHORT: 400.0}
PROMPT_TOKENS = 200.0
STUDENT_PROMPT_TOKENS = 150.0


class Known(NamedTuple):
    """One number that the forecast rests on, and where it is from."""

    name: str
    """The field of `[forecast]` that tells it."""
    value: float
    source: str
    """`told`, `measured` or `assumed`."""


@dataclass(frozen=True)
class TeacherFacts:
    """What a run directory says of one teacher."""

    num_samples: int
    asking: Asking
    """Traces per prompt that it was asked, and the share of these prompts that it solved."""
    solve_rate: float
    """Correct share of its traces."""
    tokens: float
    """Mean completion."""
    correct_tokens: float
    """Mean correct completion."""


@dataclass(frozen=True)
class Facts:
    """What a run directory says of the work itself, whatever it ran on. Absent: not measured."""

    teachers: Mapping[str, TeacherFacts] = field(default_factory=dict)
    prompt_tokens: float | None = None
    prefix_hits: float | None = None
    usable: float = 1.0
    """Share of the prompts that every pool solved which the filters left."""
    row_prompt_tokens: float | None = None
    """Of a student's example."""
    answer_tokens: float | None = None
    answer_prompt_tokens: float | None = None


@dataclass(frozen=True)
class PoolWork:
    """What one teacher writes."""

    teacher: TeacherConfig
    asked: float
    """Prompts."""
    traces: float
    tokens: float
    """Mean completion."""
    correct_tokens: float

    @property
    def longest(self) -> float:
        """What the last trace of a run may be long, tokens."""
        limit = self.teacher.sampling.max_tokens if isinstance(self.teacher, AskedTeacher) else self.tokens
        return min(float(limit), 3.0 * self.tokens)


@dataclass(frozen=True)
class Workload:
    """A whole recipe."""

    prompts: float
    pools: tuple[PoolWork, ...]
    common: float
    """Prompts that every arm teaches."""
    mixes: Mapping[str, MixData]
    prompt_tokens: float
    """Of a teacher's prompt, those that the engine has not in its cache."""
    row_prompt_tokens: float
    answer_tokens: float
    answer_prompt_tokens: float
    known: tuple[Known, ...]

    @property
    def traces(self) -> float:
        """Of all pools."""
        return sum(pool.traces for pool in self.pools)


def engine_key(teacher: TeacherConfig) -> str:
    """Equal for teachers that one engine fills."""
    if isinstance(teacher, VllmTeacher):
        return f"{teacher.model} {teacher.engine.model_dump_json()} {teacher.replicas} {teacher.gpu}"
    return f"alone {teacher.name}"


def asked_order(recipe: Recipe) -> list[str]:
    """Teachers as they are asked (`distill.generate.pools.group_by_engine`): engines by their cheapest teacher, the
    cheaper teachers of an engine first, else the recipe's order."""
    groups: dict[str, list[str]] = {}
    for teacher in sorted(recipe.teachers, key=lambda one: getattr(one, "usd_per_million_tokens", 0.0)):
        groups.setdefault(engine_key(teacher), []).append(teacher.name)
    return [name for group in groups.values() for name in group]


def workload(recipe: Recipe, order: Sequence[str], prompts: float, facts: Facts) -> Workload:
    """The work of a recipe.

    Args:
        recipe: with what is told.
        order: teachers in the order in which they are asked.
        prompts: that are left after cleaning.
        facts: measured before.
    """
    known: list[Known] = []
    taught = {name for mix in recipe.mixes for name in mix.shares}
    teachers = {teacher.name: teacher for teacher in recipe.teachers}
    kept, pools = 1.0, []
    for name in order:
        reached = kept if recipe.generate.stop_early and name in taught else 1.0
        pool, solved = _pool(recipe, teachers[name], prompts * reached, facts, known)
        pools.append(pool)
        kept *= solved if name in taught else 1.0
    enough = recipe.generate.enough_prompts
    share = min(1.0, enough / (prompts * kept)) if enough and prompts * kept > 0 else 1.0
    pools = [_scaled(pool, share) for pool in pools]
    common = prompts * kept * share * facts.usable
    told = recipe.forecast
    hits = _take(known, "prefix_hits", told.prefix_hits, facts.prefix_hits, 0.0)
    mixes = _mixes(recipe, pools, common)
    rows = sum(mix.rows for mix in mixes.values())
    taught_tokens = sum(mix.supervised_tokens for mix in mixes.values()) / max(1, rows)
    taught_tokens = min(taught_tokens, float(recipe.evaluate.sampling.max_tokens))
    return Workload(
        prompts=prompts,
        pools=tuple(pools),
        common=common,
        mixes=mixes,
        prompt_tokens=_take(known, "prompt_tokens", told.prompt_tokens, facts.prompt_tokens, PROMPT_TOKENS)
        * (1.0 - hits),
        row_prompt_tokens=_take(
            known, "student_prompt_tokens", told.student_prompt_tokens, facts.row_prompt_tokens, STUDENT_PROMPT_TOKENS
        ),
        answer_tokens=_take(known, "answer_tokens", told.answer_tokens, facts.answer_tokens, taught_tokens),
        answer_prompt_tokens=facts.answer_prompt_tokens or told.student_prompt_tokens or STUDENT_PROMPT_TOKENS,
        known=tuple(known),
    )


def _take(known: list[Known], name: str, told: float | None, measured: float | None, default: float) -> float:
    """Told before measured before assumed; books which."""
    for value, source in ((told, "told"), (measured, "measured"), (default, "assumed")):
        if value is not None:
            known.append(Known(name, float(value), source))
            return float(value)
    raise AssertionError("unreachable: there is a default")


def _pool(
    recipe: Recipe, teacher: TeacherConfig, asked: float, facts: Facts, known: list[Known]
) -> tuple[PoolWork, float]:
    """What one teacher writes for the prompts that it is asked, and the share of them that it solves."""
    name, told = teacher.name, recipe.forecast
    found = facts.teachers.get(name)
    default = min(MEAN_TOKENS[teacher.style], _limit(teacher))
    tokens = _take(known, f"mean_tokens.{name}", told.mean_tokens.get(name), found.tokens if found else None, default)
    rate = _take(
        known, f"solve_rate.{name}", told.solve_rate.get(name), found.solve_rate if found else None, SOLVE_RATE
    )
    correct = found.correct_tokens if found and name not in told.mean_tokens else tokens
    if isinstance(teacher, DatasetTeacher):
        return PoolWork(teacher, asked, asked, tokens, correct), found.asking.solved if found else rate
    is_same = found is not None and found.num_samples == teacher.num_samples and name not in told.solve_rate
    if found is not None and is_same:
        expected = found.asking
    else:
        expected = asking(rate, teacher.num_samples, teacher.num_correct, stop_early=recipe.generate.stop_early)
    return PoolWork(teacher, asked, asked * expected.traces, tokens, correct), expected.solved


def _limit(teacher: TeacherConfig) -> float:
    return float(teacher.sampling.max_tokens) if isinstance(teacher, AskedTeacher) else float("inf")


def _scaled(pool: PoolWork, share: float) -> PoolWork:
    return PoolWork(pool.teacher, pool.asked * share, pool.traces * share, pool.tokens, pool.correct_tokens)


def _mixes(recipe: Recipe, pools: Sequence[PoolWork], common: float) -> dict[str, MixData]:
    """Rows and supervised tokens of every arm; a completion's tokens are counted with the one that ends it."""
    tokens = {pool.teacher.name: min(pool.correct_tokens, float(recipe.train.max_length)) for pool in pools}
    return dict(_arms(recipe, tokens, common))


def _arms(recipe: Recipe, tokens: Mapping[str, float], common: float) -> Iterator[tuple[str, MixData]]:
    for mix in recipe.mixes:
        rows = round(common * (len(mix.shares) if isinstance(mix, BothMix) else 1))
        shares = {name: share if share is not None else 1 / len(mix.shares) for name, share in mix.shares.items()}
        mean = sum(share * tokens[name] for name, share in shares.items()) / max(1e-9, sum(shares.values()))
        yield mix.name, MixData(rows, round(rows * mean))
