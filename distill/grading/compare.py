"""Compares two answers by rules, without a computer algebra system; None leaves the comparison to Math-Verify."""

import re
from functools import lru_cache
from typing import NamedTuple

from distill.grading.congruences import parse_congruence, same_congruences, states_number
from distill.grading.containers import JOINER, Parts, compare_parts, parts
from distill.grading.equations import same_equations
from distill.grading.expression import evaluate, is_constant, same_expressions
from distill.grading.normalize import MATHS_WORDS, TEXT, folded, normalize, without_units, words
from distill.grading.number_phrases import spelt_number
from distill.grading.numbers import Number, parse_number, same_number
from distill.grading.real_sets import is_empty_set, is_written_as_set, parse_real_set, same_real_sets
from distill.grading.units import clock, same_clock, sign_unit, unit_of


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


WHOLE_TEXT = re.compile(r"\s*\$?\s*\\text\s*\{([^{}]*,[^{}]*)\}\s*\$?\s*")
GROUPED = re.compile(r"(?<![\d,.])\d{1,3}(?:,\d{3})+(?![\d,])")
OPERAND = r"\(?-?\d+(?:\.\d+)?\)?"
ARITHMETIC = re.compile(rf"[-+]?{OPERAND}(?:(?:[-+*/]|\\(?:times|cdot|div)\s*){OPERAND})+")
OPERATORS = re.compile(
    r"\\(?:sum|prod|int|oint|lim|gcd|lcm|max|min)(?![a-z])|\\text\s*\{\s*(?:gcd|lcm)\s*\}|(?<![A-Za-z])(?:gcd|lcm|max|min)\("
)
SEVERAL_DIGITS = re.compile(r"\d\d")
ASSIGNMENT = re.compile(r"((?=[A-Za-z\\])[A-Za-z\\_0-9{}'() ]{1,24}?)\s*(?:=|\\approx)\s*(?=[^=])([^=<>]+)")
CHOICE = re.compile(r"\(?(?:\\text\s*\{\s*)?\(?([A-J])\)?\s*\}?\)?")
BASED = re.compile(r"([0-9A-F]+)_\{?(\d+)\}?")  # "4210_5"; the same value in another base is another answer
CHOICE_WITH_TEXT = re.compile(r"(?:\\text\s*\{\s*)?\(([A-J])\)\s*\}?(?=.)")  # "(B) 3x+1"
COMPOUND = re.compile(r"\d\s*\\text\s*\{[^{}]*[A-Za-z][^{}]*\}\s*\d")  # "10\\text{ dollars }50\\text{ cents}"
FRACTION_ONLY = re.compile(r"[-+]?\(?-?\d+\)?/\(?\d+\)?|[-+]?\d+(?:\.\d+)?(?:\\times|\\cdot|\*)10")
SINGLETON = re.compile(r"\\\{(\([^(){}]*\))\\\}")
LIST_MARK = re.compile(r"[,;]|\\pm")
NOT_DIGIT = re.compile(r"\D")
CASES = re.compile(r"\\text\s*\{[^{}]*\b(?:if|when|unless|otherwise|else|or|not|cannot|maybe|possibly)\b")
FUNCTION = re.compile(r"[A-Za-z]\([A-Za-z]\)")
PLACEHOLDER = re.compile(r"(?:\\(?:square|Box|blacksquare|bigcirc|dots|ldots|cdots|_)(?![a-z])|[?_. ])+")
ELLIPSIS = re.compile(r"[-+*)\]}]\s*\\(?:dots[bcm]?|[lc]dots)(?![a-z])\s*[-+*(\[\\\w]")
"""A sum or a product that is only begun; in a list, commas stand beside the dots."""
TRIGONOMETRIC = re.compile(r"\\(?:sin|cos|tan|cot|sec|csc)(?![a-z])")
INFINITY = re.compile(r"([-+]?)\\infty")
COMPARED_APART = ("<", ">", "\\le", "\\ge", "\\ne", "=", "\\in", "\\approx", "|")


def prepare(text: str) -> Prepared:
    """Normalizes an answer and parses it as a number or as words."""
    listed = WHOLE_TEXT.fullmatch(text) if "\\text" in text else None
    normalized = normalize(listed.group(1) if listed else text)
    number = parse_number(normalized)
    sign = sign_unit(text)
    if number is not None or not normalized:
        return Prepared(normalized, number, None, "", sign)
    match = ASSIGNMENT.fullmatch(normalized)
    if match and match.group(1).count("{") != match.group(1).count("}"):  # the "=" of "\\sum_{k=1}"
        match = None
    stated = match.group(2).strip() if match else normalized
    value = without_units(stated)
    spelt = words(value)
    number = parse_number(value) or spelt_number(spelt) or (spelt_number(words(text)) if spelt else None)
    unit = sign or (unit_of(stated[len(value) :]) if len(value) < len(stated) and stated.startswith(value) else "")
    return Prepared(value, number, spelt, match.group(1) if match else "", unit, normalized)


