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

OTHER_INDEX = "columns.choice_index is no choice, or another one than the answer"
LETTER_AND_TEXT = "answer is the letter of one choice and the text of another: name columns.choice_index"
INDEX_AND_TEXT = "answer is the index of one choice and the text of another: name columns.choice_index"


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


def format_choices(problem: str, reference: str, row: Mapping[str, Any], columns: Columns) -> ChoiceProblem:
    """The problem of a row with options A) to at most J), and the reference as a letter."""
    options = _without_own_letters(_options(row, columns))
    if any(option.text is None for option in options):
        return ChoiceProblem(problem, "", "a choice is not text")
    places = [place for place, option in enumerate(options) if option.text]
    if not 2 <= len(places) <= len(ascii_uppercase[:10]):
        return ChoiceProblem(problem, "", f"{len(places)} choices")
    # The reference counts the places of the data set, also those that hold nothing.
    right = _answer_place(reference, row, columns, options)
    if isinstance(right, str):
        return ChoiceProblem(problem, "", right)
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
        letters = ascii_uppercase if columns.has_lettered_choices else [""] * len(columns.choices)
        return [Option(letter, as_text(get(row, name))) for letter, name in zip(letters, columns.choices, strict=False)]
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
    """The options without `A) `, `B) `, ... before their texts, where each has the letter of its place; that is the
    label of one that has no other."""
    found = [OWN_LETTER.match(option.text or "") for option in options]
    if [match and match[1] for match in found] != list(ascii_uppercase[: len(options)]):
        return list(options)
    return [
        Option(option.label or letter, OWN_LETTER.sub("", option.text or "", count=1))
        for letter, option in zip(ascii_uppercase, options, strict=False)
    ]


def _answer_place(
    reference: str, row: Mapping[str, Any], columns: Columns, options: Sequence[Option]
) -> int | str | None:
    """Place of the right option, which the reference gives as label, letter, text or index.

    Returns:
        The place; None where the reference is no option; a drop reason where it could be two.
    """
    if isinstance(columns.choices, tuple) and columns.reference in columns.choices and not columns.reference_from:
        return columns.choices.index(columns.reference)
    text = reference.strip()
    labels, texts = [option.label for option in options], [option.text for option in options]
    by_label, by_text = _place(text, labels), _place(text, texts)
    by_letter, by_index = _place(text, ascii_uppercase[: len(options)]), _as_index(text, len(options))
    found = {one for one in (by_label, by_text, by_letter, by_index) if one is not None}
    if (told := as_text(get(row, columns.choice_index))) != "":
        index = _as_index((told or "").removesuffix(".0"), len(options))  # 2.0: a column with gaps holds floats
        return OTHER_INDEX if index is None or (found and index not in found) else index
    if by_label is not None:
        return by_label
    if by_text is not None and _is_other(by_letter, by_text):
        return LETTER_AND_TEXT
    # A number beside texts is mostly an index, and a text that is a number mostly one of the texts.
    is_number = isinstance(get(row, columns.reference), int | float)
    if by_text is not None and is_number and _is_other(by_index, by_text) and _are_texts(row, columns):
        return INDEX_AND_TEXT
    return next((one for one in (by_text, by_letter, by_index) if one is not None), None)


def _place(text: str, names: Sequence[str | None]) -> int | None:
    return names.index(text) if text and text in [*names] else None


def _as_index(text: str, num: int) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and int(text) < num else None


def _is_other(place: int | None, than: int) -> bool:
    return place is not None and place != than


def _are_texts(row: Mapping[str, Any], columns: Columns) -> bool:
    """Whether no option is a number: among numbers, an answer that is a number is one of them."""
    found = [get(row, name) for name in (columns.choices if isinstance(columns.choices, tuple) else [columns.choices])]
    listed = [one["text"] if isinstance(one, Mapping) and isinstance(one.get("text"), list) else one for one in found]
    values = [value for one in listed for value in (one if isinstance(one, list) else [one])]
    return not any(isinstance(value, int | float) for value in values)
