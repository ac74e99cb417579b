"""Settles what can be settled without a computer algebra system; everything else is None, for Math-Verify."""

import re
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from distill.grading.containers import Parts, compare_parts, parts
from distill.grading.equations import same_equations
from distill.grading.expression import evaluate, is_constant, same_values
from distill.grading.extract import Found, find_box
from distill.grading.normalize import TEXT, clean, folded, without_units, words
from distill.grading.numbers import Number, numbers_in, parse_number, parse_text_number, same_number
from distill.grading.real_sets import is_written_as_set, parse_reals, same_reals
from distill.grading.units import SPELT, clock, same_clock, sign_unit, unit_of


class Prepared(NamedTuple):
    """An answer in the forms that comparisons read."""

    cleaned: str
    number: Number | None
    words: str | None
    name: str
    """What the value was assigned to ("x" of "x=5"), or empty."""
    unit: str = ""
    """The unit that was written behind it, in one spelling, where it is one we know."""
    whole: str = ""
    """The cleaned answer with its unit and its name."""


class Settled(NamedTuple):
    """Whether two answers are the same, and which comparison said so."""

    is_equal: bool
    how: str


ASSIGNMENT = re.compile(r"((?=[A-Za-z\\])[A-Za-z\\_0-9{}'() ]{1,24}?)\s*(?:=|\\approx)\s*(?=[^=])([^=<>]+)")
CHOICE = re.compile(r"\(?(?:\\text\s*\{\s*)?\(?([A-J])\)?\s*\}?\)?")
BASED = re.compile(r"([0-9A-F]+)_\{?(\d+)\}?")  # "4210_5"; the same value in another base is another answer
CHOICE_WITH_TEXT = re.compile(r"(?:\\text\s*\{\s*)?\(([A-J])\)\s*\}?(?=.)")  # "(B) 3x+1"
COMPOUND = re.compile(r"\d\s*\\text\s*\{[^{}]*[A-Za-z][^{}]*\}\s*\d")  # "10\\text{ dollars }50\\text{ cents}"
FUNCTION = re.compile(r"[A-Za-z]\([A-Za-z]\)")
TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
MINUS_WORD = re.compile(r"(?<![\d)] )\b(?i:minus|negative) (?=\d)")
PHRASE = re.compile(r"(?:[$€£¥₹%,.;:()*\s]|[A-Za-z][A-Za-z'’/-]++(?![\w\\^])|[aA](?=\s)|[-+]?\d[\d.,/]*+(?![\w\\^]))*")
"""Words, marks and numbers. What an alternative has taken is not tried again, and what a token begins with says which
one it is, so the time is linear. The group's own star must not be possessive: Python before 3.11.5 then takes "5x" for
a phrase (CPython gh-106052)."""
FORMULA = re.compile(r"\d\s*(?:\\(?:sqrt|pi|frac|cdot|times)(?![a-z])|[π√]|\^\s*\{?\d|[xyzn](?![A-Za-z]))")
RANGE_CHARS = 120
RANGE = re.compile(r"(?i)\W{0,3}(?:between\b.*\d.*\band\b.*\d|\$?\d[\d.,]* (?:or|to) \$?\d)")
INFINITY = re.compile(r"([-+]?)\\infty")
COMPARED_APART = ("<", ">", "\\le", "\\ge", "\\ne", "=", "\\in", "\\approx", "|")


def prepare(text: str) -> Prepared:
    """Cleans an answer and reads it as a number or as words where it is one."""
    cleaned = clean(text)
    number = parse_number(cleaned)
    sign = sign_unit(text)
    if number is not None or not cleaned:
        return Prepared(cleaned, number, None, "", sign)
    match = ASSIGNMENT.fullmatch(cleaned)
    stated = match.group(2).strip() if match else cleaned
    value = without_units(stated)
    spelt = words(value)
    number = parse_number(value) or _spelt_number(spelt)
    unit = sign or (unit_of(stated[len(value) :]) if len(value) < len(stated) and stated.startswith(value) else "")
    return Prepared(value, number, spelt, match.group(1) if match else "", unit, cleaned)


def _spelt_number(text: str | None) -> Number | None:
    return Number(Fraction(SPELT[text]), False, False) if text in SPELT else None


@lru_cache(maxsize=4096)
def _prepared(text: str) -> Prepared:
    return prepare(text)


