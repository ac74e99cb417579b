"""Instructions that rules can check: at least 300 words, no commas, all in capitals (IFEval, arXiv 2311.07911).

The checkers are those of the package if-verifiable, which are the published ones. Strict: the answer as it is. Loose:
also without its first or last line, or both, and without asterisks. Two things decide verdicts there that a machine may
have or not, and are fixed here: the seed of the language detector, which draws at random, and the abbreviations that
end no sentence, which nltk would download.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

NLTK_DATA = Path(__file__).parent / "nltk_data"
"""Our own list of English abbreviations, in the format of nltk's `punkt_tab`. IFEval's sentence counts are by trained
parameters, which have no stated licence; counts differ where an abbreviation is only in one of the two."""

ARGUMENTS: dict[str, tuple[str, ...]] = {
    "keywords:existence": ("keywords",),
    "keywords:frequency": ("keyword", "frequency", "relation"),
    "keywords:forbidden_words": ("forbidden_words",),
    "keywords:letter_frequency": ("letter", "let_frequency", "let_relation"),
    "language:response_language": ("language",),
    "length_constraints:number_sentences": ("num_sentences", "relation"),
    "length_constraints:number_paragraphs": ("num_paragraphs",),
    "length_constraints:number_words": ("num_words", "relation"),
    "length_constraints:nth_paragraph_first_word": ("num_paragraphs", "nth_paragraph", "first_word"),
    "detectable_content:number_placeholders": ("num_placeholders",),
    "detectable_content:postscript": ("postscript_marker",),
    "detectable_format:number_bullet_lists": ("num_bullets",),
    "detectable_format:constrained_response": (),
    "detectable_format:number_highlighted_sections": ("num_highlights",),
    "detectable_format:multiple_sections": ("section_spliter", "num_sections"),
    "detectable_format:json_format": (),
    "detectable_format:title": (),
    "combination:two_responses": (),
    "combination:repeat_prompt": ("prompt_to_repeat",),
    "startend:end_checker": ("end_phrase",),
    "change_case:capital_word_frequency": ("capital_frequency", "capital_relation"),
    "change_case:english_capital": (),
    "change_case:english_lowercase": (),
    "punctuation:no_comma": (),
    "startend:quotation": (),
}
"""Instruction -> its arguments, all of which it needs: a checker draws those that it lacks at random."""

STRICT, LOOSE, NOT = "strict", "loose", "not"


class Instruction(NamedTuple):
    """One instruction that rules can check."""

    name: str
    arguments: dict[str, Any]


class Followed(NamedTuple):
    """Whether an answer follows an instruction."""

    name: str
    how: str
    """`strict`, `loose` (under the loose reading only) or `not`."""


def pack_instructions(names: Sequence[str], arguments: Sequence[Mapping[str, Any]]) -> str:
    """Instructions as JSON that `parse_instructions` gives back. Arguments without a value are left out, and 3.0 is 3:
    a Parquet file has a column for each argument of every instruction."""
    pairs = zip(names, arguments, strict=True)
    return json.dumps([[name, _given(own)] for name, own in pairs], ensure_ascii=False)


def _given(arguments: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _whole(value) for name, value in arguments.items() if value is not None}


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def parse_instructions(text: str) -> list[Instruction]:
    """Parses `[[name, {argument: value}], ...]`.

    Raises:
        ValueError: it is not JSON of this form, or holds no instruction.
    """
    data = json.loads(text)
    if not isinstance(data, list) or not data or not all(map(_is_instruction, data)):
        raise ValueError('a row of instructions needs entry = [["name", {"argument": value}], ...]')
    return [Instruction(*one) for one in data]


def _is_instruction(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], dict)


def lacking(instruction: Instruction) -> list[str]:
    """The arguments that a known instruction needs and has not."""
    return [name for name in ARGUMENTS[instruction.name] if name not in instruction.arguments]


@cache
def load_checkers() -> Mapping[str, Any]:
    """Name of an instruction -> class of its checker. The first call takes seconds, for imports and language profiles;
    what checkers read from files is read here, so that they work where no file may be opened."""
    import langdetect  # with nltk, seconds of imports: only in processes that check
    import nltk

    langdetect.DetectorFactory.seed = 0
    nltk.data.path.insert(0, str(NLTK_DATA))
    from if_verifiable.ifeval import INSTRUCTION_DICT, instructions_util

    langdetect.detect("Which language is this sentence in?")
    instructions_util.count_sentences("One. Two.")
    nltk.word_tokenize("One. Two.")
    return dict(INSTRUCTION_DICT)


def check(instructions: Sequence[Instruction], answer: str) -> list[Followed]:
    """Which instructions an answer follows, in their order.

    Raises:
        Whatever a checker raises on arguments that it cannot use; KeyError for an unknown instruction.
    """
    checkers = load_checkers()
    from if_verifiable.common import evaluate_instructions

    found, _ = evaluate_instructions(
        answer,
        [one.name for one in instructions],
        [one.arguments for one in instructions],
        prompt="",  # no published checker reads it
        instruction_registry={one.name: checkers[one.name] for one in instructions},
    )
    return [
        Followed(one.instruction_id, STRICT if one.strict_pass else LOOSE if one.loose_pass else NOT) for one in found
    ]


def in_words(followed: Sequence[Followed]) -> str:
    """The detail of a grade: `keywords:existence=strict punctuation:no_comma=not`."""
    return " ".join(f"{one.name}={one.how}" for one in followed)


def from_words(detail: str) -> Iterator[Followed]:
    """The inverse of `in_words`; nothing for any other detail."""
    for part in detail.split():
        name, _, how = part.rpartition("=")
        if name in ARGUMENTS and how in (STRICT, LOOSE, NOT):
            yield Followed(name, how)
