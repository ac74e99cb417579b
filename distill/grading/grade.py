"""`grade`: completion and reference in, verdict out. A pure function in two halves.

`decide` is cheap and bounded, so the caller may run it inline; what it cannot settle comes back as a `Question`, which
`solve` answers with Math-Verify or a reasoning-gym scorer and which belongs in a process that can be killed.
"""

import re
from typing import NamedTuple

from distill.core.schema import AnswerKind, Verdict
from distill.grading import math_verify_compare as symbolic
from distill.grading import reasoning_gym_scorer as gym
from distill.grading.compare import (
    Prepared,
    Settled,
    compare,
    compare_text,
    marked_number,
    only_number,
    prepare,
    prepare_reference,
    reference_text,
)
from distill.grading.extract import (
    MAX_ANSWER_CHARS,
    TAIL_CHARS,
    Found,
    Missing,
    answer_part,
    find_box,
    find_concluded,
    find_formulas,
    find_marked,
    find_stated,
    find_tag,
    last_line,
    only_statement,
)
from distill.grading.numbers import DECIMAL_COMMA, Number, numbers_in, same_number
from distill.grading.types import Grade, GradeRequest

FAULTS = (
    ArithmeticError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    RecursionError,
    NotImplementedError,
    MemoryError,
    AssertionError,
    ImportError,
)
"""What a parser or scorer raises on bad input. Anything else ends the worker, which is an ERROR too."""
CHOICE = re.compile(r"(?<![A-Za-z\\])(?:\(([A-Z])\)|([B-HJ-Z])(?![A-Za-z'’])|([AI])(?![A-Za-z'’])(?!\s+[a-z]))")
"""A single letter; a bare "A" or "I" before a word is an article or a pronoun."""
NAMED_CHOICE = re.compile(r"(?i:\b(?:option|choice))\s*\W{0,3}([A-Z])(?![A-Za-z'’])|\(([a-j])\)")
LETTER = re.compile(r"(?<![A-Za-z\\])[A-H](?![A-Za-z'’])")
LEADING_CHOICE = re.compile(r"\W{0,4}([A-J])\W{0,2}[).:]")
NO_CHOICE = re.compile(r"(?i:\b(?:not|neither)\s+(?:option\s+)?)\W{0,2}[A-J](?![A-Za-z'’])")
TWO_CHOICES = re.compile(r"\W{0,3}[A-Z]\W{0,3}\s*(?:or|and|/|,|&)\s*\W{0,3}[A-Z](?![A-Za-z'’])")
RELATION = re.compile(r"[<>,;!]|\\(?:le|ge|ne|approx|equiv|in|begin|pm|or|and|text[a-z]*)(?![a-z])")
DETAIL_CHARS = 500
PROSE_CHARS = 300
"""Math-Verify finds an answer in a sentence better than we do, but tries every formula of a page, at seconds each."""
MAX_REFERENCE_CHARS = 20_000


class Question(NamedTuple):
    """What `decide` leaves open: plain strings of bounded length, fit for a pipe."""

    kind: str
    reference: str
    answer: str
    where: str
    """Where the answer was found; "prose" asks Math-Verify to find it."""
    entry: str = ""


def _error(rule: str, detail: str, extracted: str = "") -> Grade:
    return Grade(Verdict.ERROR, extracted[:MAX_ANSWER_CHARS], rule, detail[:DETAIL_CHARS])


def _no_answer(rule: str) -> Grade:
    return Grade(Verdict.NO_ANSWER, "", rule, "")


def _graded(found: Found, settled: Settled) -> Grade:
    verdict = Verdict.CORRECT if settled.is_equal else Verdict.INCORRECT
    return Grade(verdict, found.text, f"{found.where}:{settled.how}", "")


def decide(request: GradeRequest) -> Grade | Question:
    """The verdict where it takes no algebra and no scorer, else what is left to find out. It runs in the caller, so it
    never raises on what a row holds."""
    try:
        return _decide(request)
    except FAULTS as error:
        return _error("fault", f"{type(error).__name__}: {error}")


