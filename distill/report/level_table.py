"""Levels in their order, the table of levels by language, and choices of modes in words; apart from what computes
scores, for the terminal."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from distill.report.formats import percent
from distill.report.score_data import LevelScore, ModeChoice

NO_MODE = "none"
"""What a completion is called that begins with no mode's line."""


def level_order(levels: Iterable[str]) -> list[str]:
    """The distinct levels in order, the tenth behind the ninth."""
    return sorted(set(levels) - {""}, key=lambda name: (len(name), name))


class LevelTable(NamedTuple):
    """Students and levels down, benchmarks with their languages across."""

    columns: list[str]
    rows: list[tuple[tuple[str, str, str], list[LevelScore | None]]]
    """(student, mix, level) -> what it scored in each column; None where the benchmark has no such level."""


def level_table(scores: Sequence[LevelScore]) -> LevelTable:
    """Level x language, in the order of the scores."""
    heads = list(dict.fromkeys((one.benchmark, one.language) for one in scores))
    found = {(one.student, one.mix, one.level, one.benchmark, one.language): one for one in scores}
    names = dict.fromkeys((one.student, one.mix) for one in scores)
    levels = [*level_order(one.level for one in scores), ""]
    rows = [
        ((*name, level), cells)
        for name in names
        for level in levels
        if any(cells := [found.get((*name, level, *head)) for head in heads])
    ]
    columns = [f"{benchmark} ({language})" if language else benchmark for benchmark, language in heads]
    return LevelTable(columns, rows)


def choice_words(one: ModeChoice) -> str:
    """The shares of a line: `short 62 % (41 % of them correct), long 38 % (20 % of them correct)`."""
    return ", ".join(
        f"{mode or NO_MODE} {percent(count / one.completions)}"
        + (f" ({percent(one.correct[mode] / count)} of them correct)" if count else "")
        for mode, count in one.chosen.items()
    )
