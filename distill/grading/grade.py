"""`grade`: completion and reference in, verdict out. A pure function in two halves.

`check_rules` is cheap and bounded in time, so the caller may run it inline. What needs more than rules comes back as a
`SymbolicTask`, which `compare_symbolic` grades with Math-Verify or a reasoning-gym scorer: run that in a process that
can be killed. So do the checkers of instructions.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import NamedTuple

from distill.core.languages import COMMA_LANGUAGES
from distill.core.schema import WITHOUT_REFERENCE, AnswerKind, Verdict
from distill.grading import instructions, math_verify_compare, reasoning_gym_scorer
from distill.grading.choices import chosen_letter, is_label_of_first
from distill.grading.compare import (
    Prepared,
    RuleResult,
    compare,
    compare_text,
    is_restated,
    prepare,
    ungrouped,
)
from distill.grading.decimal_comma import reference_with_point, with_points
from distill.grading.expression import evaluate
from distill.grading.extract import (
    MAX_ANSWER_CHARS,
    MAX_TAG_CHARS,
    TAIL_CHARS,
    Found,
    Missing,
    answer_part,
    find_box,
    find_concluded,
    find_formulas,
    find_marked,
    find_marked_block,
    find_stated,
    find_tag,
    find_tagged,
    first_sentence,
    last_line,
    only_statement,
    without_points,
)
from distill.grading.normalize import readable, with_opaque_symbols
from distill.grading.number_phrases import last_number, marked_number, number_in_words, only_number
from distill.grading.numbers import DECIMAL_COMMA, Number, numbers_in, parse_text_number, same_number
from distill.grading.prose import ending, is_hedged_line, is_hedged_value
from distill.grading.readings import Family, may_be_bound, parse_family, readings, renamed
from distill.grading.real_sets import ends_in_no_solution, is_empty_set
from distill.grading.references import prepare_reference, reference_text
from distill.grading.refusals import find_refusal
from distill.grading.types import Grade, GradeRequest
from distill.grading.unicode_math import prose_characters

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
"""What parsers and scorers raise on bad input. Any other exception ends the worker, which is an ERROR too."""
WORD_ENDING = re.compile(r"\b(?:is|are|was|were|be)\b:?\s+")
KINDS = frozenset(AnswerKind)
DETAIL_CHARS = 500
PROSE_CHARS = 300
"""Longest text without a marked answer that Math-Verify searches. It finds answers in prose better than our rules, but
it tries every formula, which takes seconds each on a page of them."""
MAX_REFERENCE_CHARS = 20_000


class SymbolicTask(NamedTuple):
    """A comparison that `check_rules` left open. Strings of bounded length only, so that it fits one message."""

    kind: str
    """Answer kind: `math`, `reasoning_gym` for its scorers, or `instructions` for their checkers."""
    reference: str
    answer: str
    where: str
    """Where the answer was found; ending in "prose": Math-Verify has to find it in the text."""
    entry: str = ""
    """JSON of the reasoning-gym task and entry, or of the instructions, else empty."""


def _error(rule: str, detail: str, extracted: str = "") -> Grade:
    return Grade(Verdict.ERROR, extracted[:MAX_ANSWER_CHARS], rule, detail[:DETAIL_CHARS])


def _no_answer(rule: str, detail: str = "") -> Grade:
    return Grade(Verdict.NO_ANSWER, "", rule, detail)


def _graded(found: Found, result: RuleResult) -> Grade:
    verdict = Verdict.CORRECT if result.is_equal else Verdict.INCORRECT
    return Grade(verdict, found.text, f"{found.where}:{result.how}", "")


def check_rules(request: GradeRequest) -> Grade | SymbolicTask:
    """The grade where rules suffice, else the comparison that is left. Runs in the caller, so no row makes it raise."""
    try:
        return _check_rules(request)
    except FAULTS as error:
        return _error("fault", f"{type(error).__name__}: {error}")


def _check_rules(request: GradeRequest) -> Grade | SymbolicTask:
    kind = request.answer_kind
    if kind not in KINDS:
        return _error("unknown_kind", f"answer_kind is {kind!r}; known kinds: {', '.join(AnswerKind)}")
    if kind not in WITHOUT_REFERENCE and not request.reference.strip():
        return _error("no_reference", "the reference answer is empty")
    if len(request.reference) > MAX_REFERENCE_CHARS:
        return _error("reference_too_long", f"{len(request.reference)} characters")
    part = answer_part(request.completion, request.reasoning_end, must_reason=request.must_reason)
    fault = "reasoning_not_closed" if part is None else "" if part.strip() else "empty"
    if kind == AnswerKind.INSTRUCTIONS:
        return _instructions_task(request.entry, part or "", fault)
    if part is None or fault:
        return _no_answer(fault)
    if kind == AnswerKind.REFUSAL:
        return _check_refusal(part)
    found = _find(part, kind, is_cut=request.finish_reason == "length")
    if isinstance(found, Missing):
        return _no_answer(found.rule)
    return _compare_as_written(request, kind, found)


def _check_refusal(part: str) -> Grade:
    words = find_refusal(part)
    return Grade(Verdict.INCORRECT if words else Verdict.CORRECT, words, "opening:refusal", "")


def _instructions_task(entry: str, part: str, fault: str) -> Grade | SymbolicTask:
    """The whole answer part, also of a completion that the token limit cut: what is there follows or does not.

    `fault`: why there is no answer, or empty.
    """
    try:
        asked = instructions.parse_instructions(entry)
    except ValueError as error:
        return _error("bad_entry", str(error))
    if fault or len(part) > MAX_TAG_CHARS:
        return _follows_none(asked, fault or "answer_too_long")
    return SymbolicTask(AnswerKind.INSTRUCTIONS, "", part, "whole", entry)


def _follows_none(asked: Sequence[instructions.Instruction], rule: str) -> Grade:
    """No answer, which follows no instruction under either reading: the prompt counts in both, as one not followed."""
    followed = [instructions.Followed(one.name, instructions.NOT) for one in asked]
    return _no_answer(rule, instructions.in_words(followed))


def _find(part: str, kind: str, *, is_cut: bool) -> Found | Missing:
    """The final answer; in a completion cut by the token limit only an answer that ends before the cut."""
    found = find_tag(part) if kind == AnswerKind.REASONING_GYM else find_tagged(part)
    found = found or find_concluded(part) or find_box(part)
    if found is None and kind != AnswerKind.REASONING_GYM and not part.isascii():
        part = prose_characters(part[-2 * TAIL_CHARS :])
    found = found or (find_marked(part) if kind != AnswerKind.REASONING_GYM else find_marked_block(part))
    if kind == AnswerKind.CHOICE and isinstance(found, Found) and is_label_of_first(found, last_line(part)):
        found = None
    if isinstance(found, Missing):
        return found
    if is_cut:
        is_closed = found is not None and found.is_closed
        return found._replace(where=f"cut_{found.where}") if found and is_closed else Missing("cut_before_answer")
    return found or _find_unmarked(part, kind)


def _find_unmarked(part: str, kind: str) -> Found | Missing:
    """The answer of a text that marks none."""
    if kind in (AnswerKind.NUMBER, AnswerKind.MATH):
        end = ending(part)
        if end is not None:
            return Missing("ending:hedged") if end.is_hedged else Found(end.text, "ending", is_closed=False)
    if kind == AnswerKind.NUMBER:
        tail = part[-TAIL_CHARS:]
        has_number = bool(numbers_in(tail)) or number_in_words(last_line(part)) is not None
        return Found(tail, "last_number", is_closed=False) if has_number else Missing("no_number")
    if kind == AnswerKind.MATH:
        if len(part) <= PROSE_CHARS:
            return Found(part.strip(), "prose", is_closed=False)
        return find_stated(part)
    if kind == AnswerKind.REASONING_GYM:
        return (
            Found(part.strip(), "whole", is_closed=False) if len(part) <= MAX_TAG_CHARS else Missing("answer_too_long")
        )
    return Found(last_line(part), "last_line", is_closed=False)


def _compare_as_written(request: GradeRequest, kind: str, found: Found) -> Grade | SymbolicTask:
    """Compares; in a language that writes a decimal comma the answer is right in its writing, or else with points.

    Where only its marker is in such a language, it is right as it stands, or else without points between thousands.
    """
    if kind not in (AnswerKind.NUMBER, AnswerKind.MATH):
        return _compare(request, kind, found)
    if request.language in COMMA_LANGUAGES:
        request = replace(request, reference=reference_with_point(request.reference))
        return _compare_either(request, kind, found._replace(text=with_points(found.text)), found)
    return _compare_either(request, kind, found, without_points(found) if found.may_be_grouped else found)


def _compare_either(request: GradeRequest, kind: str, first: Found, second: Found) -> Grade | SymbolicTask:
    """The grade under the first reading, unless only the second is right."""
    graded = _compare(request, kind, first)
    if first.text == second.text or _is_correct(graded):
        return graded
    other = _compare(request, kind, second)
    return other if _is_correct(other) else graded


def _is_correct(graded: Grade | SymbolicTask) -> bool:
    return isinstance(graded, Grade) and graded.verdict == Verdict.CORRECT


def _compare(request: GradeRequest, kind: str, found: Found) -> Grade | SymbolicTask:
    if found.where.endswith("marker") and kind not in (AnswerKind.TEXT, AnswerKind.REASONING_GYM):
        found = found._replace(text=first_sentence(found.text))
    if kind == AnswerKind.CHOICE:
        return _compare_choice(request.reference, found)
    if kind == AnswerKind.TEXT:
        return _graded(found, compare_text(reference_text(request.reference), found.text))
    if kind == AnswerKind.REASONING_GYM:
        return _reasoning_gym_task(request.entry, found)
    family = parse_family(request.reference)
    if family is not None:
        return _compare_family(request, kind, family, found)
    return _compare_value(request, kind, found)


def _compare_family(request: GradeRequest, kind: str, family: Family, found: Found) -> Grade | SymbolicTask:
    """Compares with values for every whole number, whatever the answer calls that number or if it does not say so."""
    given = parse_family(found.text)
    if given is not None and given.domain != family.domain:
        return _graded(found, RuleResult(False, "domain"))
    found = found if given is None else found._replace(text=renamed(given, family.parameter))
    return _compare_value(replace(request, reference=family.formula), kind, found)


def _compare_value(request: GradeRequest, kind: str, found: Found) -> Grade | SymbolicTask:
    reference = prepare_reference(request.reference)
    is_statement = found.where not in ("prose", "last_number")
    if is_statement and is_hedged_value(found.text) and reference.words is None and not may_be_bound(request.reference):
        is_stated = found.where.endswith(("box", "tag"))
        return _graded(found, RuleResult(False, "hedged")) if is_stated else _no_answer(f"{found.where}:hedged")
    if not is_statement and reference.words is None and is_hedged_line(last_line(found.text)):
        return _no_answer(f"{found.where}:hedged")
    if kind == AnswerKind.NUMBER and reference.number is not None:
        return _compare_number(request, reference, found)
    if kind == AnswerKind.NUMBER and not _is_value(reference):
        return _error("gold_unparseable", f"no number in the reference {request.reference!r}", found.text)
    return _compare_math(request, reference, found)


def _is_value(reference: Prepared) -> bool:
    """Whether a reference that is no plain number may still have a value: it evaluates, or has a digit."""
    return any(map(str.isdigit, reference.normalized)) or evaluate(reference.normalized) is not None


def _compare_choice(reference: str, found: Found) -> Grade:
    gold = chosen_letter(Found(reference_text(reference), "box", is_closed=True))
    if not gold:
        return _error("gold_unparseable", f"no single letter in the reference {reference!r}", found.text)
    letter = chosen_letter(found)
    if not letter:
        return _no_answer(f"{found.where}:no_single_letter")
    return _graded(found._replace(text=letter), RuleResult(letter == gold, "choice"))


def _reasoning_gym_task(entry: str, found: Found) -> Grade | SymbolicTask:
    try:
        reasoning_gym_scorer.parse_entry(entry)
    except ValueError as error:
        return _error("bad_entry", str(error), found.text)
    return SymbolicTask(AnswerKind.REASONING_GYM, "", found.text, found.where, entry)


def _format_number(number: Number) -> str:
    value = str(number.value) if number.value.denominator == 1 or not number.is_decimal else str(float(number.value))
    return f"{value}%" if number.is_percent else value


def _is_delimited(found: Found) -> bool:
    """Whether the text is the answer and nothing else, as far as the completion says."""
    return found.where.endswith(("box", "tag", "ending"))


def _compare_number(request: GradeRequest, gold: Prepared, found: Found) -> Grade | SymbolicTask:
    """Compares with a number as reference; the answer comes from a box, a marked line or prose."""
    if _is_delimited(found):
        return _compare_delimited_number(request, gold, found)
    number = marked_number(found.text) if found.where.endswith("marker") else last_number(found.text)
    if number is None or gold.number is None:
        return _no_answer(f"{found.where}:no_number")
    return _graded(found._replace(text=_format_number(number)), RuleResult(same_number(gold.number, number), "numeric"))


def _compare_delimited_number(request: GradeRequest, gold: Prepared, found: Found) -> Grade | SymbolicTask:
    results = []
    for text in readings(found.text, request.reference):
        answer = prepare(text)
        number = answer.number or only_number(text)
        if number is None or gold.number is None or is_restated(answer.normalized) or is_restated(answer.whole):
            return _compare_math(request, gold, found)
        results.append(same_number(gold.number, number))
    return _graded(found, RuleResult(any(results), "numeric"))


def _compare_math(request: GradeRequest, gold: Prepared, found: Found) -> Grade | SymbolicTask:
    if found.where == "prose":
        return _compare_prose(request, gold, found)
    marked_text = found.text
    if gold.number is not None and found.where.endswith("marker") and not any(map(str.isdigit, found.text)):
        number = marked_number(found.text)
        if number is not None:
            return _graded(found, RuleResult(same_number(gold.number, number), "numeric"))
    if not _is_delimited(found):
        found = found._replace(text=_stated_value(found.text))
    results = [_compare_reading(request.reference, text) for text in readings(found.text, request.reference)]
    equal = next((result for result in results if result and result.is_equal), None)
    if equal is not None:
        return _graded(found, equal)
    if results[0] is not None and not _is_comma_decimal(request.reference, found.text):
        return _graded(found, results[0])
    if found.where.endswith("marker"):
        # A marked line may be a sentence ("the answer is then x = 5, as wanted"): Math-Verify finds the answer in it.
        return SymbolicTask(AnswerKind.MATH, request.reference, f"The answer is {marked_text}", f"{found.where}_prose")
    return SymbolicTask(AnswerKind.MATH, request.reference, found.text, found.where)


@lru_cache(maxsize=4096)
def _compare_reading(reference: str, text: str) -> RuleResult | None:
    """The rules, then the one number of a sentence ("There are 700 codes.") where the reference is a number.

    Cached, since the answers to one prompt are mostly the same few.
    """
    gold = prepare_reference(reference)
    result = compare(gold, prepare(text))
    if (result is not None and result.is_equal) or gold.number is None:
        return result
    if DECIMAL_COMMA.fullmatch(text.strip(" $")) and gold.number.is_decimal:  # "4,5" beside 4.5
        number = parse_text_number(text)
    else:
        number = only_number(text) if result is None and not is_hedged_value(text) else None
    return result if number is None else RuleResult(same_number(gold.number, number), "numeric")


def _compare_prose(request: GradeRequest, gold: Prepared, found: Found) -> Grade | SymbolicTask:
    stated = only_statement(found.text)
    result = stated and compare(gold, prepare(readings(stated, request.reference)[0]))
    if stated and result and not _is_comma_decimal(request.reference, stated):
        return _graded(Found(stated, "formula", is_closed=False), result)
    if is_empty_set(gold.whole or gold.normalized) and ends_in_no_solution(last_line(found.text)):
        return _graded(Found("\\emptyset", "last_words", is_closed=False), RuleResult(True, "empty_set"))
    if gold.words and WORD_ENDING.search(found.text):
        named = WORD_ENDING.split(last_line(found.text))[-1]
        if prepare(named).words == gold.words:
            return _graded(Found(named, "last_words", is_closed=False), RuleResult(True, "words"))
    return SymbolicTask(AnswerKind.MATH, request.reference, found.text, "prose")


def _is_comma_decimal(reference: str, answer: str) -> bool:
    """Whether only the reference ("3,75") may have a decimal comma; Math-Verify tries both readings of it."""
    return "," not in answer and bool(DECIMAL_COMMA.fullmatch(reference.strip()))


def _stated_value(text: str) -> str:
    """The value in a marked line: what ends it, else its last formula."""
    end = ending(text)
    if end is not None:
        return end.text
    stated = find_stated(text) if find_formulas(text) else None  # "the largest $n$ is 34" states 34, not n
    return stated.text if isinstance(stated, Found) else text


def compare_symbolic(task: SymbolicTask) -> Grade:
    """The grade of a task that `check_rules` left open. Unbounded in time and memory: run it where it can be killed."""
    try:
        return _COMPARE.get(task.kind, _compare_with_math_verify)(task)
    except MemoryError:
        return _error("memory", "out of memory", task.answer)
    except FAULTS as error:
        return _error("fault", f"{type(error).__name__}: {error}", task.answer)


def _score_reasoning_gym(task: SymbolicTask) -> Grade:
    score, answer = reasoning_gym_scorer.score(task.entry, task.answer)
    verdict = Verdict.CORRECT if score >= 1.0 else Verdict.INCORRECT
    return Grade(verdict, answer, f"{task.where}:reasoning_gym", f"score {score:.3g}")


def _check_instructions(task: SymbolicTask) -> Grade:
    """CORRECT if every instruction is followed under the strict reading; the detail has the loose one as well."""
    asked = instructions.parse_instructions(task.entry)
    followed = instructions.check(asked, task.answer)
    if not followed:  # the package takes blocks of reasoning off as well
        return _follows_none(asked, "empty")
    is_whole = all(one.how == instructions.STRICT for one in followed)
    verdict = Verdict.CORRECT if is_whole else Verdict.INCORRECT
    return Grade(verdict, "", f"{task.where}:instructions", instructions.in_words(followed))


def _compare_with_math_verify(task: SymbolicTask) -> Grade:
    reference = _symbolic_reference(task.reference)
    is_prose = task.where.endswith("prose")
    answer = task.answer if is_prose else with_opaque_symbols(readable(task.answer))
    is_equal, found = math_verify_compare.compare(reference, answer, boxed=not is_prose)
    extracted = found[:MAX_ANSWER_CHARS] if is_prose else task.answer
    if is_equal:
        return Grade(Verdict.CORRECT, extracted, f"{task.where}:math_verify", "")
    if is_prose and not found:
        return _no_answer("no_mathematics")
    if not math_verify_compare.is_parseable(reference) and prepare(reference).words is None:
        return _error("gold_unparseable", f"Math-Verify cannot read the reference {reference!r}", extracted)
    return Grade(Verdict.INCORRECT, extracted, f"{task.where}:math_verify", "")


_COMPARE = {AnswerKind.REASONING_GYM.value: _score_reasoning_gym, AnswerKind.INSTRUCTIONS.value: _check_instructions}
"""Kinds whose tasks are for something else than Math-Verify."""


def _symbolic_reference(reference: str) -> str:
    """The reference in LaTeX that Math-Verify reads; a number without its separators, which would make it a list."""
    text = with_opaque_symbols(readable(reference_text(reference)))
    text = text if text.endswith("..") else text.removesuffix(".")
    is_number = prepare_reference(reference).number is not None
    return ungrouped(text) if is_number or "\\frac" in text else text


def grade(request: GradeRequest) -> Grade:
    """Grades one completion, both halves in this process."""
    checked = check_rules(request)
    return compare_symbolic(checked) if isinstance(checked, SymbolicTask) else checked
