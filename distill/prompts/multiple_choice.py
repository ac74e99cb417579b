"""Multiple choice: formats the options of a row, in any of several forms, as lettered lines below the question."""

import re
from collections.abc import Mapping, Sequence
from string import ascii_uppercase
from typing import Any, NamedTuple

from distill.config.sources import Columns
from distill.core.schema import content_hash
from distill.prompts.rows.json_text import nested
from distill.prompts.rows.paths import get
from distill.prompts.rows.values import as_text

LABEL_FIELDS = ("label", "key", "id", "letter")
TEXT_FIELDS = ("text", "value", "content", "option")
OWN_LETTER = re.compile(r"^\(?([A-J])[).:]\s*")
"""A letter that the data set writes before an option's text."""


class ChoiceProblem(NamedTuple):
    """A problem with its options, and the letter of the right one; `fault` is the drop reason if there is none."""

    problem: str
    reference: str
    fault: str = ""


class Option(NamedTuple):
    """An option in its place: the data set's label for it (empty if it has none), and its text (empty for none)."""

    label: str
    text: str | None
    """None for what is no text at all."""


def format_choices(problem: str, reference: Any, row: Mapping[str, Any], columns: Columns) -> ChoiceProblem:
    """The problem of a row with options A) to at most J), and the reference as a letter."""
    options = _without_own_letters(_options(row, columns))
    if any(option.text is None for option in options):
        return ChoiceProblem(problem, "", "a choice is not text")
    places = [place for place, option in enumerate(options) if option.text]
    if not 2 <= len(places) <= len(ascii_uppercase[:10]):
        return ChoiceProblem(problem, "", f"{len(places)} choices")
    # The reference counts the places of the data set, also those that hold nothing.
    right = _answer_place(reference, options)
    if right not in places:
        return ChoiceProblem(problem, "", "answer is no choice")
    if isinstance(columns.choices, tuple) and not columns.has_lettered_choices:
        # The right option comes first in such rows: shuffle, so that its position gives nothing away.
        places.sort(key=lambda place: content_hash("choice", problem, options[place].text))
    lines = [f"{letter}) {options[place].text}" for letter, place in zip(ascii_uppercase, places, strict=False)]
    return ChoiceProblem("\n".join([problem.strip(), *lines]), ascii_uppercase[places.index(right)])


def _options(row: Mapping[str, Any], columns: Columns) -> list[Option]:
    """The options of a row in the data set's order; those of a table of label to text in the order of its labels."""
    if isinstance(columns.choices, tuple):
        return [Option("", as_text(get(row, name))) for name in columns.choices]
    found = get(row, columns.choices)
    if isinstance(found, str):
        found = nested(found)
    if isinstance(found, Mapping) and isinstance(texts := found.get("text"), list):
        labels = found.get("label")
        named = labels if isinstance(labels, list) and len(labels) == len(texts) else [""] * len(texts)
        return [Option(as_text(label) or "", as_text(text)) for label, text in zip(named, texts, strict=True)]
    if isinstance(found, Mapping):  # a shorter label first: 2 before 10
        ordered = sorted(found, key=lambda label: (len(str(label)), str(label)))
        return [Option(str(label).strip(), _text(found[label])) for label in ordered]
    return [_option(item) for item in found] if isinstance(found, list) else []


def _option(item: Any) -> Option:
    """An item of a list of options: a text, or a table with the text and perhaps a label."""
    if not isinstance(item, Mapping):
        return Option("", _text(item))
    label, text = (next((item[name] for name in names if name in item), None) for names in (LABEL_FIELDS, TEXT_FIELDS))
    return Option(as_text(label) or "", _text(text))


def _text(value: Any) -> str | None:
    """One option's text; a list is several and so none."""
    return None if isinstance(value, list) else as_text(value)


def _without_own_letters(options: Sequence[Option]) -> list[Option]:
    """The options without `A) `, `B) `, ... before their texts, where each has the letter of its place."""
    found = [OWN_LETTER.match(option.text or "") for option in options]
    if [match and match[1] for match in found] != list(ascii_uppercase[: len(options)]):
        return list(options)
    return [option._replace(text=OWN_LETTER.sub("", option.text or "", count=1)) for option in options]


def _answer_place(reference: Any, options: Sequence[Option]) -> int | None:
    """Place of the right option, which the reference gives as label, text, letter or index."""
    text = str(reference).strip()
    labels, texts = [option.label for option in options], [option.text for option in options]
    for names in (labels, texts, list(ascii_uppercase[: len(options)])):
        if text in names:
            return names.index(text)
    is_index = text.isascii() and text.isdigit() and int(text) < len(options)
    return int(text) if is_index else None
