"""The answer of a text that marks none: the formula or expression in which its last sentence ends."""

import re
from typing import NamedTuple

from distill.grading.normalize import NAMES, TEXT
from distill.grading.number_phrases import with_minus_signs
from distill.grading.unicode_math import as_latex
from distill.grading.units import TRAILING_UNIT

MAX_LINE_CHARS = 600
FORMULA = re.compile(
    r"\$\$(.{1,500}?)\$\$|\$([^$\n]{1,500})\$|\\\((.{1,500}?)\\\)|\\\[(.{1,500}?)\\\]|\*\*([^*\nA-Za-z]{0,80}\d[^*\nA-Za-z]{0,80})\*\*"
)
BETWEEN = re.compile(r"\s*(?:[,;]\s*)?(?:and|or)?\s*", re.IGNORECASE)
"""What stands between the formulas of one list."""
TOKEN = re.compile(
    rf"\\(?:text|mathrm)\s*\{{[^{{}}]*\}}|\\(?:begin|end)\s*\{{[a-z]+\}}|\\[A-Za-z]+|\\.|(?!{NAMES})[A-Za-z]{{2,}}\d\w*"
    r"|[^\W\d_]+(?:'[^\W\d_]+|-[^\W\d_]{2,})*|\d+(?:[.,]\d+)*|\s+|.",
    re.DOTALL,
)
MATHS_NAME = re.compile(rf"(?:{NAMES}|sqrt|pi|and|or)")
MATHS_MARKS = frozenset("&+-*/^_=<>|()[]{}%!:,;.'&°√ ")
CLOSING = " \t*_`.!。"
LEADING = re.compile(r"^(?:[\s,;:=*>]|\.(?!\d)|(?:and|or)\b|[aAI](?=\s+[\w\\]))+")
ARTICLE = re.compile(r"^[aAI]\s+(?=[\d\\A-Za-z(])")
NEGATION = re.compile(
    r"(?:\b(?:not|cannot|never|neither|nor|no longer|isn't|can't|won't|aren't|wasn't|doesn't"
    r"|no es|n'est pas|ist nicht|non è|não é|не)\b|不是)"
    r"(?:\s+(?:be|equals?|exactly|to|the|an?|value|number|option|possibly|necessarily|just)){0,4}\W*$",
    re.IGNORECASE,
)
BOUND = re.compile(
    r"\b(?:(?:less|greater|more|fewer|smaller|larger|bigger|higher|lower) than(?: or equal to)?|at (?:least|most)"
    r"|under|over|above|below|up to|between|either|(?:may|might|could)(?: also)? be|maybe|perhaps|possibly)\W*$",
    re.IGNORECASE,
)
HEDGED_VALUE = re.compile(
    r"[<>≤≥](?!<)|\\(?:geq?|leq?|gt|lt)(?![a-z])|也许|可能|至少|最多|不是|不到|超过"
    r"|(?:not|no (?:more|less|fewer)|never|cannot|neither"
    r"|less than|greater than|more than|fewer than|at least|at most|under|over|above|below"
    r"|up to|between|either|maybe|perhaps|possibly|(?:may|might|could) be"
    r"|vielleicht|peut-être|quizás?|tal vez|talvez|forse|возможно"
    r"|nicht|mindestens|höchstens|no es|al menos|como (?:máximo|mucho)|au (?:moins|plus)|almeno|non è|pelo menos|не)\b",
    re.IGNORECASE,
)
UNSURE = (
    r"\b(?:not|n't) (?:\w+ )?(?:sure|certain|confident)\b|\b(?:unsure|uncertain)\b|nicht sicher|pas sûr|no estoy segur"
    r"|non sono sicur|não tenho certeza|не уверен|不确定|以上|以下"
)
UNKNOWN = (
    r"\b(?:cannot|can't|can not|could not|couldn't|impossible to) (?:be )?(?:uniquely )?"
    r"(?:determin|found\b|find\b|solv|comput|calculat|know|answer)"
    r"|\binsufficient\b|\bnot enough (?:information|data)\b|\b(?:is|are|remains?) (?:unknown|undetermined)\b"
    r"|\bnone of (?:the|these)\b"
)
REJECTED = (
    r"(?:is|are|was|would be) (?:(?:impossible|wrong|incorrect|invalid|false|unlikely)\b"
    r"|too (?:small|large|big|low|high|few|many|little|much)\b)"
)
HEDGED_AFTER = re.compile(
    r"(?<!more )\bor (?:more|fewer|less|greater|larger|bigger|smaller|higher|lower|above|below|over|under)\b"
    r"(?! \w+ly\b)"
    r"|\d\W{0,3}\s(?:[a-z]+ )?(?:and (?:up|above|over|below|under|beyond)|at (?:the )?(?:very )?(?:most|least))\W*$"
    rf"|\?\W*$|\d\W{{0,3}}\+\W*$|^\D*\d[\d.,]*\W{{0,3}}\s{REJECTED}|{UNSURE}|{UNKNOWN}",
    re.IGNORECASE,
)
"""What takes a value back, or makes a bound of it, behind it."""
_LAST_VALUE = r"\W+(?:[a-z]+ ){0,2}\$?\d[\d.,]*(?: [a-z]+){0,3}\W*$"
HEDGED_LINE = re.compile(
    rf"\b(?:may|might|could|not|cannot|can't|never) (?:also )?be{_LAST_VALUE}"
    rf"|\d\W{{0,3}}\s(?:{REJECTED}|is not (?:the|an?|correct|right|possible|equal|valid|it)\b)\D*$|{UNSURE}|{UNKNOWN}",
    re.IGNORECASE,
)
"""What denies or doubts the last number of an unmarked text."""
RUNAWAY = re.compile(r"\d{101}|[^\s]{400}")
"""A model in a loop, "0000..." until the limit."""
COMMAND = re.compile(r"\\[A-Za-z]+")
CONSTANT = re.compile(r"-?\\(?:pi|infty|emptyset|varnothing|mathbb\{[A-Z]\})")
CHANGED = re.compile(r"\bnot (?:only|just|surprisingly)\b", re.IGNORECASE)


