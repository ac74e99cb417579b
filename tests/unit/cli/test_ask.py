"""A conversation in the terminal, and what a served run tells of its models. No server and no Ray."""

import io
from collections.abc import Iterator
from typing import Any

import pytest
from rich.console import Console

from distill.cli import ask as asking
from distill.cli.ask import ServedStudent, chat, next_turns, show
from distill.cli.ask_verb import ask_verb
from distill.cli.main import parse_arguments
from distill.core.errors import InputError
from distill.core.schema import Prompt, Verdict
from distill.ops.deploy.endpoint import BenchmarkChecker
from serve.api.reasoning_parser import opening_delimiter
from serve.client import Piece
from serve.errors import ServeError


def console() -> Console:
    return Console(file=io.StringIO(), width=200)


def printed(to: Console) -> str:
    assert isinstance(to.file, io.StringIO)
    return to.file.getvalue()


def test_an_answer_is_shown_as_it_comes_and_kept_without_its_reasoning() -> None:
    to = console()
    answer = show([Piece("so [red]", is_reasoning=True), Piece("4"), Piece(" it is")], to)
    assert answer == "4 it is"
    assert printed(to) == "so [red]\n4 it is\n", "what a model writes is no markup"


def test_a_conversation_keeps_its_turns_until_it_is_cleared(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def answer(url: str, model: str, turns: Any, **options: Any) -> Iterator[Piece]:
        asked.append([turn["content"] for turn in turns])
        yield Piece(f"answer {len(asked)}")

    monkeypatch.setattr(asking, "stream_chat", answer)
    monkeypatch.setattr(asking, "model_card", lambda *given: {"template": "Q: {problem}"})
    lines, to = iter(["one", "", "two", "/foo", "/new", "three", "/quit"]), console()
    assert chat(ServedStudent("u", "m", "k", {}), to, read=lambda prompt: next(lines)) == 0
    assert "/foo is no command" in printed(to)
    assert asked == [["Q: one"], ["Q: one", "answer 1", "two"], ["Q: three"]]


def test_a_conversation_has_the_worked_examples_once_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    shown = [{"role": "user", "content": "Q: 2?"}, {"role": "assistant", "content": "2"}]
    asked: list[list[str]] = []

    def answer(url: str, model: str, turns: Any, **options: Any) -> Iterator[Piece]:
        asked.append([turn["content"] for turn in turns])
        yield Piece("yes")

    monkeypatch.setattr(asking, "stream_chat", answer)
    monkeypatch.setattr(asking, "model_card", lambda *given: {"template": "Q: {problem}", "examples": shown})
    lines, to = iter(["one", "two", "/new", "three", "/quit"]), console()
    assert chat(ServedStudent("u", "m", "k", {}), to, read=lambda prompt: next(lines)) == 0
    before = ["Q: 2?", "2"]
    assert asked == [[*before, "Q: one"], [*before, "Q: one", "yes", "two"], [*before, "Q: three"]]
    assert "worked examples are sent before the first question" in printed(to) and "Q: 2?" not in printed(to)


def test_the_mode_is_told_and_changes_within_a_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, int]] = []

    def answer(url: str, model: str, turns: Any, mode: str, **options: Any) -> Iterator[Piece]:
        asked.append((mode, len(turns)))
        yield Piece("yes")

    monkeypatch.setattr(asking, "stream_chat", answer)
    monkeypatch.setattr(asking, "model_card", lambda *given: {"modes": {"long": "Think.", "short": "Brief."}})
    lines, to = iter(["one", "/mode short", "two", "/mode slow", "/mode", "three", "/quit"]), console()
    assert chat(ServedStudent("u", "m", "k", {}), to, read=lambda prompt: next(lines)) == 0
    assert asked == [("long", 1), ("short", 3), ("short", 5)]
    assert "It answers in the mode long; /mode short changes that." in printed(to)
    assert "has no mode 'slow': it has long, short" in printed(to)


def test_an_end_of_input_ends_a_conversation(monkeypatch: pytest.MonkeyPatch) -> None:
    def end(prompt: str) -> str:
        raise EOFError

    monkeypatch.setattr(asking, "model_card", lambda *given: {})
    assert chat(ServedStudent("u", "m", "k", {}), console(), read=end) == 0


def test_a_conversation_goes_on_after_a_question_that_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[list[str]] = []

    def answer(url: str, model: str, turns: Any, **options: Any) -> Iterator[Piece]:
        asked.append([turn["content"] for turn in turns])
        if "long" in asked[-1]:
            raise ServeError("longer than the context")
        yield Piece("yes")

    monkeypatch.setattr(asking, "stream_chat", answer)
    monkeypatch.setattr(asking, "model_card", lambda *given: {})
    lines, to = iter(["one", "long", "two", "/quit"]), console()
    assert chat(ServedStudent("u", "m", "k", {}), to, read=lambda prompt: next(lines)) == 0
    assert "longer than the context" in printed(to) and asked[-1] == ["one", "yes", "two"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["m", ""], "the question is empty"),
        (["m", " "], "the question is empty"),
        (["m", "--file", "in"], "needs --out"),
        (["m", "--out", "out"], "--out is for the answers"),
        (["m", "x", "--file", "in", "--out", "out"], "a question and --file"),
    ],
)
def test_each_wrong_command_has_its_own_message(words: list[str], expected: str) -> None:
    with pytest.raises(InputError, match=expected):
        ask_verb(parse_arguments(["ask", *words]))


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "http://127.0.0.1:9/v1", "127.0.0.1:9/v1/"])
def test_the_address_of_the_endpoint_is_understood_in_any_form(url: str) -> None:
    with pytest.raises(ServeError, match=r"no endpoint at http://127.0.0.1:9 .*start one with"):
        ask_verb(parse_arguments(["ask", "m", "x", "--url", url]))


def test_only_the_first_question_gets_the_models_own_template() -> None:
    card = {"system": "S", "template": "Q: {problem}"}
    assert [turn["content"] for turn in next_turns([], "a", card)] == ["S", "Q: a"]
    assert next_turns([{"role": "user", "content": "a"}], "b", card)[-1] == {"role": "user", "content": "b"}


@pytest.mark.parametrize(
    ("end", "start"),
    [
        ("</think>", "<think>"),
        ("<|end_of_thought|>", "<|begin_of_thought|>"),
        ("<|END_THINKING|>", "<|START_THINKING|>"),
        ("<channel|>", "<|channel>thought"),
    ],
)
def test_a_delimiter_knows_what_it_closes(end: str, start: str) -> None:
    assert opening_delimiter(end) == start


def test_the_page_gets_verdicts_of_the_runs_own_verifier() -> None:
    prompt = Prompt("p", "3 + 4?", "7", "number", "test", "", "", "")
    checker = BenchmarkChecker({"p": ("sums", prompt)}, "</think>")
    assert checker.problems() == [{"id": "p", "benchmark": "sums", "problem": "3 + 4?"}]
    assert checker.verdict("p", r"It is \boxed{7}.", "stop")["verdict"] == Verdict.CORRECT
    wrong = checker.verdict("p", r"It is \boxed{8}.", "stop")
    assert (wrong["verdict"], wrong["expected"]) == (Verdict.INCORRECT, "7")
    with pytest.raises(KeyError):
        checker.verdict("q", "7", "stop")
