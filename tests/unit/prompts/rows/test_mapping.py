"""Problems, references and completions are found wherever a data set keeps them."""

from typing import Any

import pytest
from pydantic import ValidationError

from distill.config.sources import Columns, Range
from distill.prompts.references import boxed, final_value, majority, reference_of
from distill.prompts.rows.completions import completions_of
from distill.prompts.rows.paths import MISSING, find
from distill.prompts.rows.problems import problem_of
from distill.prompts.rows.where import is_wanted, not_a_number

ROW: dict[str, Any] = {
    "a.b": "dotted",
    "reward_model": {"ground_truth": "4", "none": None},
    "messages": [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "A"}],
    "info": '{"answers": ["1", {"x": 2}]}',
    "responses": [{"response": "one"}, {"other": 1}, {"response": "three"}],
    "text": "plain",
}


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("a.b", "dotted"),
        ("reward_model.ground_truth", "4"),
        ("reward_model.none", None),
        ("messages.0.content", "Q"),
        ("messages.-1.content", "A"),
        ("messages.2.content", MISSING),
        ("info.answers.1.x", 2),
        ("responses.response", ["one", None, "three"]),
        ("responses.nothing", MISSING),
        ("text.more", MISSING),
        ("nothing", MISSING),
    ],
)
def test_a_path_leads_into_tables_lists_and_json_text(path: str, value: Any) -> None:
    assert find(ROW, path) == value


USER, BOT = {"role": "user", "content": "What is 17 + 17?"}, {"role": "assistant", "content": "34"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("What is 17 + 17?", "What is 17 + 17?"),
        ([USER], "What is 17 + 17?"),
        ([{"role": "system", "content": "Hi"}, USER, BOT], "What is 17 + 17?"),
        ([{"from": "human", "value": "What is 17 + 17?"}], "What is 17 + 17?"),
        ([{"role": None, "content": None, "from": "Human", "value": "What is 17 + 17?"}], "What is 17 + 17?"),
        ([{"role": "User", "content": [{"type": "text", "text": "What is "}, "17 + 17?"]}], "What is 17 + 17?"),
        ('[{"role": "user", "content": "What is 17 + 17?"}]', "What is 17 + 17?"),
        ({"role": ["user", "assistant"], "content": ["What is 17 + 17?", "34"]}, "What is 17 + 17?"),
        ('{"from": ["human"], "value": ["What is 17 + 17?"], "weight": 1}', "What is 17 + 17?"),
        ("[1, 2] is what?", "[1, 2] is what?"),
        ('{"a": 1} is what?', '{"a": 1} is what?'),
    ],
)
def test_a_problem_is_text_or_the_user_turn(value: Any, text: str) -> None:
    assert problem_of(value, None, stands_alone=True) == (text, "")


@pytest.mark.parametrize(
    ("value", "fault"),
    [
        (None, "no problem"),
        ("  ", "empty problem"),
        (7, "problem is not text"),
        ([], "problem is not text"),
        (["a"], "problem is not text"),
        ([BOT], "no user turn"),
        ([{"role": "narrator", "content": "x"}], "unknown role 'narrator'"),
        ([{"role": "user", "content": None}], "no user turn"),
        ([{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}], "a part of type 'image_url'"),
        ([{"role": "user", "content": 7}], "content of a turn is int"),
        ([USER, BOT, {"role": "user", "content": "Sure?"}], "more than one user turn"),
        ({"role": ["user", "assistant"], "content": ["What?"]}, "its turns are lists of different lengths"),
        ({"role": [], "content": []}, "problem is not text"),
    ],
)
def test_what_is_no_problem_has_a_reason(value: Any, fault: str) -> None:
    found = problem_of(value, None, stands_alone=True)
    assert not found.text and found.fault.endswith(fault)


def test_fixed_text_around_a_problem_is_taken_off() -> None:
    named = r"^Solve this\. (?P<problem>.+) (End|Stop) here\.$"
    assert problem_of("Solve this. 1 +\n1? Stop here.", named, stands_alone=True).text == "1 +\n1?"
    assert problem_of("Q: 1 + 1?", "^Q: (.*)", stands_alone=True).text == "1 + 1?"
    assert problem_of("1 + 1?", "^Q: (.*)", stands_alone=True).fault == "does not match problem_pattern"


@pytest.mark.parametrize("pattern", ["(", "no group"])
def test_a_pattern_that_cannot_work_is_refused(pattern: str) -> None:
    with pytest.raises(ValidationError, match="problem_pattern"):
        Columns(problem_pattern=pattern)


