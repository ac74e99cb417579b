"""The table of benchmarks, other languages and multiple choice by columns, and the real sets where they are at hand."""

import json
from pathlib import Path
from typing import Any

import pytest

from distill.config.benchmarks import DEFINITIONS
from distill.config.sources import Columns, FileSource, HubSource
from distill.core.schema import Dropped, Prompt, Verdict
from distill.grading import GradeRequest, grade
from distill.prompts.load import load_prompts, to_prompt
from distill.prompts.rows.raw_row import RawRow

DATA = Path("/work/shared/data")
AT_HAND = [
    ("gsm8k", "gsm8k/test.jsonl", {}, 1319, 1),
    ("math", "math/test.jsonl", {}, 5000, 0.998),
    ("math500", "math/math500.jsonl", {}, 500, 0.998),
    ("amc23", "benchmarks/amc23.jsonl", {}, 40, 1),
    ("aime24", "benchmarks/aime24.jsonl", {"reference": "answer"}, 30, 1),
    ("olympiadbench", "benchmarks/olympiadbench_en_text.jsonl", {}, 675, 0.99),
    ("svamp", "benchmarks/svamp.jsonl", {}, 1000, 1),
]


def chosen(row: dict[str, Any], **columns: Any) -> Prompt | Dropped:
    source = FileSource(path="x.jsonl", columns=Columns(**columns), answer_kind="choice")
    return to_prompt(RawRow("x:1", row), source, 20_000)


@pytest.mark.parametrize(("name", "file", "changes", "num", "share"), AT_HAND)
def test_real_sets_load_whole_and_their_own_answers_are_correct(
    name: str, file: str, changes: dict[str, str], num: int, share: float
) -> None:
    if not (DATA / file).exists():
        pytest.skip("the shared data folder is not here")
    source = DEFINITIONS[name].config.source
    assert isinstance(source, HubSource)
    columns = source.columns.model_copy(update=changes)
    local = FileSource(path=str(DATA / file), columns=columns, answer_kind=source.answer_kind)
    loaded = load_prompts([local], base=DATA, max_problem_chars=20_000, num_prompts=None, seed=0)
    assert len(loaded.prompts) + sum(drop.reason == "duplicate" for drop in loaded.drops) == num
    sample = loaded.prompts[:60]
    own = [grade(GradeRequest(own_answer(prompt), prompt.reference, prompt.answer_kind)) for prompt in sample]
    wrong = [(prompt.reference, one.rule) for prompt, one in zip(sample, own, strict=True) if one.verdict != "CORRECT"]
    assert 1 - len(wrong) / len(sample) >= share, wrong


def own_answer(prompt: Prompt) -> str:
    return prompt.reference if "\\boxed" in prompt.reference else f"\\boxed{{{prompt.reference}}}"


def test_the_text_before_a_question_belongs_to_the_problem() -> None:
    source = FileSource(path="x", columns=Columns(problem="Question", reference="Answer", context="Body"))
    row = {"Body": "There are 87 oranges", "Question": "How many?", "Answer": 87.0}
    prompt = to_prompt(RawRow("x:1", row), source, 20_000)
    assert isinstance(prompt, Prompt)
    assert (prompt.problem, prompt.reference) == ("There are 87 oranges. How many?", "87.0")
    without = to_prompt(RawRow("x:2", row | {"Body": None}), source, 20_000)
    assert isinstance(without, Prompt) and without.problem == "How many?"


def test_other_languages_are_a_matter_of_columns() -> None:
    columns = Columns(problem="question", reference="answer_number", level="lang")
    source = FileSource(path="x", columns=columns, answer_kind="number")
    row = {"question": "Ein Ei kostet 2 €. Was kosten 9?", "answer": None, "answer_number": 18, "lang": "de"}
    prompt = to_prompt(RawRow("x:1", row), source, 20_000)
    assert isinstance(prompt, Prompt) and (prompt.reference, prompt.level) == ("18", "de")
    assert grade(GradeRequest("Die Antwort: 18 €.", prompt.reference, "number")).verdict == Verdict.CORRECT


