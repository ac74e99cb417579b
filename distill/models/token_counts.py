"""Counts the tokens of many texts, without a list of ids for each.

A byte-level tokenizer cuts a text before a single space between two words, whatever stands beside them: its count is
the sum over the pieces, and a piece ("so", " that") recurs in thousands of texts. Each distinct piece goes through the
tokenizer once. Where every digit is a token by itself, numbers of one length are one piece. A tokenizer that is not
known to cut there counts whole texts, many at once.
"""

import json
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from distill.models.chat_template import control_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MAX_PIECES = 1 << 18
"""Pieces that are remembered: some 40 MB."""
HOLDS_CONTROL = 1 << 40
"""Added to the count of a piece that holds a control token; no text has as many tokens."""
NO_PIECE = 1 << 50
"""In place of a count: the text is not to be cut here, since white space stands beside the space."""
_PIECES = pa.list_(pa.string())
DIGITS = frozenset("0123456789")
_ONE_DIGIT = bytes.maketrans(b"0123456789", b"0" * 10)
_SPACE_BETWEEN_WORDS = re.compile(r"(?<=\S) (?=\S)")
# `\S` of Python excludes all that `\s` of these patterns matches. None of their alternatives matches a space behind
# anything but white space, and none but the last two, which need white space after it, ends with one.
PATTERNS = (
    # Llama 3, SmolLM3
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+",
    # Qwen2, Qwen2.5, Qwen3
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+",
)
"""Patterns of `Split` that cut before a single space between two words. GPT-2's, within `ByteLevel`, does too."""


class TokenCounts(NamedTuple):
    """One entry per text."""

    tokens: NDArray[np.int64]
    holds_control: NDArray[np.bool_]
    """Whether a control token is among them (`control_tokens`)."""


class Cuts(NamedTuple):
    """Where a tokenizer is known to cut every text, and to treat both sides alone."""

    at_spaces: bool
    """Before a single space between two words."""
    at_digits: bool
    """Around every digit: no token but the ten digits holds one."""


class TokenCounter:
    """Counts tokens as `encode` gives them, and remembers pieces."""

    def __init__(self, tokenizer: "PreTrainedTokenizerBase") -> None:
        self.tokenizer, self.control = tokenizer, frozenset(control_tokens(tokenizer))
        self.heads: dict[str, int] = {}
        """First pieces of texts -> their count."""
        self.tails: dict[str, int] = {}
        """Further pieces, without the space before them -> their count with it."""

    def count(self, texts: Sequence[str]) -> TokenCounts:
        """Tokens of each text, no special tokens added."""
        cuts = known_cuts(self.tokenizer)
        if not cuts.at_spaces:
            return _counts(self._whole(texts))
        column = pa.array(texts, pa.string())
        if cuts.at_digits:
            column = _with_one_digit(column)
        sums = self._sums(pc.split_pattern(column, " "))
        rest = np.flatnonzero(sums >= NO_PIECE)
        sums[rest] = self._sums(pa.array(map(_SPACE_BETWEEN_WORDS.split, column.take(rest).to_pylist()), _PIECES))
        rest = np.flatnonzero(sums >= NO_PIECE)
        sums[rest] = self._by_backend(column.take(rest).to_pylist())
        return _counts(sums)

    def _sums(self, texts: pa.ListArray) -> NDArray[np.int64]:
        """The sum over each text's pieces, of which it has one at least."""
        if not len(texts):
            return np.empty(0, np.int64)
        encoded = texts.flatten().dictionary_encode()
        pieces, codes = encoded.dictionary.to_pylist(), encoded.indices.to_numpy()
        first = np.cumsum(texts.value_lengths().to_numpy()) - texts.value_lengths().to_numpy()
        heads, head_of = np.unique(codes[first], return_inverse=True)
        counts = self._known(self.tails, pieces, " ")[codes]
        counts[first] = self._known(self.heads, [pieces[code] for code in heads.tolist()], "")[head_of]
        return np.add.reduceat(counts, first)

    def _known(self, known: dict[str, int], pieces: Sequence[str], before: str) -> NDArray[np.int64]:
        """The count of each piece; those that are new are counted and remembered."""
        if len(known) > MAX_PIECES:
            known.clear()
        fresh = [piece for piece in pieces if piece not in known]
        known |= dict.fromkeys(fresh, NO_PIECE)
        whole = [piece for piece in fresh if not _is_beside_space(piece, before)]
        known |= zip(whole, self._by_backend([before + piece for piece in whole]).tolist(), strict=True)
        return np.fromiter(map(known.__getitem__, pieces), np.int64, len(pieces))

    def _by_backend(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """The count of each text, with `HOLDS_CONTROL` where it holds one: on all cores, without transformers' rows."""
        backend = self.tokenizer.backend_tokenizer
        backend.no_truncation()  # as a call of the tokenizer sets it
        backend.no_padding()
        found = (one.ids for one in backend.encode_batch_fast(list(texts), add_special_tokens=False))
        return np.fromiter(map(self._count, found), np.int64, len(texts))

    def _whole(self, texts: Sequence[str]) -> NDArray[np.int64]:
        """The same by the tokenizer, whatever it is made of."""
        found = self.tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False)["input_ids"]
        return np.fromiter(map(self._count, found), np.int64, len(texts))

    def _count(self, ids: Sequence[int]) -> int:
        return len(ids) + HOLDS_CONTROL * (not self.control.isdisjoint(ids))


