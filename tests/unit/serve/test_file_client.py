"""Answers to the rows of a JSONL file: order, resumption, failed rows. No server and no Ray."""

import asyncio
import json
import signal
from pathlib import Path
from typing import Any, ClassVar

import pytest

from serve import file_client as file
from serve.dataset_client import Answer, BatchConfig, row_problem
from serve.errors import ServeError
from serve.file_client import Line, Target, answer_file, read_finished, read_partial, request_row

TARGET = Target("http://test", "m", {"template": "Q: {problem}"}, {"max_tokens": 9}, "key")


class FakeSender:
    """Answers with the question, fails on "bad", and stops everything at "stop"."""

    asked: ClassVar[list[str]] = []
    stops = False

    def __init__(self, base_url: str, config: BatchConfig, api_key: str) -> None:
        assert (base_url, api_key) == (TARGET.base_url, TARGET.api_key)

    async def answer(self, row: dict[str, Any]) -> Answer:
        if problem := row_problem(row):
            return Answer(error=problem)
        text = row["messages"][-1]["content"]
        if "stop" in text and FakeSender.stops:
            signal.raise_signal(signal.SIGINT)  # Control-C, which asyncio turns into the cancellation of its main task
            await asyncio.sleep(60)
        FakeSender.asked.append(text)
        return Answer(error="too bad") if "bad" in text else Answer(completion=text.upper())


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    monkeypatch.setattr(file, "Sender", FakeSender)
    FakeSender.asked, FakeSender.stops = [], False
    return tmp_path / "in.jsonl", tmp_path / "out.jsonl"


def write(path: Path, *problems: str) -> None:
    path.write_text("".join(json.dumps({"problem": text, "id": text}) + "\n" for text in problems))


def answer(paths: tuple[Path, Path]) -> tuple[int, int]:
    """Number of rows, and of those that failed."""
    found = answer_file(*paths, TARGET, BatchConfig(max_in_flight=2), lambda done, total: None)
    return found.rows, found.failed


def output(paths: tuple[Path, Path]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in paths[1].read_text().splitlines()]


def test_every_row_has_one_line_in_order_with_its_columns(paths: tuple[Path, Path]) -> None:
    write(paths[0], "a", "bad", "a", "c")
    assert answer(paths) == (4, 1)
    assert [(row["id"], row["completion"], row["error"]) for row in output(paths)] == [
        ("a", "Q: A", ""),
        ("bad", "", "too bad"),
        ("a", "Q: A", ""),
        ("c", "Q: C", ""),
    ]


def test_a_stopped_file_resumes_and_a_torn_line_is_sent_again(paths: tuple[Path, Path]) -> None:
    write(paths[0], *"abcdef", "stop", *"ghi")
    FakeSender.stops = True
    with pytest.raises(KeyboardInterrupt):
        answer(paths)
    partial = paths[1].with_name("out.jsonl.partial")
    partial.write_bytes(partial.read_bytes()[:-5])
    asked_before, FakeSender.asked, FakeSender.stops = len(FakeSender.asked), [], False
    assert answer(paths) == (10, 0)
    assert len(FakeSender.asked) == 10 - asked_before + 1
    assert [row["id"] for row in output(paths)] == [*"abcdef", "stop", *"ghi"]
    assert not partial.exists()


def test_an_answer_to_a_line_that_was_edited_since_is_not_taken(paths: tuple[Path, Path]) -> None:
    write(paths[0], "a", "bad")
    answer(paths)
    write(paths[0], "b", "bad")
    answer(paths)
    assert [row["completion"] for row in output(paths)] == ["Q: B", ""]


def test_an_answer_of_another_model_or_to_another_sampling_is_not_taken(paths: tuple[Path, Path]) -> None:
    write(paths[0], "a", "bad")
    answer(paths)
    for other in (TARGET._replace(model="other"), TARGET._replace(sampling={"max_tokens": 5})):
        FakeSender.asked = []
        answer_file(*paths, other, BatchConfig(), lambda done, total: None)
        assert sorted(FakeSender.asked) == ["Q: a", "Q: bad"]


def test_failed_rows_are_asked_again(paths: tuple[Path, Path]) -> None:
    write(paths[0], "a", "bad")
    answer(paths)
    FakeSender.asked = []
    answer(paths)
    assert FakeSender.asked == ["Q: bad"]


def test_a_finished_file_is_not_asked_again_and_a_longer_one_only_for_what_is_new(paths: tuple[Path, Path]) -> None:
    write(paths[0], "a", "b")
    answer(paths)
    FakeSender.asked, before = [], output(paths)
    assert answer_file(*paths, TARGET, BatchConfig(), lambda done, total: None) == (2, 0, 0)
    assert FakeSender.asked == [] and output(paths) == before
    write(paths[0], "a", "b", "c")
    assert answer(paths) == (3, 0) and FakeSender.asked == ["Q: c"]
    write(paths[0], "a")
    assert answer(paths) == (1, 0) and [row["id"] for row in output(paths)] == ["a"] and FakeSender.asked == ["Q: c"]