def reference_text(reference: str) -> str:
    """The answer inside a reference that may be a bare value, `$...$`, or a whole solution with a box or `####`."""
    if "\\boxed" in reference or "\\fbox" in reference:
        found = find_box(reference)
        return found.text if isinstance(found, Found) else reference
    if "####" in reference:
        return reference.rpartition("####")[2].strip()
    return reference.strip()


@lru_cache(maxsize=4096)
def prepare_reference(reference: str) -> Prepared:
    """As `prepare`; kept, since one prompt is graded many times."""
    return prepare(reference_text(reference))


def compare(reference: Prepared, answer: Prepared) -> Settled | None:
    """Equal, different, or None for "not without a computer algebra system"."""
    settled = _compare_whole(reference, answer)
    if settled is not None:
        return settled
    if reference.name and answer.name and reference.name != answer.name:
        return None
    if reference.cleaned and reference.cleaned == answer.cleaned:
        return Settled(True, "exact")
    if reference.number is not None and answer.number is not None:
        return Settled(same_number(reference.number, answer.number), "numeric")
    gold = CHOICE.fullmatch(reference.cleaned)
    given = CHOICE.fullmatch(answer.cleaned) or CHOICE_WITH_TEXT.match(answer.cleaned)
    # "(C)" is a choice, a bare "C" may be a variable.
    is_choice = gold and given and (gold.group(1) != reference.cleaned or given.group(1) != answer.cleaned)
    if gold and given and is_choice:
        return Settled(gold.group(1) == given.group(1), "choice")
    if reference.words or answer.words:
        settled = _compare_words(reference, answer)
        if settled is not None:
            return settled
    settled = _compare_reals(reference, answer)
    if settled is not None:
        return settled
    if any(mark in reference.cleaned or mark in answer.cleaned for mark in COMPARED_APART[:5]):
        return None
    return _compare_parts(reference.cleaned, answer.cleaned)


def _compare_whole(reference: Prepared, answer: Prepared) -> Settled | None:
    """What is settled by a part that later comparisons leave out: units, halves of the day, a second number."""
    are_numbers = reference.number is not None and answer.number is not None
    if are_numbers and reference.unit and answer.unit and reference.unit != answer.unit:
        return Settled(False, "unit")
    if ":" in reference.whole and ":" in answer.whole:
        times = clock(reference.whole), clock(answer.whole)
        if times[0] and times[1]:
            return Settled(same_clock(times[0], times[1]), "clock")
    if reference.number is not None and answer.number is None and COMPOUND.search(answer.whole):
        return Settled(False, "compound")
    if reference.number is not None and FUNCTION.fullmatch(answer.whole):
        return Settled(False, "function")
    if "=" in reference.whole and "=" in answer.whole:
        is_same = same_equations(reference.whole, answer.whole)
        return None if is_same is None else Settled(is_same, "equation")
    return None


def _compare_reals(reference: Prepared, answer: Prepared) -> Settled | None:
    """Intervals, unions and inequalities, when at least one side can be nothing else."""
    texts = [side.whole or side.cleaned for side in (reference, answer)]
    if not any(is_written_as_set(text) for text in texts):
        return None
    gold, given = parse_reals(texts[0]), parse_reals(texts[1])
    if gold is None or given is None:
        return None
    is_same = same_reals(gold, given)
    return None if is_same is None else Settled(is_same, "reals")


def _compare_words(reference: Prepared, answer: Prepared) -> Settled | None:
    if reference.words and answer.words:
        return Settled(reference.words.rstrip("s") == answer.words.rstrip("s"), "words")
    is_phrase = answer.words is not None and "\\text" in answer.cleaned and " " in answer.words
    if is_phrase and (evaluate(reference.cleaned) or parts(reference.cleaned)):  # "no solution" for a value
        return Settled(False, "words")
    return None


def _compare_parts(reference: str, answer: str) -> Settled | None:
    based = BASED.fullmatch(reference), BASED.fullmatch(answer)
    if based[0] and based[1]:
        return Settled(based[0].groups() == based[1].groups(), "based")
    if based[0] and answer.isdigit() and answer not in (based[0].group(1), _decimal(*based[0].groups())):
        return Settled(False, "based")
    gold, given = parts(reference), parts(answer)
    if gold and given:
        result = compare_parts(gold, given, _same)
        return None if result is None else Settled(result, "parts")
    if gold or given:
        return _compare_mixed(gold, given, reference, answer)
    result = _same(reference, answer)
    return None if result is None else Settled(result, "evaluated")


