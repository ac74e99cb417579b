"""In which language a completion reasons and answers, told offline by py3langid from the words between its formulas.

A piece of text counts for a language that has more than half of the probability among all; where none has, as of a few
words, for one that has it among the most usual languages and the prompt's own; else its language is not told. Pieces
are sentences, joined until they are long enough.
"""

import re
from collections import Counter
from collections.abc import Iterator
from copy import copy
from functools import lru_cache
from typing import NamedTuple

from py3langid.langid import MODEL_FILE, LanguageIdentifier

from serve.api.forcing import OPENINGS
from serve.api.reasoning_parser import opening_delimiter

FORMULA = re.compile(
    r"```.*?```|\$\$.*?\$\$|\$[^$\n]*\$|\\\[.*?\\\]|\\\(.*?\\\)|\\boxed\s*\{[^{}]*\}|\\[A-Za-z]+|<[^<>\n]{1,40}>",
    re.DOTALL,
)
"""Code, mathematics and tags: of no language."""
NO_LETTER = re.compile(
    r"[!-@\[-`{-~\u00a1-\u00bf\u00d7\u00f7\u2000-\u200b\u200e-\u2bff\u3000-\u303f\uff00-\uff20\u0964\u0965]+"
)
"""Digits, punctuation and signs. Not `\\W`, which is also the vowel signs of Indian scripts."""
ENDS = re.compile(r"(?<=[.!?])\s+|\n+|(?<=[。！？।])")
USUAL = frozenset(OPENINGS)
VARIETIES = {"ary": "ar", "arz": "ar", "nn": "no", "pcm": "en", "sdh": "ku", "uzs": "uz", "wuu": "zh", "yue": "zh"}
"""Labels of the model that count for a language that is written nearly alike."""
NO_LANGUAGE = "zxx"
PIECE_BYTES = 40
"""Letters of a piece, in UTF-8. Of the English paragraphs of 500 traces of MATH-500 those of 40 to 80 letters were told
wrongly 4 times in 3,037, those below 20 half of the time (measured 2026-11-29, all languages, no threshold)."""
CERTAIN = 0.5
MAX_CHARS = 60_000
"""Of a text that are looked at: what repeats itself until the token limit says nothing more."""


class Languages(NamedTuple):
    """What was told of one completion. Sizes are UTF-8 bytes of letters; codes are empty where nothing was told."""

    reasoning: str
    answer: str
    told: int
    """Size of the reasoning's pieces whose language was told."""
    own: int
    """Of these the size of those in the prompt's language."""


def completion_languages(completion: str, own: str, *, reasoning_end: str, given: str = "") -> Languages:
    """The languages of a completion.

    Args:
        completion: its text. Without `reasoning_end` all of it is reasoning and, unless it was opened, answer alike.
        own: the prompt's language.
        reasoning_end: the text that ends the reasoning; empty where nothing does.
        given: what the model did not write but was made to begin with; it counts for no language.
    """
    reasoning, answer = _parts(completion.replace(given, " ", 1) if given else completion, reasoning_end)
    sizes = _sizes(reasoning, own)
    return Languages(_most(sizes), _most(_sizes(answer, own)), sum(sizes.values()), sizes[own])


def text_language(text: str, own: str) -> str:
    """The language of most of a text; empty where it is not told. `own`: one that it may well be in."""
    return _most(_sizes(text, own))


def _parts(completion: str, end: str) -> tuple[str, str]:
    reasoning, delimiter, answer = completion.rpartition(end) if end else ("", "", completion)
    if delimiter:
        return reasoning, answer
    return completion, "" if end and opening_delimiter(end) in completion else completion


def _most(sizes: Counter[str]) -> str:
    return sizes.most_common(1)[0][0] if sizes else ""


def _sizes(text: str, own: str) -> Counter[str]:
    """Language -> size of the text's pieces in it."""
    found: Counter[str] = Counter()
    for piece in _pieces(text[:MAX_CHARS]):
        if language := _told(piece, own):
            found[language] += len(piece.replace(" ", "").encode(errors="replace"))
    return found


def _pieces(text: str) -> Iterator[str]:
    """The words of sentences, joined until there are enough of them; what is left at the end joins the last piece."""
    pieces, begun = list[str](), ""
    for sentence in ENDS.split(FORMULA.sub(" ", text)):
        begun = f"{begun} {NO_LETTER.sub(' ', sentence)}".strip()
        if len(begun.encode(errors="replace")) >= PIECE_BYTES:
            pieces.append(begun)
            begun = ""
    if begun and pieces:
        pieces[-1] += f" {begun}"
    elif begun:
        pieces.append(begun)
    return iter(pieces)


@lru_cache(maxsize=4096)
def _told(piece: str, own: str) -> str:
    """The language of a piece; cached, since short answers are mostly the same few."""
    among_all = _shares(piece, frozenset())
    language, share = max(among_all.items(), key=lambda one: one[1])
    if share <= CERTAIN:
        language, share = max(_shares(piece, USUAL | {own}).items(), key=lambda one: one[1])
    return language if share > CERTAIN and language != NO_LANGUAGE else ""


def _shares(piece: str, among: frozenset[str]) -> dict[str, float]:
    """Language -> probability."""
    found: dict[str, float] = {}
    for label, share in _identifier(among).rank(piece):
        language = VARIETIES.get(label, label)
        found[language] = found.get(language, 0.0) + share
    return found


@lru_cache(maxsize=64)
def _identifier(among: frozenset[str]) -> LanguageIdentifier:
    """The model, all of it or for some languages only. It is read once, which takes seconds."""
    if not among:
        return LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier = copy(_identifier(frozenset()))
    identifier.set_languages([label for label in identifier.labels if VARIETIES.get(label, label) in among])
    return identifier


def known_languages() -> frozenset[str]:
    """Every language that can be told."""
    labels = _identifier(frozenset()).labels
    return frozenset(VARIETIES.get(label, label) for label in labels) - {NO_LANGUAGE}
