"""What a teacher reads of a trace, how its answer begins, and why an edit is not used."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.config.teachers import RuleTeacher, VllmTeacher
from distill.core.schema import Verdict
from distill.generate.ask_policy import edit_number, edit_of
from distill.generate.edits import (
    begun_answer,
    edit_outcome,
    first_part,
    graded_text,
    growth_of,
    is_kept,
    read_of,
    rewritten,
)

THOUGHT = "<think>\nTwo and two. Or is it?\n</think>\n\nIt is \\boxed{4}."


def reader(**fields: Any) -> VllmTeacher:
    return VllmTeacher(**{"name": "r", "model": "m", "style": "long", "reads": "s", **fields})


@pytest.mark.parametrize(
    ("fields", "completion", "read"),
    [
        ({}, THOUGHT, THOUGHT),
        ({"part": "reasoning"}, THOUGHT, "Two and two. Or is it?"),
        ({"part": "answer"}, THOUGHT, "It is \\boxed{4}."),
        ({"part": "answer"}, "It is \\boxed{4}.", ""),
        ({"part": "reasoning"}, "<think>Two and", ""),
        ({"continues": "Wait,"}, THOUGHT, "Two and two. Or is it?"),
        ({"continues": "Wait,"}, "It is 4. ", "It is 4."),
        ({"continues": "Wait,"}, "<think>\nTwo and", "Two and"),
        ({}, "<think>\nTwo and", "<think>\nTwo and"),
        ({"continues": "Wait,", "part": "answer"}, THOUGHT, "It is \\boxed{4}."),
        ({"part": "reasoning", "keep": 0.5}, THOUGHT, "Two and"),
        ({}, "  ", ""),
    ],
)
def test_a_teacher_reads_all_of_a_trace_or_a_part_of_it(fields: dict[str, Any], completion: str, read: str) -> None:
    assert read_of(reader(**fields), completion, "</think>") == read


def test_the_marks_are_those_of_the_teacher_that_wrote_it() -> None:
    text = "[THINK]hm[/THINK]4"
    assert read_of(reader(part="reasoning"), text, "[/THINK]") == "hm"
    assert read_of(reader(part="reasoning"), text, "</think>") == ""


@given(text=st.text(alphabet="ab \n", max_size=60), share=st.floats(0.01, 0.99))
def test_a_first_part_is_a_beginning_of_whole_words_within_its_share(text: str, share: float) -> None:
    part = first_part(text, share)
    assert text.startswith(part)
    assert len(part) <= round(len(text) * share)
    words = text.split()
    assert part.split() == words[: len(part.split())] or len(part.split()) == 1, "a word was cut"


def test_a_share_of_a_text_without_spaces_is_that_share() -> None:
    text = "第一步\n" + "我们先计算两个数的和" * 20
    assert first_part(text, 0.5) == text[: len(text) // 2]


def test_all_of_a_text_is_its_whole() -> None:
    assert first_part("one two", 1.0) == "one two"


@pytest.mark.parametrize(
    ("fields", "opens", "begun"),
    [
        ({"continues": "Wait,"}, True, "<think>\nIt is 4.\n\nWait,"),
        ({"continues": "Wait,"}, False, "It is 4.\n\nWait,"),
        ({"continues": " Hmm"}, False, "It is 4. Hmm"),
        ({"continues": "Wait,", "style": "short"}, True, "It is 4.\n\nWait,"),
    ],
)
def test_an_answer_begins_with_what_was_read_and_the_cue(fields: dict[str, Any], opens: bool, begun: str) -> None:
    assert begun_answer(reader(**fields), "It is 4.", opens=opens) == begun


def test_the_thinking_of_a_trace_that_was_cut_inside_it_is_opened_once() -> None:
    teacher = reader(continues="Wait,")
    begun = begun_answer(teacher, read_of(teacher, "<think>\nTwo and", "</think>"), opens=True)
    assert begun == "<think>\nTwo and\n\nWait,"


@pytest.mark.parametrize(
    ("given", "written", "graded"),
    [
        ("", "It is 4.", "It is 4."),
        ("It is 4.\n\nWait,", " is it?", " is it?"),
        ("<think>\nIt is 4.\n\nWait,", " 4</think>4", "<think>\n 4</think>4"),
        ("<think>\nIt is 4.\n\nWait,", " is it 4", "<think>\n is it 4"),
    ],
)
def test_an_answer_counts_only_where_the_teacher_wrote_it(given: str, written: str, graded: str) -> None:
    assert graded_text(given + written, len(given), "</think>") == graded


def test_only_a_shorter_edit_is_kept_where_that_is_asked_for() -> None:
    assert is_kept(growth_of("abc", "abcd"), "shorter")
    assert not is_kept(growth_of("abcd", "abcd"), "shorter")
    assert is_kept(growth_of("abcde", "abcd"), None)


@pytest.mark.parametrize(
    ("verdict", "drop", "was_correct", "outcome"),
    [
        (Verdict.CORRECT, "", True, "kept"),
        (Verdict.CORRECT, "", False, "kept"),
        (Verdict.CORRECT, "not shorter than its source", True, "not shorter than its source"),
        (Verdict.INCORRECT, "", True, "answer changed"),
        (Verdict.INCORRECT, "", False, "still wrong"),
        (Verdict.INCORRECT, "not shorter than its source", True, "answer changed"),
        (Verdict.NO_ANSWER, "", True, "no answer marked"),
        (Verdict.ERROR, "", True, "could not be graded"),
        (Verdict.CORRECT, "cut by the token limit", True, "cut by the token limit"),
        (Verdict.INCORRECT, "cut by the token limit", True, "answer changed"),
        (Verdict.CORRECT, "source missing", True, "source missing"),
        (Verdict.NO_ANSWER, "source missing", False, "source missing"),
    ],
)
def test_every_edit_that_is_not_used_has_one_reason(verdict: str, drop: str, was_correct: bool, outcome: str) -> None:
    assert edit_outcome(verdict, drop, was_correct=was_correct) == outcome


@given(source=st.integers(0, 2**64 - 1), index=st.integers(0, 1023))
def test_the_number_of_an_edit_tells_its_source(source: int, index: int) -> None:
    name = f"{source:016x}"
    assert edit_of(edit_number(name, index)) == (name, index)


def test_rules_are_applied_one_after_the_other() -> None:
    rules = [{"pattern": r"(?s)Wait,.*?\n\n"}, {"pattern": r"(\d+) apples", "by": r"\1"}]
    teacher = RuleTeacher(name="r", style="short", reads="s", replace=rules)
    assert rewritten(teacher, "3 apples.\n\nWait, is it\nso?\n\nYes. ") == "3.\n\nYes."