def _decide(request: GradeRequest) -> Grade | Question:
    kind = request.answer_kind
    if kind not in set(AnswerKind):
        return _error("unknown_kind", f"answer_kind is {kind!r}; known kinds: {', '.join(AnswerKind)}")
    if kind != AnswerKind.REASONING_GYM and not request.reference.strip():
        return _error("no_reference", "the reference answer is empty")
    if len(request.reference) > MAX_REFERENCE_CHARS:
        return _error("reference_too_long", f"{len(request.reference)} characters")
    part = answer_part(request.completion, request.reasoning_end, must_reason=request.must_reason)
    if part is None:
        return _no_answer("reasoning_not_closed")
    if not part.strip():
        return _no_answer("empty")
    found = _find(part, kind, is_cut=request.finish_reason == "length")
    if isinstance(found, Missing):
        return _no_answer(found.rule)
    return _judge(request, kind, found)


def _find(part: str, kind: str, *, is_cut: bool) -> Found | Missing:
    """The final answer; in a completion cut by the token limit only one that its writer had closed."""
    found = find_tag(part) if kind == AnswerKind.REASONING_GYM else None
    found = found or find_concluded(part) or find_box(part) or find_marked(part)
    if isinstance(found, Missing):
        return found
    if is_cut:
        is_closed = found is not None and found.is_closed
        return found._replace(where=f"cut_{found.where}") if found and is_closed else Missing("cut_before_answer")
    return found or _unmarked(part, kind)


def _unmarked(part: str, kind: str) -> Found | Missing:
    """What counts as the answer when nothing marks one."""
    if kind == AnswerKind.NUMBER:
        tail = part[-TAIL_CHARS:]
        return Found(tail, "last_number", is_closed=False) if numbers_in(tail) else Missing("no_number")
    if kind == AnswerKind.MATH:
        if len(part) <= PROSE_CHARS:
            return Found(part.strip(), "prose", is_closed=False)
        return find_stated(part)
    if kind == AnswerKind.REASONING_GYM:
        return Found(part.strip(), "whole", is_closed=False) if len(part) <= TAIL_CHARS else Missing("answer_too_long")
    return Found(last_line(part), "last_line", is_closed=False)


def _judge(request: GradeRequest, kind: str, found: Found) -> Grade | Question:
    if kind == AnswerKind.CHOICE:
        return _choice(request.reference, found)
    if kind == AnswerKind.TEXT:
        return _graded(found, compare_text(reference_text(request.reference), found.text))
    if kind == AnswerKind.REASONING_GYM:
        return _gym(request.entry, found)
    reference = prepare_reference(request.reference)
    if kind == AnswerKind.NUMBER and reference.number is not None:
        return _number(request, reference, found)
    return _math(request, reference, found)


def _letters(text: str) -> list[str]:
    """The choices that a text names, in order."""
    if len(text) == 1:
        return [text.upper()]
    leading = LEADING_CHOICE.match(text)
    if leading:
        return [leading.group(1)]
    pattern = NAMED_CHOICE if NAMED_CHOICE.search(text) else CHOICE
    return ["".join(filter(None, match.groups())).upper() for match in pattern.finditer(text)]


def _choice(reference: str, found: Found) -> Grade:
    gold = _letters(reference_text(reference).strip().upper())
    if len(gold) != 1:
        return _error("gold_unparseable", f"no single letter in the reference {reference!r}", found.text)
    text = found.text.strip()
    letters = _letters(text)
    if found.where.endswith("marker"):
        letters = letters[:1]
    is_vague = found.where == "last_line" and not LEADING_CHOICE.match(text)
    is_open = TWO_CHOICES.match(text) or (is_vague and len({*letters, *LETTER.findall(text)}) > 1)
    if is_open or NO_CHOICE.search(text) or len(set(letters)) != 1:
        return _no_answer(f"{found.where}:no_single_letter")
    return _graded(found._replace(text=letters[0]), Settled(letters[0] == gold[0], "choice"))


def _gym(entry: str, found: Found) -> Grade | Question:
    try:
        gym.parse_entry(entry)
    except ValueError as error:
        return _error("bad_entry", str(error), found.text)
    return Question(AnswerKind.REASONING_GYM, "", found.text, found.where, entry)


def _shown(number: Number) -> str:
    value = str(number.value) if number.value.denominator == 1 or not number.is_decimal else str(float(number.value))
    return f"{value}%" if number.is_percent else value


