"""Instructions that rules check: every kind, with answers that follow it strictly, loosely and not; the sandbox."""

from collections.abc import Iterator
from typing import Any

import pytest

from distill.core.schema import Verdict
from distill.core.verifier_version import VERIFIER_VERSION, verifier_version
from distill.grading import GradeRequest, GraderPool, grade
from distill.grading.instructions import (
    ARGUMENTS,
    Followed,
    Instruction,
    check,
    from_words,
    in_words,
    load_checkers,
    pack_instructions,
    parse_instructions,
)

Case = tuple[str, dict[str, Any], str, str]
LETTERS = {"letter": "z", "let_frequency": 2}
SECTIONS = {"section_spliter": "Part", "num_sections": 2}
CAPITALS = {"capital_frequency": 2}
SENTENCES = {"num_sentences": 3, "relation": "at least"}
WORDS = {"num_words": 4, "relation": "at least"}
CASES: list[Case] = [
    ("keywords:existence", {"keywords": ["tide", "moon"]}, "The Moon moves the tide.", "strict"),
    ("keywords:existence", {"keywords": ["tide", "moon"]}, "The moon moves the sea.", "not"),
    ("keywords:frequency", {"keyword": "sea", "frequency": 2, "relation": "at least"}, "Sea after sea.", "strict"),
    ("keywords:frequency", {"keyword": "sea", "frequency": 2, "relation": "less than"}, "Sea after sea.", "not"),
    ("keywords:forbidden_words", {"forbidden_words": ["cold"]}, "Frost scolds us.", "strict"),
    ("keywords:forbidden_words", {"forbidden_words": ["cold"]}, "It is cold.", "not"),
    ("keywords:forbidden_words", {"forbidden_words": ["sure"]}, "Sure, here it is:\nFrost bites.", "loose"),
    (
        "keywords:letter_frequency",
        LETTERS | {"let_relation": "at least"},
        "Zebra zoo",
        "strict",
    ),
    ("keywords:letter_frequency", LETTERS | {"let_relation": "less than"}, "Zebra zoo", "not"),
    ("language:response_language", {"language": "de"}, "Das Wasser steigt durch die Wurzeln in den Baum.", "strict"),
    ("language:response_language", {"language": "de"}, "The water rises through the roots of the tree.", "not"),
    ("length_constraints:number_sentences", SENTENCES, "It rains. Dr. Brown waits. We go.", "strict"),
    ("length_constraints:number_sentences", SENTENCES, "It rains. Dr. Brown waits and Mr. Smith goes.", "not"),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "One.\n***\nTwo.", "strict"),
    ("length_constraints:number_paragraphs", {"num_paragraphs": 2}, "One.\n\nTwo.", "not"),
    ("length_constraints:number_words", WORDS, "Four words are enough.", "strict"),
    ("length_constraints:number_words", WORDS, "Three words only.", "not"),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "today"},
        "They stood.\n\nToday they fall.",
        "strict",
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "today"},
        "Today they stood.\n\nThey fall.",
        "not",
    ),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "Dear [name], come to [place].", "strict"),
    ("detectable_content:number_placeholders", {"num_placeholders": 2}, "Dear [name], come.", "not"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye.\nP.S. Write soon.", "strict"),
    ("detectable_content:postscript", {"postscript_marker": "P.S."}, "Bye. Write soon.", "not"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* One\n* Two", "strict"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "* One\n* Two\n* Three", "loose"),
    ("detectable_format:number_bullet_lists", {"num_bullets": 2}, "One, two", "not"),
    ("detectable_format:constrained_response", {}, "My answer is no.", "strict"),
    ("detectable_format:constrained_response", {}, "No.", "not"),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "A *wick* and *wax*.", "strict"),
    ("detectable_format:number_highlighted_sections", {"num_highlights": 2}, "A *wick* and wax.", "not"),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "Part", "num_sections": 2},
        "Part 1\na\nPart 2\nb",
        "strict",
    ),
    ("detectable_format:multiple_sections", SECTIONS, "a\nb", "not"),
    ("detectable_format:json_format", {}, '```json\n{"name": "pear"}\n```', "strict"),
    ("detectable_format:json_format", {}, 'Here:\n{"name": "pear"}', "loose"),
    ("detectable_format:json_format", {}, "name: pear", "not"),
    ("detectable_format:title", {}, "<<Fog>>\nIt creeps.", "strict"),
    ("detectable_format:title", {}, "Fog\nIt creeps.", "not"),
    ("combination:two_responses", {}, "Crumbs\n******\nThe Oven", "strict"),
    ("combination:two_responses", {}, "Crumbs or The Oven", "not"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "How old?"}, "How old? Ten.", "strict"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "How old?"}, "Yes!\nHow old? Ten.", "loose"),
    ("combination:repeat_prompt", {"prompt_to_repeat": "How old?"}, "Ten.", "not"),
    ("startend:end_checker", {"end_phrase": "Safe travels!"}, "It points north. Safe travels!", "strict"),
    ("startend:end_checker", {"end_phrase": "Safe travels!"}, "Safe travels! It points north.", "not"),
    (
        "change_case:capital_word_frequency",
        CAPITALS | {"capital_relation": "at least"},
        "WET FLOOR here",
        "strict",
    ),
    (
        "change_case:capital_word_frequency",
        CAPITALS | {"capital_relation": "less than"},
        "WET FLOOR",
        "not",
    ),
    ("change_case:english_capital", {}, "THE SWIMMING POOL IS OPEN AGAIN AND THE WATER IS WARM.", "strict"),
    ("change_case:english_capital", {}, "The swimming pool is open again.", "not"),
    ("change_case:english_lowercase", {}, "a mouse lives in the old clock and sleeps there.", "strict"),
    ("change_case:english_lowercase", {}, "A mouse lives in the old clock.", "not"),
    ("punctuation:no_comma", {}, "Red and gold.", "strict"),
    ("punctuation:no_comma", {}, "Sure, here:\nRed and gold.", "loose"),
    ("punctuation:no_comma", {}, "Red, gold, brown.", "not"),
    ("startend:quotation", {}, '"The peaks are white."', "strict"),
    ("startend:quotation", {}, "The peaks are white.", "not"),
]