@pytest.mark.parametrize(
    ("row", "letter"),
    [
        ({"answer": 2, "options": ["red", "green", "blue"]}, "C"),
        ({"answer": "B", "options": ["red", "green", "blue"]}, "B"),
        ({"answer": "blue", "options": ["red", "green", "blue"]}, "C"),
        ({"answer": "1", "options": {"text": ["red", "green"], "label": ["1", "2"]}}, "A"),
        ({"answer": "2", "options": ["1", "2", "3"]}, "B"),
        ({"answer": "B", "options": {"B": "green", "A": "red", "C": None}}, "B"),
        ({"answer": "red", "options": '{"B": "green", "A": "red"}'}, "A"),
        ({"answer": "10", "options": {str(n): f"colour {n}" for n in (10, 2, 1)}}, "C"),
        ({"answer": "opb", "options": {"opa": "red", "opb": "green"}}, "B"),
        ({"answer": "C", "options": [{"key": "B", "value": "red"}, {"key": "C", "value": "blue"}]}, "B"),
        ({"answer": 2, "options": ["", "red", "green"]}, "B"),
        ({"answer": "3", "options": {"text": ["", "red", "green"], "label": ["1", "2", "3"]}}, "B"),
    ],
)
def test_options_are_lettered_whatever_form_they_have(row: dict[str, Any], letter: str) -> None:
    prompt = chosen(row | {"problem": "Which colour?"}, choices="options")
    assert isinstance(prompt, Prompt) and prompt.reference == letter
    assert prompt.problem.startswith("Which colour?\nA) ")
    right = grade(GradeRequest(f"The answer is ({letter}).", prompt.reference, "choice"))
    assert right.verdict == Verdict.CORRECT


BLOOD = {"problem": "Which group?", "options": ["B", "A", "AB", "O"]}


def test_a_letter_that_is_also_the_text_of_another_option_is_never_guessed() -> None:
    unclear = chosen(BLOOD | {"answer": "A"}, choices="options")
    assert isinstance(unclear, Dropped) and "name columns.choice_index" in unclear.reason
    told = {"choices": "options", "choice_index": "answer_index"}
    for index, letter in ((0, "A"), (1, "B"), ("1", "B"), (1.0, "B")):
        prompt = chosen(BLOOD | {"answer": "A", "answer_index": index}, **told)
        assert isinstance(prompt, Prompt) and prompt.reference == letter
    for index in (2, 7, -1, "A"):
        found = chosen(BLOOD | {"answer": "A", "answer_index": index}, **told)
        assert isinstance(found, Dropped) and found.reason.startswith("columns.choice_index is no choice")
    alike = chosen(BLOOD | {"options": ["A", "B", "AB", "O"], "answer": "A"}, choices="options")
    assert isinstance(alike, Prompt) and alike.reference == "A", "both readings are the same option"
    only_text = chosen(BLOOD | {"answer": "O"}, choices="options")
    assert isinstance(only_text, Prompt) and only_text.reference == "D"


def test_letters_that_the_data_set_writes_itself_decide() -> None:
    columns = dict(zip("ABCD", BLOOD["options"], strict=True))
    lettered = chosen({"problem": "?", "answer": "A", **columns}, choices=tuple("ABCD"))
    own = chosen({"problem": "?", "answer": "A", "options": ["A) B", "B) A"]}, choices="options")
    right = chosen({"problem": "?", "right": "B", "wrong": "A"}, reference="right", choices=("right", "wrong"))
    assert isinstance(lettered, Prompt) and isinstance(own, Prompt) and isinstance(right, Prompt)
    assert (lettered.reference, own.reference) == ("A", "A")
    assert f"{right.reference}) B" in right.problem


def test_a_number_that_is_an_index_and_the_text_of_another_option_is_never_guessed() -> None:
    row = {"problem": "How many?", "options": ["4", "2", "1", "3"], "answer": 1}
    unclear = chosen(row, choices="options")
    assert isinstance(unclear, Dropped) and "index of one choice" in unclear.reason
    told = chosen(row, choices="options", choice_index="answer")
    assert isinstance(told, Prompt) and told.reference == "B"
    numbers = chosen(row | {"options": [4, 2, 1, 3]}, choices="options")
    assert isinstance(numbers, Prompt) and numbers.reference == "C", "among numbers it is one of them"