def _number(request: GradeRequest, gold: Prepared, found: Found) -> Grade | Question:
    """A number where one is expected, out of a box, a marked line or prose."""
    answer = prepare(found.text) if found.where.endswith("box") else None
    number: Number | None
    if answer is not None:
        number = answer.number or only_number(found.text)
    elif found.where.endswith("marker"):
        number = marked_number(found.text)
    else:
        number = numbers_in(found.text)[-1]
    if number is None and answer is None:
        return _no_answer(f"{found.where}:no_number")
    if number is None or gold.number is None:
        return _math(request, gold, found)
    shown = found._replace(text=found.text if answer else _shown(number))
    return _graded(shown, Settled(same_number(gold.number, number), "numeric"))


def _math(request: GradeRequest, gold: Prepared, found: Found) -> Grade | Question:
    if found.where == "prose":
        stated = only_statement(found.text)
        settled = stated and compare(gold, prepare(_last_side(stated, request.reference)))
        if stated and settled and not _is_comma_decimal(request.reference, stated):
            return _graded(Found(stated, "formula", is_closed=False), settled)
        return Question(AnswerKind.MATH, request.reference, found.text, "prose")
    said = found.text
    if not found.where.endswith("box"):
        found = found._replace(text=_stated_value(found.text, request.reference))
    settled = compare(gold, prepare(_last_side(found.text, request.reference)))
    if settled is not None and not _is_comma_decimal(request.reference, found.text):
        return _graded(found, settled)
    if found.where.endswith("marker"):
        # A marked line may be a sentence ("the answer is then x = 5, as wanted"): Math-Verify finds the answer in it.
        return Question(AnswerKind.MATH, request.reference, f"The answer is {said}", f"{found.where}_prose")
    return Question(AnswerKind.MATH, request.reference, found.text, found.where)


def _is_comma_decimal(reference: str, answer: str) -> bool:
    """Whether "3,75" may mean 3.75, as the answer "3.75" suggests: Math-Verify tries both readings."""
    return "," not in answer and bool(DECIMAL_COMMA.fullmatch(reference.strip()))


def _stated_value(text: str, reference: str) -> str:
    """What a formula or marked line states: its one formula, and what follows its last "=" unless "=" is asked for."""
    stated = find_stated(text) if find_formulas(text) else None  # "the largest $n$ is 34" states 34, not n
    value = stated.text if isinstance(stated, Found) else text
    return _last_side(value, reference)


def _last_side(value: str, reference: str) -> str:
    """The value after the last "=" of a chain, unless relations are asked for: Math-Verify's reading too."""
    is_chain = "=" in value and "=" not in reference and not RELATION.search(value)
    return value.rpartition("=")[2].strip() or value if is_chain else value


def solve(question: Question) -> Grade:
    """The verdict on what `decide` left open. Unbounded in time and memory: run it where it can be killed."""
    try:
        return _solve_gym(question) if question.kind == AnswerKind.REASONING_GYM else _solve_math(question)
    except MemoryError:
        return _error("memory", "out of memory", question.answer)
    except FAULTS as error:
        return _error("fault", f"{type(error).__name__}: {error}", question.answer)


def _solve_gym(question: Question) -> Grade:
    score = gym.score(question.entry, question.answer)
    verdict = Verdict.CORRECT if score >= 1.0 else Verdict.INCORRECT
    return Grade(verdict, question.answer, f"{question.where}:reasoning_gym", f"score {score:.3g}")


def _solve_math(question: Question) -> Grade:
    reference = reference_text(question.reference)
    is_prose = question.where.endswith("prose")
    is_equal, found = symbolic.compare(reference, question.answer, boxed=not is_prose)
    extracted = found[:MAX_ANSWER_CHARS] if is_prose else question.answer
    if is_equal:
        return Grade(Verdict.CORRECT, extracted, f"{question.where}:math_verify", "")
    if not symbolic.is_parseable(reference) and prepare(reference).words is None:
        return _error("gold_unparseable", f"Math-Verify cannot read the reference {reference!r}", extracted)
    if is_prose and not found:
        return _no_answer("no_mathematics")
    return Grade(Verdict.INCORRECT, extracted, f"{question.where}:math_verify", "")


def grade(request: GradeRequest) -> Grade:
    """Grades one completion, both halves in this process."""
    decided = decide(request)
    return solve(decided) if isinstance(decided, Question) else decided