@pytest.fixture(scope="module")
def pool() -> Iterator[GraderPool]:
    with GraderPool(deadline_s=60.0) as pool:
        yield pool


def entry(*instructions: tuple[str, dict[str, Any]]) -> str:
    return pack_instructions([name for name, _ in instructions], [own for _, own in instructions])


def test_the_table_has_every_instruction_followed_and_not_and_the_checkers_need_what_it_says() -> None:
    for how in ("strict", "not"):
        assert {name for name, *_, seen in CASES if seen == how} == ARGUMENTS.keys()
    assert {name: tuple(one(name).get_instruction_args_keys()) for name, one in load_checkers().items()} == ARGUMENTS


@pytest.mark.parametrize(("name", "arguments", "answer", "how"), CASES)
def test_every_instruction(name: str, arguments: dict[str, Any], answer: str, how: str) -> None:
    assert check([Instruction(name, arguments)], answer) == [Followed(name, how)]


def test_workers_that_may_open_no_file_give_the_same_verdicts(pool: GraderPool) -> None:
    requests = [GradeRequest(answer, "", "instructions", entry=entry((name, own))) for name, own, answer, _ in CASES]
    grades = pool.grade_batch(requests)
    expected = [Verdict.CORRECT if how == "strict" else Verdict.INCORRECT for *_, how in CASES]
    assert [one.verdict for one in grades] == expected
    assert [list(from_words(one.detail)) for one in grades] == [[Followed(name, how)] for name, _, _, how in CASES]
    with_mathematics = pool.grade_batch([GradeRequest("\\boxed{2\\log 2}", "\\log 4", "math")])
    assert with_mathematics[0].rule == "box:math_verify", "a worker with checkers compares mathematics as well"


def test_a_prompt_is_correct_if_all_its_instructions_are_followed_strictly() -> None:
    both = entry(("punctuation:no_comma", {}), ("length_constraints:number_words", WORDS))
    outcomes = {
        "Four words are enough.": (Verdict.CORRECT, "strict strict"),
        "Sure, so:\nFour words are enough.": (Verdict.INCORRECT, "loose strict"),
        "Too, short": (Verdict.INCORRECT, "not not"),
    }
    for answer, (verdict, hows) in outcomes.items():
        found = grade(GradeRequest(f"<think>Now, well, think.</think>{answer}", "", "instructions", entry=both))
        assert found.verdict == verdict and [one.how for one in from_words(found.detail)] == hows.split()
    for completion in ("", "<think>Now,", "<think>Done.</think> \n"):
        found = grade(GradeRequest(completion, "", "instructions", entry=both))
        assert found.verdict == Verdict.NO_ANSWER and [one.how for one in from_words(found.detail)] == ["not", "not"]
    cut = GradeRequest("Four words are enough. And", "", "instructions", entry=both, finish_reason="length")
    assert grade(cut).verdict == Verdict.CORRECT, "as in IFEval, what is there counts"


@pytest.mark.parametrize("text", ["", "{}", "[]", '[["punctuation:no_comma"]]', '[["x", 3]]'])
def test_a_row_without_instructions_is_an_error_and_never_wrong(text: str) -> None:
    assert grade(GradeRequest("Any.", "", "instructions", entry=text)).verdict == Verdict.ERROR


def test_arguments_that_no_checker_can_use_are_an_error_and_never_wrong() -> None:
    wrong = entry(("length_constraints:number_words", WORDS | {"relation": "more than"}))
    found = grade(GradeRequest("Any.", "", "instructions", entry=wrong))
    assert found.verdict == Verdict.ERROR and "more than" in found.detail


def test_an_endless_answer_is_none() -> None:
    assert grade(GradeRequest("la " * 9_000, "", "instructions", entry=entry(("startend:quotation", {})))).rule == (
        "answer_too_long"
    )


def test_packing_leaves_out_what_a_table_has_no_value_for() -> None:
    packed = entry(("length_constraints:number_words", {"num_words": 3.0, "relation": "at least", "keywords": None}))
    assert parse_instructions(packed) == [
        Instruction("length_constraints:number_words", {"num_words": 3, "relation": "at least"})
    ]


def test_words_of_a_grade_are_read_back_and_other_details_are_not_theirs() -> None:
    followed = [Followed("punctuation:no_comma", "loose"), Followed("startend:quotation", "not")]
    assert list(from_words(in_words(followed))) == followed
    assert not list(from_words("score 0.5")) and not list(from_words("ValueError: x=strict"))


def test_the_language_of_a_text_is_the_same_every_time() -> None:
    unsure = "Hotel Taxi Radio"
    wanted = Instruction("language:response_language", {"language": "en"})
    assert len({check([wanted], unsure)[0].how for _ in range(10)}) == 1


def test_only_the_kinds_that_they_grade_depend_on_the_checkers_version() -> None:
    assert verifier_version(["math", "number"]) == VERIFIER_VERSION
    named = verifier_version(["math", "instructions"])
    assert named.startswith(VERIFIER_VERSION) and "if-verifiable-0.1.2" in named and "none" not in named
    assert verifier_version(["refusal"]) != VERIFIER_VERSION != named