@lru_cache(maxsize=4096)
def _prepared(text: str) -> Prepared:
    return prepare(text)


def compare(reference: Prepared, answer: Prepared) -> RuleResult | None:
    """Equal, different, or None where the rules cannot tell."""
    is_left_to_do = reference.number is not None and (is_restated(answer.normalized) or is_restated(answer.whole))
    if is_left_to_do and not is_restated(reference.normalized):
        return RuleResult(False, "unevaluated")
    result = _compare(reference, answer)
    if result is not None and result.is_equal:
        return result
    texts = [ungrouped(reference.normalized), ungrouped(answer.normalized)]
    if texts == [reference.normalized, answer.normalized]:
        return result
    other = _compare(prepare(texts[0]), prepare(texts[1]))
    return other if other is not None and other.is_equal else result


def ungrouped(text: str) -> str:
    """A formula without separators of thousands ("317/25,600"); a bare number or a bracketed list stays as it is."""
    is_bracketed = text[:1] in ("(", "[") or text[:2] == "\\{"
    return text if is_bracketed and text[-1:] in (")", "]", "}") else GROUPED.sub(_without_commas, text)


def _without_commas(match: re.Match[str]) -> str:
    return match.group().replace(",", "")


def is_restated(text: str) -> bool:
    """Whether a normalized answer is arithmetic that was left to do, or a sum, integral or divisor to be found.

    A quotient of two whole numbers is a fraction, and two single digits are added at sight.
    """
    if OPERATORS.search(text):
        return True
    if not ARITHMETIC.fullmatch(text) or FRACTION_ONLY.fullmatch(text):
        return False
    return bool(SEVERAL_DIGITS.search(text)) or len(re.findall(r"\d+", text)) > 2


def _compare(reference: Prepared, answer: Prepared) -> RuleResult | None:
    texts = [side.whole or side.normalized for side in (reference, answer)]
    if any("\\text" in text for text in texts) and _untexted(texts[0]) == _untexted(texts[1]):
        return RuleResult(True, "exact")
    result = _compare_whole(reference, answer)
    if result is not None:
        return result
    if is_placeholder(answer.normalized) and is_constant(reference.normalized):
        return RuleResult(False, "placeholder")
    if ELLIPSIS.search(answer.normalized) and evaluate(reference.normalized):
        return RuleResult(False, "unevaluated")
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
    result = _compare_real_sets(reference, answer) or _compare_texts(reference, answer)
    if result is not None:
        return result
    if any(mark in reference.normalized or mark in answer.normalized for mark in COMPARED_APART[:5]):
        return None
    return _compare_parts(reference.normalized, answer.normalized)


def _compare_texts(reference: Prepared, answer: Prepared) -> RuleResult | None:
    """Words, and formulas with words among them."""
    if reference.words or answer.words:
        result = _compare_words(reference, answer)
        if result is not None:
            return result
    gold, given = (JOINER.sub(",", side.normalized) for side in (reference, answer))
    if "\\text" not in gold and CASES.search(given):  # "4 if n is odd" says less than 4
        return RuleResult(False, "text_blocks")
    return _compare_blocks(gold, given) if "\\text" in gold and "\\text" in given else None


def _untexted(text: str) -> str:
    """A formula without white space and without its `\\text` commands; words in lower case."""
    bare = re.sub(r"\s+|\\text(?=\s*\{)", "", text)
    return re.sub(r"[A-Za-z]{3,}", lambda match: match.group().lower(), bare.replace("{", "").replace("}", ""))


def _compare_blocks(reference: str, answer: str) -> RuleResult:
    """Formula and words in turn: the words must be the same, and each formula between them.

    Math-Verify cuts both sides off at the first word, so it is not asked.
    """
    words_of = [[folded(words).rstrip("s") for words in TEXT.findall(side)] for side in (reference, answer)]
    pieces = [[piece.strip(" ,;.") for piece in TEXT.split(side)[::2]] for side in (reference, answer)]
    is_same = words_of[0] == words_of[1] and len(pieces[0]) == len(pieces[1])
    is_same = is_same and all(_same(*pair) for pair in zip(*pieces, strict=True))
    return RuleResult(is_same, "text_blocks")


