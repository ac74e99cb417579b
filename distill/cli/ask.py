"""Asks a served student one question, or holds a conversation."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rich.console import Console

from serve.client import Piece, chosen_mode, model_card, question_turns, stream_chat
from serve.errors import ServeError

NEW, MODE, QUIT = "/new", "/mode", "/quit"
COMMAND = re.compile(r"/\w*")
HELP = f"Type a question; {NEW} starts a new conversation, {QUIT} or Ctrl-D quits."


class Student(Protocol):
    """A student that answers somewhere."""

    @property
    def where(self) -> str:
        """Its name, and where it answers."""

    @property
    def mode(self) -> str:
        """The mode that it is asked in at first; empty: its first one, if it has any."""

    def card(self) -> Mapping[str, Any]:
        """How it is asked: `system`, `template`, `examples`, `modes`."""

    def answer(self, turns: Sequence[Mapping[str, str]], mode: str) -> Iterator[Piece]:
        """Stream its next turn. `mode`: one of its modes; empty where it has none."""


@dataclass(frozen=True)
class ServedStudent:
    """A student at an endpoint, and how it is asked."""

    url: str
    """Base URL, without `/v1`."""
    model: str
    api_key: str
    sampling: Mapping[str, Any]
    mode: str = ""
    """A mode of the student; empty: its first one, if it has any."""

    @property
    def where(self) -> str:
        """Its name and its address."""
        return f"{self.model} at {self.url}"

    def card(self) -> dict[str, Any]:
        """Its metadata at the endpoint."""
        return model_card(self.url, self.model, self.api_key)

    def answer(self, turns: Sequence[Mapping[str, str]], mode: str) -> Iterator[Piece]:
        """Stream its next turn."""
        return stream_chat(self.url, self.model, turns, api_key=self.api_key, mode=mode or None, **self.sampling)


def ask_student(student: ServedStudent, problem: str, console: Console) -> int:
    """Print one streamed answer; reasoning that the server separates is dimmed."""
    card = student.card()
    show(student.answer(question_turns(problem, card), chosen_mode(card, student.mode)), console)
    return 0


def chat(student: Student, console: Console, read: Callable[[str], str] = input) -> int:
    """A conversation until Ctrl-D; Ctrl-C stops an answer."""
    card = student.card()
    mode = chosen_mode(card, student.mode)
    turns: list[Mapping[str, str]] = []
    console.print(f"{student.where}. {HELP}{about_modes(card, mode)}{about_examples(card)}", markup=False)
    while (text := _next_question(read)) is not None:
        if text == NEW:
            turns = []
        elif text.partition(" ")[0] == MODE:
            mode = _changed_mode(card, mode, text.removeprefix(MODE).strip(), console)
        elif COMMAND.fullmatch(text):
            console.print(f"{text} is no command. {HELP}", markup=False)
        elif text:
            turns = _with_answer(student, next_turns(turns, text, card), mode, console) or turns
    return 0


def _with_answer(
    student: Student, sent: list[Mapping[str, str]], mode: str, console: Console
) -> list[Mapping[str, str]] | None:
    """The turns with the student's next one; None where it has none: then what was said before is kept."""
    try:
        answer = show(student.answer(sent, mode), console)
    except KeyboardInterrupt:
        console.print(" (stopped)")
        return None
    except ServeError as error:  # too long for the context, for example
        console.print(f"\n{error}", markup=False)
        return None
    return [*sent, {"role": "assistant", "content": answer}]


def about_modes(card: Mapping[str, Any], mode: str) -> str:
    """What a person should know of a student's modes; empty where it has none."""
    others = [name for name in card.get("modes") or {} if name != mode]
    return f" It answers in the mode {mode}; {MODE} {' or '.join(others)} changes that." if others else ""


def about_examples(card: Mapping[str, Any]) -> str:
    """That a conversation begins with turns that are not shown; empty where it does not."""
    return " Its worked examples are sent before the first question." if card.get("examples") else ""


def _changed_mode(card: Mapping[str, Any], mode: str, wanted: str, console: Console) -> str:
    try:
        changed = chosen_mode(card, wanted or mode)
    except ServeError as error:
        console.print(str(error), markup=False)
        return mode
    console.print(about_modes(card, changed).strip() or "It has no other mode.", markup=False)
    return changed


def next_turns(turns: Sequence[Mapping[str, str]], text: str, card: Mapping[str, Any]) -> list[Mapping[str, str]]:
    """The conversation with one more question. Only the first has the model's own format, as in training, with the
    worked examples before it."""
    return [*turns, {"role": "user", "content": text}] if turns else [*question_turns(text, card)]


def _next_question(read: Callable[[str], str]) -> str | None:
    try:
        text = read("\n> ").strip()
    except (EOFError, KeyboardInterrupt):
        return None
    return None if text == QUIT else text


def show(pieces: Iterable[Piece], console: Console) -> str:
    """Print pieces as they arrive; returns the answer without the reasoning."""
    answer, was_reasoning = "", False
    for piece in pieces:
        if was_reasoning and not piece.is_reasoning:
            console.print()
        was_reasoning = piece.is_reasoning
        console.print(piece.text, end="", markup=False, style="dim" if piece.is_reasoning else None, soft_wrap=True)
        answer += "" if piece.is_reasoning else piece.text
    console.print()
    return answer
