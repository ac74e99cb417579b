"""Further quantities: accuracy by weight of a mix; costs of gains; how benchmarks were asked."""

import itertools
from collections.abc import Mapping, Sequence

from distill.config.arm_graph import arm_budgets, mixes_trained_before
from distill.config.benchmarks import DEFINITIONS, benchmark_config
from distill.config.mix import MixConfig
from distill.config.recipe import Recipe
from distill.config.sources import GymSource, HubSource, kind_of
from distill.core.schema import Style
from distill.prompts.load import source_name, versioned
from distill.report.comparisons import MACRO
from distill.report.data import CellRow
from distill.report.families import budget_words, told_by_traces
from distill.report.pools import Traces
from distill.report.score_data import (
    ArmScore,
    BenchmarkRow,
    Comparison,
    Cost,
    MacroScore,
    Sweep,
    SweepPoint,
)

POLICIES = ("weighted", "weighted_tokens")


def sweeps(recipe: Recipe, arms: Sequence[ArmScore], macros: Sequence[MacroScore]) -> list[Sweep]:
    """Accuracy against the weight of one of two pools, where at least three weights were trained."""
    scores = scores_by_arm(arms, macros)
    found = []
    of_mix = arm_budgets(recipe.mixes, ())
    budgets = dict.fromkeys(of_mix[mix.name] for mix in recipe.mixes)
    for budget in budgets:
        words = budget_words(budget) if len(budgets) > 1 else ""
        equal = told_by_traces([mix for mix in recipe.mixes if of_mix[mix.name] == budget])
        for pools, mixes in _weighted_mixes(recipe, equal).items():
            for benchmark, student in itertools.product(dict.fromkeys(key[0] for key in scores), recipe.students):
                points = [
                    SweepPoint(share, mix, one.accuracy, one.interval)
                    for share, mix in mixes
                    if (one := scores.get((benchmark, student.name, mix)))
                ]
                if len({point.share for point in points}) > 2:
                    found.append(Sweep(student.name, benchmark, pools[0], pools[1], words, tuple(points)))
    return found


def scores_by_arm(
    arms: Sequence[ArmScore], macros: Sequence[MacroScore]
) -> dict[tuple[str, str, str], ArmScore | MacroScore]:
    """(benchmark, student, mix) -> score; those of the mean of all benchmarks come last."""
    scores: dict[tuple[str, str, str], ArmScore | MacroScore] = {
        (arm.benchmark, arm.student, arm.mix): arm for arm in arms
    }
    return scores | {(MACRO, one.student, one.mix): one for one in macros}


def _weighted_mixes(recipe: Recipe, equal: Sequence[MixConfig]) -> dict[tuple[str, str], list[tuple[float, str]]]:
    """(pool, other pool) -> the mixes of these two by the first one's weight, pools alone included.

    `equal`: mixes that are trained on equally much, with one objective. Those that ask for no share are left out.
    """
    styles = {teacher.name: teacher.style for teacher in recipe.teachers}
    found: dict[tuple[str, str], list[tuple[float, str]]] = {}
    blended = [mix for mix in equal if mix.policy in POLICIES and len(mix.drawn) == 2]
    for policy in POLICIES:
        for blend in (mix for mix in blended if mix.policy == policy):
            first, second = sorted(blend.drawn, key=lambda pool: (styles.get(pool) != Style.LONG, pool))
            mixes = [mix for mix in equal if mix.policy == policy or len(mix.drawn) == 1]
            mine = [
                (share, mix.name)
                for mix in mixes
                if {*mix.drawn} <= {first, second} and (share := mix.shares.get(first, 0.0)) is not None
            ]
            found.setdefault((first, second), sorted(mine))
    return found