THOUGHT = "<think>\nHm.\n</think>\n\n34"


@pytest.mark.parametrize(
    ("value", "reasoning", "texts"),
    [
        ("34", None, ["34"]),
        ("34", "Hm.", [THOUGHT]),
        (["34", None, "35"], ["Hm.", "x", None], [THOUGHT, "", "35"]),
        ([USER, BOT], None, ["34"]),
        ([BOT], "Hm.", [THOUGHT]),
        ([USER, {**BOT, "reasoning_content": "Hm."}], None, [THOUGHT]),
        ([USER, {**BOT, "thinking": "Hm."}], None, [THOUGHT]),
        ([{"role": "model", "content": [{"type": "thinking", "thinking": "Hm."}, {"type": "text", "text": "34"}]}],
         None, [THOUGHT]),
        ([USER, {"role": "assistant", "content": THOUGHT, "reasoning_content": "Hm."}], None, [THOUGHT]),
        (THOUGHT, "Hm.", [THOUGHT]),
        ([[USER, BOT], [USER, BOT]], None, ["34", "34"]),
        ('[{"from": "gpt", "value": "34"}]', None, ["34"]),
        ([USER, BOT, USER, {"role": "bot", "content": "35"}], None, ["35"]),
        ({"from": ["human", "gpt"], "value": ["?", "34"], "thinking": [None, "Hm."]}, None, [THOUGHT]),
    ],
)  # fmt: skip
def test_completions_are_texts_or_assistant_turns_with_their_reasoning(
    value: Any, reasoning: Any, texts: list[str]
) -> None:
    found = completions_of(value, reasoning, turns=None, end="</think>")
    assert [one.text for one in found] == texts


@pytest.mark.parametrize(
    ("value", "reasoning", "fault"),
    [
        (None, None, "no completion"),
        ("  ", "Hm.", "no completion"),
        ([USER], None, "no completion"),
        ([BOT, USER], None, "the last turn is not the assistant's"),
        ([USER, {"role": "assistant", "content": None}], None, "no completion"),
        (
            [USER, {"role": "assistant", "content": None, "reasoning_content": "Hm."}],
            None,
            "reasoning without an answer",
        ),
        ([USER, {"role": "assistant", "content": "", "tool_calls": [{"id": 1}]}], None, "uses tools"),
        ([USER, {"role": "tool", "content": "34"}, BOT], None, "uses tools"),
        ({"response": "34"}, None, "completion is not text but a table of response"),
        (7, None, "completion is not text but int"),
        ("34", {"a": 1}, "reasoning is not text but a table of a"),
        (
            [{"role": "assistant", "content": "34", "reasoning": {"x": 1}}],
            None,
            "reasoning of a turn is dict without text",
        ),
    ],
)
def test_what_is_no_completion_has_a_reason(value: Any, reasoning: Any, fault: str) -> None:
    (found,) = completions_of(value, reasoning, turns=None, end="</think>")
    assert found == ("", fault, "")


@pytest.mark.parametrize("reasoning", [["Hm."], ["Hm.", "Hm.", "Hm."], []])
def test_a_list_of_reasoning_of_another_length_pairs_with_no_completion(reasoning: list[str]) -> None:
    found = completions_of(["34", "35"], reasoning, turns=None, end="</think>")
    assert found == [("", "its list of reasoning is not as long as its list of completions", "")] * 2


def test_all_turns_of_the_assistant_can_be_one_completion() -> None:
    value = [USER, BOT, {"role": "user", "content": "Box it."}, {"role": "assistant", "content": "\\boxed{34}"}]
    (found,) = completions_of(value, None, turns="all", end="</think>")
    assert (found.text, found.question) == ("34\n\n\\boxed{34}", "What is 17 + 17?")
    (last,) = completions_of(value, None, turns=None, end="</think>")
    assert (last.text, last.question) == ("\\boxed{34}", "Box it.")


