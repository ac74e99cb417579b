"""What a stated answer may mean: the end of a chain, the exact value before its decimal, no side condition."""

import re
from functools import lru_cache
from typing import NamedTuple

RELATION = re.compile(r"[<>,;!]|\\(?:le|ge|ne|equiv|in|begin|pm|or|and|text[a-z]*)(?![a-z])")
RELATION_SIGN = re.compile(r"[<>=≤≥≠∈]|\\(?:leq?|geq?|neq?|in|equiv|approx|text)(?![a-z])")
MAX_CHARS = 500
BOUND_SIGN = re.compile(r"[<>≤≥≠∈]|\\(?:leq?|geq?|neq?|in|equiv|approx|text)(?![a-z])")
UNIT_TEXT = re.compile(r"(?<=[\d})\s])\\(?:text|mathrm)\s*\{\s*(?!(?:or|and|if|when|is|not|for)\b)[A-Za-z/]+\s*\}")
CLAUSE = re.compile(r"[,;.]?\s*(?:\\q?quad|\\implies|\\Rightarrow|\\Longrightarrow|⇒|\\therefore)\s*")
APPROXIMATE = re.compile(
    r"\\approx(?:eq)?(?![a-z])|≈|\\simeq(?![a-z])|\\text\s*\{[\s,(]*(?:or\s+)?(?:approximately|about|approx\.?|roughly)[\s:]*\}"
)
CONDITION = re.compile(
    r"(?:[,;(\s]|\\q?quad|\\[,;: ])*(?:\\(?:text|mathrm|mbox)\s*\{[\s,(]*"
    r"(?:for|where|with|provided|whenever|assuming|such that)\b"
    r"|(?<=[\s,(])(?:for|where|provided|whenever|assuming|such that)\s)[^?]*$"
)
MEMBER = re.compile(
    r"(?:\s*+[,;(]\s*+|\s*+\\q?quad\s*+|\s{2,}+)++\(?\s*[A-Za-z](?:\s*,\s*[A-Za-z])*\s*(?:\\in(?![a-z])|∈)\s*"
    r"(?:\\mathbb\s*\{?\s*[A-Z]\s*\}?|[ℤℝℕℚ])[^,;=]*$"
)
RESTRICTION = re.compile(
    r"(?:\s*+,\s*+|\s*+\\q?quad\s*+|\s*+\\[,;:]\s*+|\s*+(?=\())++\(?\s*[A-Za-z]\s*(?:\\neq?(?![a-z])|≠|>|<|\\[gl]eq?(?![a-z])|[≤≥])[^,;=]*$"
)
PARAMETER = re.compile(
    r"([A-Za-z])\s*(?:\\in(?![a-z])|∈)\s*(?:\\mathbb\s*\{?\s*)?([ZN]|ℤ|ℕ)(?![A-Za-z])"
    r"|([A-Za-z])\s*(?:\\text\s*\{)?\s*is an[yd]?( )integer"
)
SEVERAL_CASES = re.compile(r"\b(?:otherwise|else|and|or)\b|\\\\")


class Family(NamedTuple):
    """Values for every whole number: "2\\pi n, n \\in \\mathbb{Z}"."""

    formula: str
    parameter: str
    domain: str
    """"Z" or "N"."""


@lru_cache(maxsize=4096)
def parse_family(text: str) -> Family | None:
    """A formula and the whole number that it declares, or None."""
    if len(text) > MAX_CHARS or ("in" not in text and "∈" not in text):
        return None
    formula = without_condition(text)
    declared = PARAMETER.search(text, len(formula)) if formula != text else None
    if declared is None or any(formula.count(a) != formula.count(b) for a, b in ("{}", "()", "[]")):
        return None
    domain = (declared[2] or "Z").translate({ord("ℤ"): "Z", ord("ℕ"): "N"})
    return Family(formula, declared[1] or declared[3], domain)


def renamed(family: Family, parameter: str) -> str:
    """The formula with another letter for its parameter, unless that letter has a meaning in it already."""
    letter = r"(?<![A-Za-z\\]){}(?![A-Za-z])"
    if re.search(letter.format(parameter), family.formula):
        return family.formula
    return re.sub(letter.format(family.parameter), parameter, family.formula)


def is_relation(reference: str) -> bool:
    """Whether a reference is an equation, an inequality or a set, or holds words."""
    return bool(RELATION_SIGN.search(reference))


def may_be_bound(reference: str) -> bool:
    """Whether a reference is an inequality, a set or holds words, so that its own answer may look like a hedge."""
    return bool(BOUND_SIGN.search(reference))


def readings(text: str, reference: str) -> list[str]:
    """What a stated answer may mean, the likeliest first; at least one.

    "30.33\\pi \\approx 95.3" states the decimal and the exact value, "a = b = c" states c.
    """
    if "=" in reference or APPROXIMATE.search(reference):
        return [text]
    text = without_condition(text) if not is_relation(reference) else text
    clause = _last_clause(text) if "," not in reference else text
    sides = APPROXIMATE.split(clause)
    if len(sides) > 1 and sides[-1].strip():
        return [_last_side(sides[-1].strip()), _last_side(sides[-2].strip()) or clause]
    return [_last_side(clause)]


def without_condition(text: str) -> str:
    """An answer without the condition under which it holds ("for all n", "k \\in Z"), if it has a single one."""
    if len(text) > MAX_CHARS:  # these patterns try every beginning of a run of spaces
        return text
    for pattern in (CONDITION, MEMBER, RESTRICTION):
        match = pattern.search(text)
        if match and match.start() and not SEVERAL_CASES.search(match.group()):
            return text[: match.start()].rstrip(" ,;(")
    return text


def _last_clause(text: str) -> str:
    """The last of several equations in a row ("a = 2, \\quad b = 3a = 6")."""
    clauses = CLAUSE.split(text)
    return clauses[-1] if len(clauses) > 1 and all("=" in clause for clause in clauses) else text


def _last_side(value: str) -> str:
    """The value after the last "=" of a chain; so does Math-Verify."""
    last = value.rpartition("=")[2].strip()
    is_chain = "=" in value and not RELATION.search(UNIT_TEXT.sub("", value)) and last.count("{") == last.count("}")
    return last or value if is_chain else value