def _is_beside_space(piece: str, before: str) -> bool:
    """Whether white space stands beside the space that the text was cut at, before or behind the piece."""
    return not piece or piece[-1].isspace() or (bool(before) and piece[0].isspace())


def _counts(sums: NDArray[np.int64]) -> TokenCounts:
    return TokenCounts(sums % HOLDS_CONTROL, sums >= HOLDS_CONTROL)


def _with_one_digit(texts: pa.StringArray) -> pa.StringArray:
    """The texts with 0 in place of every digit."""
    _, bounds, characters = texts.buffers()
    return pa.StringArray.from_buffers(len(texts), bounds, pa.py_buffer(characters.to_pybytes().translate(_ONE_DIGIT)))


@lru_cache(maxsize=16)
def known_cuts(tokenizer: "PreTrainedTokenizerBase") -> Cuts:
    """Where a tokenizer cuts every text."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or tokenizer.split_special_tokens:
        return Cuts(at_spaces=False, at_digits=False)
    parts: dict[str, Any] = json.loads(backend.to_str())
    cutters = _flat(parts["pre_tokenizer"], "pretokenizers")
    added = [token["content"] for token in parts["added_tokens"]]
    at_spaces = (
        all(one["type"] == "NFC" for one in _flat(parts["normalizer"], "normalizers"))
        and all(map(_keeps_spaces, cutters))
        and any(one["type"] == "Split" or one.get("use_regex") for one in cutters)
        and parts["model"]["type"] == "BPE"
        and not parts["model"].get("dropout")
        and not any(token["rstrip"] for token in parts["added_tokens"])
        and not any(" " in token for token in added)
    )
    with_digits = {token for token in (*parts["model"]["vocab"], *added) if not DIGITS.isdisjoint(token)}
    return Cuts(at_spaces, at_digits=at_spaces and with_digits == DIGITS)


def _flat(part: dict[str, Any] | None, members: str) -> list[dict[str, Any]]:
    """A part of a tokenizer as a list; a sequence as its members."""
    if part is None:
        return []
    return list(part[members]) if part["type"] == "Sequence" else [part]


def _keeps_spaces(cutter: dict[str, Any]) -> bool:
    """Whether a pre-tokenizer cuts by what stands on one side of a space alone."""
    if cutter["type"] == "ByteLevel":
        return not cutter["add_prefix_space"]
    if cutter["type"] == "Split":
        plain = cutter["behavior"] == "Isolated" and not cutter["invert"]
        return plain and cutter["pattern"].get("Regex") in PATTERNS
    return bool(cutter["type"] == "Digits")