@pytest.mark.parametrize(
    ("where", "is_in"),
    [
        ({"level": 4}, True),
        ({"level": "4"}, True),
        ({"level": 5}, False),
        ({"level": [3, 4]}, True),
        ({"level": {"min": 4, "max": 9}}, True),
        ({"level": {"max": 3}}, False),
        ({"rate": {"min": 0.5}}, True),
        ({"rate": {"max": 0.5}}, False),
        ({"ok": True}, True),
        ({"ok": "true"}, True),
        ({"flag": True}, True),
        ({"tags": "geometry"}, True),
        ({"tags": "algebra"}, False),
        ({"meta.kind": "x"}, True),
        ({"missing": "x"}, False),
        ({"nothing": "None"}, False),
        ({"level": 4, "meta.kind": "y"}, False),
    ],
)
def test_rows_are_chosen_by_values_lists_and_ranges(where: dict[str, Any], is_in: bool) -> None:
    row = {"level": "4", "rate": "0.75", "ok": True, "flag": "True", "tags": ["geometry"], "meta": '{"kind": "x"}'}
    conditions = {
        name: Range(**value) if isinstance(value, dict) else tuple(value) if isinstance(value, list) else value
        for name, value in where.items()
    }
    assert is_wanted({**row, "nothing": None}, conditions) is is_in


def test_a_text_where_a_range_is_asked_for_is_named() -> None:
    where = {"kind": "x", "difficulty": Range(max=0.7)}
    assert not_a_number({"kind": "y", "difficulty": "5/8"}, where) == "difficulty"
    for value in ("0.9", 0.9, None, " "):
        assert not not_a_number({"kind": "y", "difficulty": value}, where)


def test_a_range_without_bounds_is_refused() -> None:
    with pytest.raises(ValidationError, match="needs `min`"):
        Range()


@pytest.mark.parametrize(
    ("votes", "winner"),
    [
        (["34", "34", "35"], "34"),
        (["34", "35"], ""),
        (["34"], ""),
        (["34", "", "34", ""], ""),
        (["34.0", "$34$", ""], "34.0"),
        (["\\dfrac{1}{2}", "\\frac{1}{2}"], "\\dfrac{1}{2}"),
        ([], ""),
    ],
)
def test_a_majority_is_more_than_half_of_all_traces_and_at_least_two(votes: list[str], winner: str) -> None:
    assert majority(votes) == winner


def test_a_box_counts_only_in_the_answer() -> None:
    assert boxed("<think>\n\\boxed{1}\n</think>\n\nSo \\boxed{34}.") == "34"
    assert boxed("<think>\n\\boxed{1}\n</think>\n\nSo 34.") == ""
    assert boxed("<think>\n\\boxed{1}") == ""


def test_traces_that_are_called_wrong_give_no_reference() -> None:
    columns = Columns(reference="traces", reference_from="box", correct="ok")
    row = {"traces": ["\\boxed{1}", "\\boxed{2}"], "ok": [False, None]}
    assert reference_of(row, columns, "math").text == "2"
    assert reference_of({"traces": "\\boxed{1}", "ok": 0}, columns, "math").fault == "no trace boxes an answer"
    uneven = reference_of({"traces": ["\\boxed{1}", "\\boxed{2}"], "ok": [True]}, columns, "math")
    assert uneven == ("", "its list of ok is not as long as its list of traces")


def test_a_table_in_pythons_writing_is_no_answer() -> None:
    assert "Python's writing" in reference_of({"answer": "{'ground_truth': '34'}"}, Columns(), "math").fault
    assert reference_of({"answer": "{'a', 'b'}"}, Columns(), "text").text == "{'a', 'b'}"
    assert reference_of({"answer": "{'a': 1}"}, Columns(), "reasoning_gym").text == "{'a': 1}"


@pytest.mark.parametrize(
    ("answer", "kind", "reference"),
    [
        ('["34"]', "math", "34"),
        ('["34"]', "number", "34"),
        ('["1", "2"]', "math", "1, 2"),
        (["1", "2"], "math", "1, 2"),
        ("[1, 2]", "math", "[1, 2]"),
        ('["a"]', "text", '["a"]'),
    ],
)
def test_a_json_list_of_texts_is_a_list_of_answers(answer: Any, kind: str, reference: str) -> None:
    assert reference_of({"answer": answer}, Columns(), kind) == (reference, "")


def test_an_empty_json_list_is_no_answer() -> None:
    assert reference_of({"answer": "[]"}, Columns(), "math").fault == "no answer"


@pytest.mark.parametrize(
    ("reference", "value"),
    [
        ("So it is.\n#### 1,072", "1072"),
        ("#### $1,234,567.50 a year", "$1234567.50 a year"),
        ("#### (1, 2)", "(1, 2)"),
        ("#### (1,234)", "(1,234)"),
        ("#### 3, 5", "3, 5"),
        ("#### 3,5", "3,5"),
        ("#### 12,34", "12,34"),
    ],
)
def test_only_separators_of_thousands_leave_a_final_value(reference: str, value: str) -> None:
    assert final_value(reference) == value