def test_an_index_without_options_is_refused() -> None:
    with pytest.raises(ValueError, match="name their columns as choices"):
        Columns(choice_index="answer_index")


def test_an_options_own_letter_is_not_written_twice() -> None:
    for options in (["A)21", "B)22"], ["(A) 21", "(B) 22"], {"A": "A. 21", "B": "B. 22"}):
        prompt = chosen({"problem": "?", "answer": "B", "options": options}, choices="options")
        assert isinstance(prompt, Prompt) and (prompt.problem, prompt.reference) == ("?\nA) 21\nB) 22", "B")
    kept = chosen({"problem": "Who?", "answer": 0, "options": ["A. Smith", "C. Jones"]}, choices="options")
    assert isinstance(kept, Prompt) and kept.problem == "Who?\nA) A. Smith\nB) C. Jones"


def test_options_in_columns_of_their_own_are_shuffled_by_the_problem() -> None:
    places = set()
    for number in range(12):
        row = {"problem": f"Question {number}?", "right": "yes", "wrong1": "no", "wrong2": "maybe", "wrong3": "never"}
        one = chosen(row, reference="right", choices=("right", "wrong1", "wrong2", "wrong3"))
        assert isinstance(one, Prompt) and f"{one.reference}) yes" in one.problem
        assert one == chosen(row, reference="right", choices=("right", "wrong1", "wrong2", "wrong3"))
        places.add(one.reference)
    assert len(places) > 1


def test_lettered_columns_keep_their_order_and_rows_may_lack_the_last_of_them(tmp_path: Path) -> None:
    rows = [
        {"en_question": "Which gas?", "en_A": "air", "en_B": "argon", "en_C": "oxygen", "answer": "C", "level": 1},
        {"en_question": "Which one?", "en_A": "x", "en_B": "y", "answer": "B", "level": 3},
    ]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    columns = Columns(problem="en_question", choices=tuple(f"en_{letter}" for letter in "ABCDEFGHI"))
    source = FileSource(path="rows.jsonl", columns=columns, answer_kind="choice", language="en")
    loaded = load_prompts([source], base=tmp_path, max_problem_chars=99, num_prompts=None, seed=0)
    found = {one.problem: (one.reference, one.level, one.language) for one in loaded.prompts}
    assert found == {
        "Which gas?\nA) air\nB) argon\nC) oxygen": ("C", "1", "en"),
        "Which one?\nA) x\nB) y": ("B", "3", "en"),
    }


def test_a_column_may_hold_the_language_and_an_unknown_one_drops_its_row() -> None:
    source = FileSource(path="x", columns=Columns(language="lang"), answer_kind="number", language="en")
    rows = [{"problem": f"{n}?", "answer": n, "lang": code} for n, code in enumerate(["de", None, "klingon"], 1)]
    found = [to_prompt(RawRow(f"x:{n}", row), source, 99) for n, row in enumerate(rows)]
    assert [one.language if isinstance(one, Prompt) else one.reason for one in found] == [
        *("de", "en"),
        "unknown language 'klingon'",
    ]


def test_a_row_whose_answer_is_no_option_is_dropped_with_its_reason() -> None:
    dropped = [
        chosen({"problem": "?", "answer": "pink", "options": ["red", "green"]}, choices="options"),
        chosen({"problem": "?", "answer": "A", "options": None}, choices="options"),
        chosen({"problem": "?", "answer": 0, "options": ["", "red", "green"]}, choices="options"),
        chosen({"problem": "?", "answer": "A", "options": {"A": {"x": "red"}, "B": "green"}}, choices="options"),
        chosen({"problem": "?", "answer": 0, "options": {"names": ["a", "b"], "right": [1, 0]}}, choices="options"),
    ]
    assert [one.reason for one in dropped if isinstance(one, Dropped)] == [
        "answer is no choice",
        "0 choices",
        "answer is no choice",
        "a choice is not text",
        "a choice is not text",
    ]