def _compare_whole(reference: Prepared, answer: Prepared) -> RuleResult | None:
    """Compares parts that the later comparisons leave out: units, times of day, a second number, equations."""
    are_numbers = reference.number is not None and answer.number is not None
    if are_numbers and reference.unit and answer.unit and reference.unit != answer.unit:
        return RuleResult(False, "unit")
    times = clock(reference.whole), clock(answer.whole)
    if times[0] and times[1]:
        return RuleResult(same_clock(times[0], times[1]), "clock")
    if "mod" in answer.whole or "mod" in reference.whole:
        result = _compare_congruences(reference, answer)
        if result is not None:
            return result
    if is_empty_set(reference.whole) and is_empty_set(answer.whole):
        return RuleResult(True, "empty_set")
    if reference.number is not None and answer.number is None and COMPOUND.search(answer.whole):
        return RuleResult(False, "compound")
    if _is_number_and_tuple(reference, answer) or _is_number_and_tuple(answer, reference):
        return RuleResult(False, "parts")
    if reference.number is not None and FUNCTION.fullmatch(answer.whole):
        return RuleResult(False, "function")
    if "=" in reference.whole and "=" in answer.whole:
        is_same = same_equations(reference.whole, answer.whole)
        return None if is_same is None else RuleResult(is_same, "equation")
    return None


def _compare_congruences(reference: Prepared, answer: Prepared) -> RuleResult | None:
    """Residues with residues or with a number; a class of a named unknown is more than its residue."""
    gold, given = parse_congruence(reference.whole), parse_congruence(answer.whole)
    if gold and given:
        return RuleResult(same_congruences(gold, given), "congruence")
    if given and reference.number:
        return RuleResult(states_number(given, reference.number), "congruence")
    if gold and answer.number:
        return RuleResult(not gold.variable and states_number(gold, answer.number), "congruence")
    return None


def _is_number_and_tuple(one: Prepared, other: Prepared) -> bool:
    """Whether one is a number and the other a list of other digits: 23,000 is not (23, 0), and may be "23, 000"."""
    if one.number is None or other.number is not None or not LIST_MARK.search(other.normalized):
        return False
    several = parts(other.normalized)
    if several is None or len(several.items) < 2:
        return False
    return NOT_DIGIT.sub("", "".join(several.items)) != NOT_DIGIT.sub("", one.normalized)


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
        gold, given = (side.replace(" ", "").rstrip("s") for side in (reference.words, answer.words))
        return RuleResult(gold == given, "words")
    is_phrase = answer.words is not None and "\\text" in answer.normalized and " " in answer.words
    if is_phrase and (evaluate(reference.normalized) or parts(reference.normalized)):  # "no solution" for a value
        return RuleResult(False, "words")
    is_word = answer.words is not None and answer.number is None and answer.words not in MATHS_WORDS
    # "Assistant" would be a product of variables to Math-Verify.
    return RuleResult(False, "words") if is_word and is_constant(reference.normalized) else None


def _compare_parts(reference: str, answer: str) -> RuleResult | None:
    wrapped = SINGLETON.fullmatch(reference), SINGLETON.fullmatch(answer)
    if bool(wrapped[0]) != bool(wrapped[1]):  # the set of one point, and the point
        reference, answer = SINGLETON.sub(r"\1", reference), SINGLETON.sub(r"\1", answer)
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
    if is_unevaluated(right.normalized) and is_constant(left.normalized) and not is_unevaluated(left.normalized):
        return False
    verdict = same_expressions(left.normalized, right.normalized)
    may_fold = (reference != reference.lower() or answer != answer.lower()) and not _case_matters(reference)
    if (
        verdict is False
        and may_fold
        and same_expressions(left.normalized.lower(), right.normalized.lower()) is not False
    ):
        return None  # Math-Verify treats R and r as the same variable: where that could matter, leave it to Math-Verify
    return verdict


def _case_matters(text: str) -> bool:
    """Whether a letter stands in both cases: there m and M are two variables."""
    letters = set(re.sub(r"\\[A-Za-z]+", "", text))
    return any(letter.isupper() and letter.lower() in letters for letter in letters)


def is_placeholder(text: str) -> bool:
    """Whether an answer is an empty place: "\\square", "?", "___"."""
    return bool(PLACEHOLDER.fullmatch(text))


def is_unevaluated(text: str) -> bool:
    """Several trigonometric functions of numbers: most likely the problem repeated, which is equal but no answer."""
    return len(TRIGONOMETRIC.findall(text)) > 1 and is_constant(text)


def _scalar_and_several(several: Parts | None, single: str) -> bool | None:
    """False for one value against a tuple or matrix of several items; None for anything less sure."""
    if several is None or not several.is_ordered or several.brackets == "cup" or len(several.items) < 2:
        return None
    if several.brackets == "()" and len(several.items[-1]) == 3 and "".join(several.items).isdigit():  # "(1,234)"
        return None
    return None if evaluate(single) is None else False


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