def costs(
    recipe: Recipe,
    comparisons: Sequence[Comparison],
    cells: Sequence[CellRow],
    traces: Traces,
    num_common: Mapping[str, int],
) -> list[Cost]:
    """What each arm cost, in total and per point gained over its untouched student.

    Teacher tokens are all tokens in the pools of the mix, wrong traces included (of an arm that teaches a part of its
    `num_common` prompts, that part of them); arms share pools, so their tokens do not add up. Training time is the mean
    wall time of its cells, times the devices of each. Of an arm that starts from another both count with the other's.
    """
    benchmarks = recipe.evaluate.benchmarks
    where = MACRO if len(benchmarks) > 1 else benchmarks[0]
    gains = {one.first: one for one in comparisons if (one.purpose, one.benchmark) == ("gain", where)}
    devices = {student.name: student.num_workers for student in recipe.students}
    written = {teacher.name: int(traces.tokens[traces.pools == teacher.name].sum()) for teacher in recipe.teachers}
    arms = recipe.arm_configs
    return [
        _cost(
            student.name,
            (mix, *mixes_trained_before(mix, arms)),
            gains.get(f"{student.name}@{next(iter(mix.arms))}"),
            cells,
            written,
            devices[student.name],
            num_common,
        )
        for student in recipe.students
        for mix in recipe.mixes
        if recipe.takes(student.name, mix.name)
    ]


def _cost(
    student: str,
    mixes: Sequence[MixConfig],
    gain: Comparison | None,
    cells: Sequence[CellRow],
    written: Mapping[str, int],
    num_devices: int,
    num_common: Mapping[str, int],
) -> Cost:
    """`mixes`: the arm's own, then those of the arms that it starts from."""
    shares: dict[str, float] = {}
    for mix in mixes:
        common = num_common.get(mix.name)
        share = mix.num_prompts / common if mix.num_prompts and common else 1.0
        shares |= {pool: max(share, shares.get(pool, 0.0)) for pool in mix.drawn}
    tokens = round(sum(written.get(pool, 0) * share for pool, share in shares.items())) or None
    times = [_mean_wall_s(student, mix.name, cells) for mix in mixes]
    seconds = sum(time for time in times if time is not None) * num_devices if None not in times else None
    points = gain.difference * 100 if gain and gain.is_shown and gain.difference > 0 else None
    return Cost(
        student=student,
        mix=mixes[0].name,
        teacher_tokens=tokens,
        device_s=seconds,
        gain=gain,
        tokens_per_point=tokens / points if tokens and points else None,
        device_s_per_point=seconds / points if seconds and points else None,
    )


def _mean_wall_s(student: str, mix: str, cells: Sequence[CellRow]) -> float | None:
    """Of a student's cells of one mix; None unless it is known of all."""
    times = [cell.wall_s for cell in cells if (cell.student, cell.mix) == (student, mix)]
    known = [wall_s for wall_s in times if wall_s is not None]
    return sum(known) / len(known) if known and len(known) == len(times) else None


def benchmark_rows(recipe: Recipe, num_problems: Mapping[str, int], commits: Mapping[str, str]) -> list[BenchmarkRow]:
    """Source, revision, kind of answer, sampling and number of problems (published and used) of every benchmark.

    Args:
        commits: `data set@revision` -> the commit of the hub that was read.
    """
    return [_benchmark_row(recipe, name, num_problems.get(name), commits) for name in recipe.evaluate.benchmarks]


def _benchmark_row(recipe: Recipe, name: str, num_problems: int | None, commits: Mapping[str, str]) -> BenchmarkRow:
    config, evaluate = benchmark_config(recipe.benchmarks, name), recipe.evaluate
    source, repeated = config.source, evaluate.repeated.get(name)
    is_published = name in DEFINITIONS and name not in recipe.benchmarks
    if isinstance(source, GymSource):
        revision = f"seed {source.seed}"
    else:
        revision = source.revision if isinstance(source, HubSource) else "as the file was"
    commit = commits.get(versioned(source)) if isinstance(source, HubSource) else None
    return BenchmarkRow(
        benchmark=name,
        source=source_name(source),
        revision="main (not pinned)" if revision == "main" else revision,
        commit=commit if commit != revision else None,
        answer_kind=kind_of(source).value,
        num_published=DEFINITIONS[name].num_problems if is_published else None,
        num_problems=num_problems,
        num_samples=repeated.num_samples if repeated else evaluate.num_samples,
        temperature=repeated.temperature if repeated else evaluate.sampling.temperature,
        max_tokens=evaluate.sampling.max_tokens,
        note=DEFINITIONS[name].note if is_published else "",
    )