def _decimal(digits: str, base: str) -> str:
    """A based number in base ten, or "" where it has no such value."""
    is_valid = (
        len(digits) < 60
        and len(base) < 3
        and 2 <= int(base) <= 36
        and max(int(digit, 36) for digit in digits) < int(base)
    )
    return str(int(digits, int(base))) if is_valid else ""


def _compare_mixed(gold: Parts | None, given: Parts | None, reference: str, answer: str) -> Settled | None:
    """A single value beside several: different as soon as one of the several surely is."""
    several, single = (gold, answer) if gold else (given, reference)
    if _scalar_and_several(several, single) is False:
        return Settled(False, "parts")
    if several is None or "" in several.items or several.brackets not in ("", "{}"):
        return None
    return Settled(False, "parts") if any(_same(single, item) is False for item in several.items) else None


def _same(reference: str, answer: str) -> bool | None:
    """One value with one value, or nested containers."""
    if reference == answer:
        return True
    left, right = _prepared(reference), _prepared(answer)
    if left.name != right.name and len(left.name) == len(right.name) == 1:
        return False  # x = 1 is not y = 1
    if left.number is not None and right.number is not None:
        return same_number(left.number, right.number)
    if "\\infty" in reference or "\\infty" in answer:
        return _same_infinity(left, right)
    if left.name or right.name:
        return None
    gold, given = parts(left.cleaned), parts(right.cleaned)
    if gold and given:
        return compare_parts(gold, given, _same)
    if gold or given:
        return _scalar_and_several(gold or given, right.cleaned if gold else left.cleaned)
    values, others = evaluate(left.cleaned), evaluate(right.cleaned)
    if values is None or others is None:
        return None
    if is_unevaluated(right.cleaned) and is_constant(left.cleaned) and not is_unevaluated(left.cleaned):
        return False
    verdict = same_values(values, others)
    if verdict is False and (reference != reference.lower() or answer != answer.lower()):
        # Math-Verify holds R and r for the same variable: where that could matter the decision is its.
        folded_values, folded_others = evaluate(left.cleaned.lower()), evaluate(right.cleaned.lower())
        if not folded_values or not folded_others or same_values(folded_values, folded_others) is not False:
            return None
    return verdict


def is_unevaluated(text: str) -> bool:
    """Several trigonometric functions of numbers, most likely the problem said again: equal, but no answer to it."""
    return len(TRIGONOMETRIC.findall(text)) > 1 and is_constant(text)


def _scalar_and_several(several: Parts | None, single: str) -> bool | None:
    """A constant is no tuple and no matrix of several items; anything less sure is None."""
    if several is None or not several.is_ordered or several.brackets == "cup" or len(several.items) < 2:
        return None
    if several.brackets == "()" and len(several.items[-1]) == 3 and "".join(several.items).isdigit():  # "(1,234)"
        return None
    return False if is_constant(single) else None


def _same_infinity(left: Prepared, right: Prepared) -> bool | None:
    signs = [match and match.group(1) == "-" for match in map(INFINITY.fullmatch, (left.cleaned, right.cleaned))]
    if None not in signs:
        return signs[0] == signs[1]
    other = right.cleaned if signs[0] is not None else left.cleaned
    is_finite = "\\infty" not in other and evaluate(other) is not None
    return False if is_finite else None


def compare_text(reference: str, answer: str) -> Settled:
    """Free text, folded."""
    return Settled(bool(folded(reference)) and folded(reference) == folded(answer), "text")


def only_number(text: str) -> Number | None:
    """The number in a phrase of words that has exactly one ("18 eggs a day"); None in a formula ("5x", "\\sqrt{5}")."""
    bare = TEXT.sub(r" \1 ", text.replace("\\$", "$").replace("\\%", "%").replace("\\ ", " ").replace("\\,", " "))
    found = numbers_in(bare)
    return found[0] if len(found) == 1 and PHRASE.fullmatch(bare) else None


def marked_number(value: str) -> Number | None:
    """The number a marked line states: after its last "=", else the first one; None where it names a choice of two."""
    value = MINUS_WORD.sub("-", value)
    spelt = _spelt_number(words(folded(value).removesuffix(".")))
    whole = spelt or parse_number(without_units(clean(value))) or parse_text_number(value)
    if whole is not None:
        return whole
    if RANGE.match(value[:RANGE_CHARS]):
        return None
    stated = value.rpartition("=")[2]
    found = numbers_in(stated) or numbers_in(value)
    return found[0] if found and not FORMULA.search(stated) else None  # "5\\pi" is not 5
