"""Multiple choice: options in whatever form a data set has them, as lettered lines below the question."""

from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any, NamedTuple

from distill.config.sources import Columns
from distill.core.schema import content_hash


class Lettered(NamedTuple):
    """A question with its options, and the letter of the right one; `fault` says why there is none."""

    problem: str
    reference: str
    fault: str = ""


def lettered(problem: str, reference: Any, row: Mapping[str, Any], columns: Columns) -> Lettered:
    """The question of a row with options A) to at most J), and the reference as a letter."""
    options, labels = _options(row, columns)
    if not 2 <= len(options) <= 10:
        return Lettered(problem, "", f"{len(options)} choices")
    place = _place(reference, options, labels)
    if place is None:
        return Lettered(problem, "", "answer is no choice")
    if not isinstance(columns.choices, str):
        # The right one is the first column: its place must not tell.
        order = sorted(range(len(options)), key=lambda index: content_hash("choice", problem, options[index]))
        options, place = [options[index] for index in order], order.index(place)
    lines = [f"{letter}) {text}" for letter, text in zip(ascii_uppercase, options, strict=False)]
    return Lettered("\n".join([problem.strip(), *lines]), ascii_uppercase[place])


def _options(row: Mapping[str, Any], columns: Columns) -> tuple[list[str], list[str]]:
    """The options' texts, and the labels that the data set gives them (empty where it gives none)."""
    if isinstance(columns.choices, tuple):
        return [str(row[name]).strip() for name in columns.choices if row.get(name) is not None], []
    found = row.get(str(columns.choices))
    if isinstance(found, Mapping):
        return [str(text).strip() for text in found.get("text", ())], [str(one) for one in found.get("label", ())]
    return [str(text).strip() for text in found] if isinstance(found, list) else [], []


def _place(reference: Any, options: Sequence[str], labels: Sequence[str]) -> int | None:
    text = str(reference).strip()
    for names in (labels, options, ascii_uppercase[: len(options)]):
        if text in names:
            return list(names).index(text)
    is_place = text.isascii() and text.isdigit() and int(text) < len(options)
    return int(text) if is_place else None
