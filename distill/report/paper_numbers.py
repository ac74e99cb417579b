"""The paper's own numbers (arXiv 2502.12143), for reports of runs with its students and teachers.

Percent, mean of MATH, GSM8K, AMC 2023, AIME 2024 and OlympiadBench: table 1 (long, short), table 2 (large, small) and
table 3 (mixes at 0.2). It has one seed each, no intervals and no untouched students: those are from a fork that
used the paper's harness and MATH-500 for MATH (github.com/charlie1587/Small-Model-Learnability-Gap).
"""

from collections.abc import Iterator, Mapping, Sequence

from distill.config.mix import WeightedMix
from distill.config.objectives import IMITATE
from distill.config.pass_order import student_of
from distill.config.recipe import Recipe
from distill.config.teachers import VllmTeacher
from distill.report.comparisons import MACRO
from distill.report.families import main_mixes, objective_of
from distill.report.score_data import ArmScore, Comparison, MacroScore, PaperRow

TEACHERS = {
    ("Qwen/QwQ-32B-Preview", "Qwen/Qwen2.5-32B-Instruct"): ("long", "short"),
    ("Qwen/Qwen2.5-72B-Instruct", "Qwen/Qwen2.5-3B-Instruct"): ("large", "small"),
}
"""(teacher with the weight 0.2 in the mix, the other) -> their names here."""

QWEN, LLAMA = "Qwen/Qwen2.5-{}-Instruct", "meta-llama/Llama-{}-Instruct"

LONG_SHORT = {
    **{QWEN.format(size): pair for size, pair in {
        "0.5B": (14.8, 19.5), "1.5B": (27.0, 34.2), "3B": (40.3, 43.4),
        "7B": (48.9, 47.2), "14B": (59.2, 54.3), "32B": (73.0, 59.3),
    }.items()},
    **{LLAMA.format(size): pair for size, pair in {
        "3.2-1B": (15.8, 19.5), "3.2-3B": (32.5, 33.1), "3.1-8B": (35.2, 31.5), "3.3-70B": (58.2, 54.3),
    }.items()},
}  # fmt: skip
LARGE_SMALL = {
    **{QWEN.format(size): pair for size, pair in {
        "0.5B": (16.9, 20.4), "1.5B": (32.2, 33.0), "3B": (39.7, 39.4),
        "7B": (48.9, 42.3), "14B": (52.9, 49.9), "32B": (59.5, 53.0),
    }.items()},
    **{LLAMA.format(size): pair for size, pair in {
        "3.2-1B": (16.5, 18.5), "3.2-3B": (32.8, 31.2), "3.1-8B": (25.6, 25.1), "3.3-70B": (57.6, 53.3),
    }.items()},
}  # fmt: skip
PURE = {"long": LONG_SHORT, "large": LARGE_SMALL}
MIXED = {
    ("long", QWEN.format("3B")): 45.9,
    ("large", QWEN.format("3B")): 45.8,
    ("long", LLAMA.format("3.2-3B")): 35.1,
    ("large", LLAMA.format("3.2-3B")): 34.7,
}
UNTOUCHED = {
    QWEN.format("1.5B"): 33.9,
    QWEN.format("3B"): 42.5,
    QWEN.format("7B"): 51.1,
    LLAMA.format("3.2-3B"): 33.6,
}


def paper_rows(
    recipe: Recipe, arms: Sequence[ArmScore], macros: Sequence[MacroScore], comparisons: Sequence[Comparison]
) -> list[PaperRow]:
    """The paper's numbers beside ours, for every student that it trained too, if the teachers are one of its pairs."""
    ours = [one for one in recipe.teachers if isinstance(one, VllmTeacher) and student_of(one) is None]
    pools = {_model(recipe, teacher.model): teacher.name for teacher in ours}
    for models, kinds in TEACHERS.items():
        if set(models) <= pools.keys():
            weighted, other = (pools[model] for model in models)
            return [
                row
                for student in recipe.students
                for row in _student_rows(
                    recipe, student.name, kinds, (weighted, other), _ours(recipe, arms, macros, comparisons)
                )
            ]
    return []


def _student_rows(
    recipe: Recipe, student: str, kinds: tuple[str, str], pools: tuple[str, str], ours: Mapping[str, PaperRow]
) -> Iterator[PaperRow]:
    source = _model(recipe, next(one.model for one in recipe.students if one.name == student))
    imitating = [mix for mix in main_mixes(recipe) if objective_of(mix) == IMITATE and not mix.modes]
    pure, mixes = PURE[kinds[0]].get(source), {mix.name: mix.shares for mix in imitating}
    alone = {pool: name for name, shares in reversed(mixes.items()) for pool, share in shares.items() if share == 1}
    if pure and set(pools) <= alone.keys():
        first, second = (f"{student}@{alone[pool]}" for pool in pools)
        for label, value in ((first, pure[0]), (second, pure[1]), (f"{first} - {second}", pure[0] - pure[1])):
            yield _row(student, label, round(value, 1), ours)
    for mix in imitating:
        share = mix.shares.get(pools[0])
        # The paper's 0.2 is a share of the rows, drawn whatever the prompt, in no order.
        is_published = isinstance(mix, WeightedMix) and set(mix.shares) == set(pools)
        is_published = is_published and share is not None and abs(share - 0.2) < 1e-9
        if is_published and (kinds[0], source) in MIXED:
            yield _row(student, f"{student}@{mix.name}", MIXED[kinds[0], source], ours)
    if source in UNTOUCHED:
        yield _row(student, student, UNTOUCHED[source], ours)


def _row(student: str, what: str, paper: float, ours: Mapping[str, PaperRow]) -> PaperRow:
    mine = ours.get(what)
    return PaperRow(student, what, paper / 100, mine.ours if mine else None, mine.interval if mine else None)


def _ours(
    recipe: Recipe, arms: Sequence[ArmScore], macros: Sequence[MacroScore], comparisons: Sequence[Comparison]
) -> dict[str, PaperRow]:
    """Our numbers by label: means over the benchmarks, or those of the only one."""
    several = len(recipe.evaluate.benchmarks) > 1
    where = MACRO if several else recipe.evaluate.benchmarks[0]
    scores: Sequence[ArmScore | MacroScore] = macros if several else arms
    found = {one.label: PaperRow(one.student, one.label, 0.0, one.accuracy, one.interval) for one in scores}
    for one in comparisons:
        if one.benchmark == where:
            what = f"{one.first} - {one.second}"
            found[what] = PaperRow(one.student, what, 0.0, one.difference, one.interval)
    return found


def _model(recipe: Recipe, name: str) -> str:
    return recipe.models[name].sources[0]
