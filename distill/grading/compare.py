"""Compares two answers by rules, without a computer algebra system; None leaves the comparison to Math-Verify."""

import re
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from distill.grading.containers import Parts, compare_parts, parts
from distill.grading.equations import same_equations
from distill.grading.expression import evaluate, is_constant, same_values
from distill.grading.extract import Found, find_box
from distill.grading.normalize import TEXT, folded, normalize, without_units, words
from distill.grading.numbers import Number, numbers_in, parse_number, parse_text_number, same_number
from distill.grading.real_sets import is_written_as_set, parse_real_set, same_real_sets
from distill.grading.units import SPELT, clock, same_clock, sign_unit, unit_of


class Prepared(NamedTuple):
    """An answer in the forms that comparisons read."""

    normalized: str
    number: Number | None
    words: str | None
    name: str
    """The left-hand side of an assignment ("x" of "x=5"), or empty."""
    unit: str = ""
    """The unit behind the value, in one spelling, if it is one of `units.UNITS`."""
    whole: str = ""
    """The normalized answer with its unit and its name."""


class RuleResult(NamedTuple):
    """Whether two answers are the same, and the name of the comparison that found it."""

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
"""Words, marks and numbers. The alternatives are possessive and differ in their first character, so matching takes
linear time. The group's own star must not be possessive: Python before 3.11.5 then matches "5x" (CPython gh-106052)."""
FORMULA = re.compile(r"\d\s*(?:\\(?:sqrt|pi|frac|cdot|times)(?![a-z])|[π√]|\^\s*\{?\d|[xyzn](?![A-Za-z]))")
RANGE_CHARS = 120
RANGE = re.compile(r"(?i)\W{0,3}(?:between\b.*\d.*\band\b.*\d|\$?\d[\d.,]* (?:or|to) \$?\d)")
INFINITY = re.compile(r"([-+]?)\\infty")
COMPARED_APART = ("<", ">", "\\le", "\\ge", "\\ne", "=", "\\in", "\\approx", "|")


def prepare(text: str) -> Prepared:
    """Normalizes an answer and parses it as a number or as words."""
    normalized = normalize(text)
    number = parse_number(normalized)
    sign = sign_unit(text)
    if number is not None or not normalized:
        return Prepared(normalized, number, None, "", sign)
    match = ASSIGNMENT.fullmatch(normalized)
    stated = match.group(2).strip() if match else normalized
    value = without_units(stated)
    spelt = words(value)
    number = parse_number(value) or _spelt_number(spelt)
    unit = sign or (unit_of(stated[len(value) :]) if len(value) < len(stated) and stated.startswith(value) else "")
    return Prepared(value, number, spelt, match.group(1) if match else "", unit, normalized)


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
    """As `prepare`; cached, since one prompt is graded many times."""
    return prepare(reference_text(reference))


def compare(reference: Prepared, answer: Prepared) -> RuleResult | None:
    """Equal, different, or None where the rules cannot tell."""
    result = _compare_whole(reference, answer)
    if result is not None:
        return result
    if reference.name and answer.name and reference.name != answer.name:
        return None
    if reference.normalized and reference.normalized == answer.normalized:
        return RuleResult(True, "exact")
    if reference.number is not None and answer.number is not None:
        return RuleResult(same_number(reference.number, answer.number), "numeric")
    gold = CHOICE.fullmatch(reference.normalized)
    given = CHOICE.fullmatch(answer.normalized) or CHOICE_WITH_TEXT.match(answer.normalized)
    # "(C)" is a choice, a bare "C" may be a variable.
    is_choice = gold and given and (gold.group(1) != reference.normalized or given.group(1) != answer.normalized)
    if gold and given and is_choice:
        return RuleResult(gold.group(1) == given.group(1), "choice")
    if reference.words or answer.words:
        result = _compare_words(reference, answer)
        if result is not None:
            return result
    result = _compare_real_sets(reference, answer)
    if result is not None:
        return result
    if any(mark in reference.normalized or mark in answer.normalized for mark in COMPARED_APART[:5]):
        return None
    return _compare_parts(reference.normalized, answer.normalized)


def _compare_whole(reference: Prepared, answer: Prepared) -> RuleResult | None:
    """Compares parts that the later comparisons leave out: units, times of day, a second number, equations."""
    are_numbers = reference.number is not None and answer.number is not None
    if are_numbers and reference.unit and answer.unit and reference.unit != answer.unit:
        return RuleResult(False, "unit")
    if ":" in reference.whole and ":" in answer.whole:
        times = clock(reference.whole), clock(answer.whole)
        if times[0] and times[1]:
            return RuleResult(same_clock(times[0], times[1]), "clock")
    if reference.number is not None and answer.number is None and COMPOUND.search(answer.whole):
        return RuleResult(False, "compound")
    if reference.number is not None and FUNCTION.fullmatch(answer.whole):
        return RuleResult(False, "function")
    if "=" in reference.whole and "=" in answer.whole:
        is_same = same_equations(reference.whole, answer.whole)
        return None if is_same is None else RuleResult(is_same, "equation")
    return None


def _compare_real_sets(reference: Prepared, answer: Prepared) -> RuleResult | None:
    """Intervals, unions and inequalities, if the notation of at least one side allows nothing else."""
    texts = [side.whole or side.normalized for side in (reference, answer)]
    if not any(is_written_as_set(text) for text in texts):
        return None
    gold, given = parse_real_set(texts[0]), parse_real_set(texts[1])
    if gold is None or given is None:
        return None
    is_same = same_real_sets(gold, given)
    return None if is_same is None else RuleResult(is_same, "reals")


