"""Why edits are not used: what was read is gone, or the edit was cut, or is as long as that. Columns, no texts."""

from collections import Counter
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from distill.config.teachers import AskedTeacher, Reader, TeacherConfig, read_pool
from distill.core.schema import Verdict
from distill.generate.ask_policy import TAKEN
from distill.generate.edits import CUT, NOT_SHORTER, SOURCE_MISSING, edit_outcome
from distill.generate.traces import PoolTraces, positions

DROPS = ("", CUT, NOT_SHORTER, SOURCE_MISSING)
"""Meaning of the codes."""


class Marked(NamedTuple):
    """The traces of a pool as a reader sees them, sorted by identity."""

    traces: NDArray[np.bytes_]
    marks: NDArray[np.bytes_]
    """`source_mark` of each."""
    tokens: NDArray[np.int32]
    """Completion tokens of each."""


def marked(traces: PoolTraces) -> Marked:
    """What the readers of a pool may take, and for what."""
    is_right = traces.is_usable() & ~traces.is_word("finish_reason", "length")
    is_wrong = traces.is_word("verdict", Verdict.INCORRECT) | traces.is_word("verdict", Verdict.NO_ANSWER)
    marks = np.where(is_right, b"c", np.where(is_wrong, b"w", b"o"))
    return Marked(traces.columns["trace_id"], marks, traces.columns["completion_tokens"])


def with_drops(traces: PoolTraces, teacher: TeacherConfig, read: Mapping[str, Marked]) -> PoolTraces:
    """The traces with the reasons why edits among them are not used. `read`: the pools before, by name."""
    codes = np.zeros(len(traces), np.int16)
    if isinstance(teacher, Reader) and teacher.reads:
        if teacher.keep_if == "shorter":
            codes[traces.columns["growth"] >= 1.0] = DROPS.index(NOT_SHORTER)
        codes[traces.is_word("finish_reason", "length")] = DROPS.index(CUT)
        taken = TAKEN[teacher.takes if isinstance(teacher, AskedTeacher) else "correct"]
        marks = _marks(traces, read[teacher.reads])
        codes[~np.isin(marks, [mark.encode() for mark in taken])] = DROPS.index(SOURCE_MISSING)
    return traces.with_drops(codes, DROPS)


def outcomes(traces: PoolTraces, teacher: TeacherConfig, read: Mapping[str, Marked]) -> dict[str, int]:
    """Reason -> edits that are not used, and how many are kept; empty for a teacher that reads nothing."""
    source = read_pool(teacher)
    if source is None:
        return {}
    was_correct = _marks(traces, read[source]) == b"c"
    columns = np.stack([traces.columns["verdict"], traces.columns["drop"], was_correct.astype(np.int16)], axis=1)
    kinds, numbers = np.unique(columns, axis=0, return_counts=True)
    found: Counter[str] = Counter()
    for (verdict, drop, was), number in zip(kinds.tolist(), numbers.tolist(), strict=True):
        found[edit_outcome(traces.words["verdict"][verdict], DROPS[drop], was_correct=bool(was))] += number
    return dict(found)


def changes(traces: PoolTraces, source: Marked) -> dict[str, int | float | None]:
    """What a reader made of its source: how right and wrong traces end, and the lengths of the edits that are used.

    Lengths are means over those edits: completion tokens of their sources and of their own, each as counted by the
    teacher that wrote them (of an edit that continues only what it wrote itself), and characters over the source's.
    """
    marks, is_kept = _marks(traces, source), traces.is_usable()
    is_correct = traces.is_word("verdict", Verdict.CORRECT)
    read = positions(source.traces, traces.columns["parent"])[is_kept]
    return {
        "of_correct": int((marks == b"c").sum()),
        "correct_end_right": int((is_correct & (marks == b"c")).sum()),
        "of_wrong": int((marks == b"w").sum()),
        "wrong_end_right": int((is_correct & (marks == b"w")).sum()),
        "source_tokens": _mean(source.tokens[read]),
        "tokens": _mean(traces.columns["completion_tokens"][is_kept]),
        "growth": _mean(traces.columns["growth"][is_kept]),
    }


def _mean(values: NDArray[np.int32] | NDArray[np.float32]) -> float | None:
    return float(values.mean()) if len(values) else None


def _marks(traces: PoolTraces, source: Marked) -> NDArray[np.bytes_]:
    """The mark of what each edit was made from; empty where that is gone."""
    at = positions(source.traces, traces.columns["parent"])
    if not len(source.traces):
        return np.zeros(len(traces), "S1")
    return np.where(at >= 0, source.marks[at], b"")
