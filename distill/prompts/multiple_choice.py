"""Multiple choice: formats the options of a row, in any of several forms, as lettered lines below the question."""

from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any, NamedTuple

from distill.config.sources import Columns
from distill.core.schema import content_hash
from distill.prompts.rows.json_text import nested
from distill.prompts.rows.paths import get
from distill.prompts.rows.values import as_text


class ChoiceProblem(NamedTuple):
    """A problem with its options, and the letter of the right one; `fault` is the drop reason if there is none."""

    problem: str
    reference: str
    fault: str = ""


def format_choices(problem: str, reference: Any, row: Mapping[str, Any], columns: Columns) -> ChoiceProblem:
    """The problem of a row with options A) to at most J), and the reference as a letter."""
    options, labels = _options(row, columns)
    if not 2 <= len(options) <= 10:
        return ChoiceProblem(problem, "", f"{len(options)} choices")
    index = _answer_index(reference, options, labels)
    if index is None:
        return ChoiceProblem(problem, "", "answer is no choice")
    if not isinstance(columns.choices, str):
        # The right option comes first in such rows: shuffle, so that its position gives nothing away.
        order = sorted(range(len(options)), key=lambda position: content_hash("choice", problem, options[position]))
        options, index = [options[position] for position in order], order.index(index)
    lines = [f"{letter}) {text}" for letter, text in zip(ascii_uppercase, options, strict=False)]
    return ChoiceProblem("\n".join([problem.strip(), *lines]), ascii_uppercase[index])


def _options(row: Mapping[str, Any], columns: Columns) -> tuple[list[str], list[str]]:
    """The texts of the options, and the data set's labels for them (empty if it has none)."""
    if isinstance(columns.choices, tuple):
        return _texts([get(row, name) for name in columns.choices]), []
    found = get(row, columns.choices)
    if isinstance(found, str):
        found = nested(found)
    if isinstance(found, Mapping):
        return _texts(found.get("text")), _texts(found.get("label"))
    return _texts(found), []


def _texts(values: Any) -> list[str]:
    """The texts of a list; a missing one is no option."""
    return [text for value in values if (text := as_text(value))] if isinstance(values, list) else []


def _answer_index(reference: Any, options: Sequence[str], labels: Sequence[str]) -> int | None:
    """Index of the right option, which the reference gives as label, text, letter or index."""
    text = str(reference).strip()
    for names in (labels, options, ascii_uppercase[: len(options)]):
        if text in names:
            return list(names).index(text)
    is_index = text.isascii() and text.isdigit() and int(text) < len(options)
    return int(text) if is_index else None