def _compare_words(reference: Prepared, answer: Prepared) -> RuleResult | None:
    if reference.words and answer.words:
        return RuleResult(reference.words.rstrip("s") == answer.words.rstrip("s"), "words")
    is_phrase = answer.words is not None and "\\text" in answer.normalized and " " in answer.words
    if is_phrase and (evaluate(reference.normalized) or parts(reference.normalized)):  # "no solution" for a value
        return RuleResult(False, "words")
    return None


def _compare_parts(reference: str, answer: str) -> RuleResult | None:
    based = BASED.fullmatch(reference), BASED.fullmatch(answer)
    if based[0] and based[1]:
        return RuleResult(based[0].groups() == based[1].groups(), "based")
    if based[0] and answer.isdigit() and answer not in (based[0].group(1), _decimal(*based[0].groups())):
        return RuleResult(False, "based")
    gold, given = parts(reference), parts(answer)
    if gold and given:
        result = compare_parts(gold, given, _same)
        return None if result is None else RuleResult(result, "parts")
    if gold or given:
        return _compare_mixed(gold, given, reference, answer)
    result = _same(reference, answer)
    return None if result is None else RuleResult(result, "evaluated")


def _decimal(digits: str, base: str) -> str:
    """A number of another base in base ten, or "" where its digits do not fit the base."""
    is_valid = (
        len(digits) < 60
        and len(base) < 3
        and 2 <= int(base) <= 36
        and max(int(digit, 36) for digit in digits) < int(base)
    )
    return str(int(digits, int(base))) if is_valid else ""


def _compare_mixed(gold: Parts | None, given: Parts | None, reference: str, answer: str) -> RuleResult | None:
    """A single value against several: different as soon as one of the several surely is."""
    several, single = (gold, answer) if gold else (given, reference)
    if _scalar_and_several(several, single) is False:
        return RuleResult(False, "parts")
    if several is None or "" in several.items or several.brackets not in ("", "{}"):
        return None
    return RuleResult(False, "parts") if any(_same(single, item) is False for item in several.items) else None


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
    gold, given = parts(left.normalized), parts(right.normalized)
    if gold and given:
        return compare_parts(gold, given, _same)
    if gold or given:
        return _scalar_and_several(gold or given, right.normalized if gold else left.normalized)
    values, others = evaluate(left.normalized), evaluate(right.normalized)
    if values is None or others is None:
        return None
    if is_unevaluated(right.normalized) and is_constant(left.normalized) and not is_unevaluated(left.normalized):
        return False
    verdict = same_values(values, others)
    if verdict is False and (reference != reference.lower() or answer != answer.lower()):
        # Math-Verify treats R and r as the same variable: where that could matter, leave it to Math-Verify.
        folded_values, folded_others = evaluate(left.normalized.lower()), evaluate(right.normalized.lower())
        if not folded_values or not folded_others or same_values(folded_values, folded_others) is not False:
            return None
    return verdict


def is_unevaluated(text: str) -> bool:
    """Several trigonometric functions of numbers: most likely the problem repeated, which is equal but no answer."""
    return len(TRIGONOMETRIC.findall(text)) > 1 and is_constant(text)


def _scalar_and_several(several: Parts | None, single: str) -> bool | None:
    """False for a constant against a tuple or matrix of several items; None for anything less sure."""
    if several is None or not several.is_ordered or several.brackets == "cup" or len(several.items) < 2:
        return None
    if several.brackets == "()" and len(several.items[-1]) == 3 and "".join(several.items).isdigit():  # "(1,234)"
        return None
    return False if is_constant(single) else None


def _same_infinity(left: Prepared, right: Prepared) -> bool | None:
    signs = [match and match.group(1) == "-" for match in map(INFINITY.fullmatch, (left.normalized, right.normalized))]
    if None not in signs:
        return signs[0] == signs[1]
    other = right.normalized if signs[0] is not None else left.normalized
    is_finite = "\\infty" not in other and evaluate(other) is not None
    return False if is_finite else None


def compare_text(reference: str, answer: str) -> RuleResult:
    """Compares free text after folding case, white space and punctuation."""
    return RuleResult(bool(folded(reference)) and folded(reference) == folded(answer), "text")


def only_number(text: str) -> Number | None:
    """The number of a phrase with exactly one ("18 eggs a day"); None for a formula ("5x", "\\sqrt{5}")."""
    bare = TEXT.sub(r" \1 ", text.replace("\\$", "$").replace("\\%", "%").replace("\\ ", " ").replace("\\,", " "))
    found = numbers_in(bare)
    return found[0] if len(found) == 1 and PHRASE.fullmatch(bare) else None


def marked_number(value: str) -> Number | None:
    """The number of a marked line: after its last "=", else the first one; None for a range or a choice of two."""
    value = MINUS_WORD.sub("-", value)
    spelt = _spelt_number(words(folded(value).removesuffix(".")))
    whole = spelt or parse_number(without_units(normalize(value))) or parse_text_number(value)
    if whole is not None:
        return whole
    if RANGE.match(value[:RANGE_CHARS]):
        return None
    stated = value.rpartition("=")[2]
    found = numbers_in(stated) or numbers_in(value)
    return found[0] if found and not FORMULA.search(stated) else None  # "5\\pi" is not 5