def test_a_finished_file_is_asked_again_in_another_way(paths: tuple[Path, Path]) -> None:
    write(paths[0], "a")
    answer(paths)
    answer_file(*paths, TARGET._replace(sampling={"max_tokens": 5}), BatchConfig(), lambda done, total: None)
    assert FakeSender.asked == ["Q: a", "Q: a"]


@pytest.mark.parametrize("text", ["", "x", "[]", '{"completion": "A"}', '{"request_sha256": "0", "error": ""}'])
def test_a_file_of_another_kind_has_no_answers(tmp_path: Path, text: str) -> None:
    (tmp_path / "out").write_text(text)
    assert read_finished(tmp_path / "out", [Line(0, "", {})]) == {}


ODD_ROWS = {
    '{"messages": []}': "messages: a list with at least one turn",
    '{"messages": ["a"]}': "turn 0 is a text",
    '{"messages": [null]}': "turn 0 is null",
    '{"problem": "1", "sampling": [1]}': "sampling is a list",
    '{"problem": "1", "sampling": "x"}': "sampling is a text",
    '{"problem": "1", "sampling": {"stream": true}}': "sampling may not have stream",
    '{"problem": "1", "sampling": {"model": "other"}}': "sampling may not have model",
}


def test_an_odd_row_gets_an_error_and_the_others_their_answers(paths: tuple[Path, Path]) -> None:
    paths[0].write_text("\n".join(['{"problem": "a"}', *ODD_ROWS, '{"problem": "b"}']))
    assert answer(paths) == (len(ODD_ROWS) + 2, len(ODD_ROWS))
    errors = [row["error"] for row in output(paths)]
    assert errors[0] == errors[-1] == ""
    for error, expected in zip(errors[1:-1], ODD_ROWS.values(), strict=True):
        assert expected in error


def test_half_of_a_pair_of_characters_is_written_as_an_escape(paths: tuple[Path, Path]) -> None:
    paths[0].write_text('{"problem": "a \\ud800"}\n{"problem": "\u00e4"}', encoding="utf-8")
    assert answer(paths) == (2, 0)
    assert [row["problem"] for row in output(paths)] == ["a \ud800", "\u00e4"]


def test_a_place_for_the_output_that_cannot_be_is_told_before_anything_is_asked(paths: tuple[Path, Path]) -> None:
    write(paths[0], "a")
    with pytest.raises(ServeError, match=r"there is no folder .*/none: create it"):
        answer((paths[0], paths[1].parent / "none" / "out.jsonl"))
    with pytest.raises(ServeError, match="is a folder"):
        answer((paths[0], paths[1].parent))
    paths[1].with_name("out.jsonl.partial").write_text('{"a": 1}\n')
    with pytest.raises(ServeError, match="holds no answers of this command"):
        answer(paths)
    assert FakeSender.asked == []


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"problem": 3}', '"x"', '{"problem": ' + "[" * 100_000])
def test_a_wrong_line_is_named(paths: tuple[Path, Path], line: str) -> None:
    paths[0].write_text('{"problem": "a"}\n' + line + "\n")
    with pytest.raises(ServeError, match="line 2"):
        answer(paths)


def test_the_input_is_never_overwritten(paths: tuple[Path, Path]) -> None:
    write(paths[0], "a")
    with pytest.raises(ServeError, match="is the input"):
        answer((paths[0], paths[0]))


def test_a_rows_own_turns_and_sampling_win() -> None:
    turns = [{"role": "user", "content": "?"}]
    row = request_row(Line(0, "", {"messages": turns, "sampling": {"max_tokens": 3, "seed": 1}}), TARGET)
    assert row == {"model": "m", "messages": turns, "sampling": {"max_tokens": 3, "seed": 1, "mode": None}}


@pytest.mark.parametrize("asked", [{"problem": "?"}, {"messages": [{"role": "user", "content": "?"}]}])
def test_a_mode_is_asked_for_whatever_form_the_row_has(asked: dict[str, Any]) -> None:
    target = TARGET._replace(card={"modes": {"long": "Think.", "short": "Be brief."}})
    assert request_row(Line(0, "", asked), target)["sampling"]["mode"] == "long"
    own = {**asked, "sampling": {"mode": "short"}}
    assert request_row(Line(0, "", own), target)["sampling"]["mode"] == "short"


def test_nothing_is_read_where_nothing_was_written(tmp_path: Path) -> None:
    assert read_partial(tmp_path / "none") == {}


def test_only_a_line_feed_ends_a_line(paths: tuple[Path, Path]) -> None:
    texts = ["one\u2028two", "three\x85four\x0c", "five\u2029"]
    lines = [json.dumps({"problem": text, "id": text}, ensure_ascii=False) for text in texts]
    paths[0].write_bytes(("\ufeff" + "\r\n".join(lines) + "\n\n").encode())
    assert answer(paths) == (3, 0)
    found = [json.loads(line) for line in paths[1].read_text(encoding="utf-8").split("\n") if line]
    assert [row["completion"] for row in found] == [f"Q: {text}".upper() for text in texts]
    assert answer(paths) == (3, 0), "the answers that are kept cannot be read again"