class Ending(NamedTuple):
    """The expression that ends a text."""

    text: str
    is_hedged: bool
    """The words before it say that it is not the value, or only a bound of it."""


DENIAL = re.compile(r"\b(?:is|are|was|be|does|do)(?:\s+not|n't)\b|\b(?:cannot|can't|never)\b", re.IGNORECASE)


def is_hedged_value(value: str) -> bool:
    """Whether a stated value is negated, a bound or doubted: "not 8", "less than 8", "it is not 8", "8 or more"."""
    if value.isdecimal():
        return False
    bare = value.removeprefix("\\text{").lstrip(" \t*_$\\(")
    if HEDGED_VALUE.match(bare) or DENIAL.search(bare):
        return True
    spoken = " ".join(TEXT.sub(r" \1 ", bare).split()) if "\\text" in bare else bare
    return bool(HEDGED_AFTER.search(spoken))


def is_hedged_line(line: str) -> bool:
    """Whether the line that ends an unmarked text doubts its number or denies it."""
    return bool(HEDGED_LINE.search(line[-MAX_LINE_CHARS:]))


def _is_hedged(before: str) -> bool:
    sentence = before[-80:]
    return not CHANGED.search(sentence) and bool(NEGATION.search(sentence) or BOUND.search(sentence))


def ending(text: str) -> Ending | None:
    """The formula or the plain expression at the end of the last line; None where words end it.

    A list ("$2$, $3$ and $8$") is one expression, a unit behind it belongs to it.
    """
    line = with_minus_signs(text[-MAX_LINE_CHARS:].rstrip().rpartition("\n")[2])
    if "$" in line or "\\" in line or "**" in line:
        found = _formulas(line)
        if found is not None:
            return found
    line = as_latex(line).rstrip(CLOSING).lstrip(" \t*_`>")
    return _plain(line) if line else None


def _formulas(line: str) -> Ending | None:
    """The run of formulas that ends a line, joined as a list."""
    matches = [*FORMULA.finditer(line)]
    if not matches or line[matches[-1].end() :].strip(CLOSING):
        return None
    run = [matches.pop()]
    while matches and BETWEEN.fullmatch(line, matches[-1].end(), run[0].start()) and matches[-1].end() < run[0].start():
        run.insert(0, matches.pop())
    texts = [next(filter(None, match.groups())).strip().rstrip(",;.") for match in run]
    return Ending(", ".join(texts), _is_hedged(line[: run[0].start()]))


def _is_maths(token: str) -> bool:
    if token[0].isalpha():
        return (len(token) == 1 and token.isascii()) or bool(MATHS_NAME.fullmatch(token))
    if token.startswith(("\\text", "\\mathrm")):
        return False
    return token[0] == "\\" or token[0].isdigit() or token.isspace() or token in MATHS_MARKS


def _plain(line: str) -> Ending | None:
    """The longest run of mathematics without words that ends a line."""
    unit = TRAILING_UNIT.search(line)
    body = line[: unit.start()] if unit else line
    start = position = 0
    previous = ""
    for match in TOKEN.finditer(body):
        token = match.group()
        ends_sentence = previous in (".", "?", "!") and token.isspace() and position > 0
        if ends_sentence or not _is_maths(token):
            start = match.end()
        previous, position = token, match.end()
    run = body[start:]
    lead = LEADING.match(run)
    run = ARTICLE.sub("", run[lead.end() :] if lead else run).strip(" ,;:")
    if not _is_expression(run, is_whole=not body[:start].strip()):
        return None
    return Ending(f"{run} {unit.group().strip()}" if unit else run, _is_hedged(body[:start]))


def _is_expression(run: str, *, is_whole: bool) -> bool:
    """Whether a run has balanced brackets, ends in a value and is more than a name."""
    openings = sum(run.count(bracket) for bracket in "([{")
    if not run or run[-1] in "+-*/^=<>_" or openings != sum(run.count(bracket) for bracket in ")]}"):
        return False
    if RUNAWAY.search(run):
        return False
    bare = COMMAND.sub("", run)
    has_operator = any(mark in run[1:] for mark in "+-*/^=<>") or "\\" in run
    is_named = any(map(str.isalpha, bare)) and (has_operator or is_whole)
    return any(map(str.isdigit, bare)) or is_named or bool(CONSTANT.fullmatch(run))
