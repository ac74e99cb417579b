"""Asks a served student one question, or holds a conversation."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Console

from serve.client import Piece, chosen_mode, model_card, question_turns, stream_chat
from serve.errors import ServeError

NEW, QUIT = "/new", "/quit"
COMMAND = re.compile(r"/\w*")
HELP = f"Type a question; {NEW} starts a new conversation, {QUIT} or Ctrl-D quits."


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

    def card(self) -> dict[str, Any]:
        """Its metadata at the endpoint."""
        return model_card(self.url, self.model, self.api_key)

    def answer(self, turns: Sequence[Mapping[str, str]], card: Mapping[str, Any]) -> Iterator[Piece]:
        """Stream its next turn, in its mode."""
        mode = chosen_mode(card, self.mode) or None
        return stream_chat(self.url, self.model, turns, api_key=self.api_key, mode=mode, **self.sampling)


def ask_student(student: ServedStudent, problem: str, console: Console) -> int:
    """Print one streamed answer; reasoning that the server separates is dimmed."""
    card = student.card()
    show(student.answer(question_turns(problem, card), card), console)
    return 0


def chat(student: ServedStudent, console: Console, read: Callable[[str], str] = input) -> int:
    """A conversation until Ctrl-D; Ctrl-C stops an answer."""
    card = student.card()
    turns: list[Mapping[str, str]] = []
    console.print(f"{student.model} at {student.url}. {HELP}", markup=False)
    while (text := _next_question(read)) is not None:
        if text == NEW:
            turns = []
        if COMMAND.fullmatch(text) and text != NEW:
            console.print(f"{text} is no command. {HELP}", markup=False)
        if not text or COMMAND.fullmatch(text):
            continue
        sent = next_turns(turns, text, card)
        try:
            answer = show(student.answer(sent, card), console)
        except KeyboardInterrupt:
            console.print(" (stopped)")
            continue
        except ServeError as error:  # too long for the context, for example: what was said before is kept
            console.print(f"\n{error}", markup=False)
            continue
        turns = [*sent, {"role": "assistant", "content": answer}]
    return 0


def next_turns(turns: Sequence[Mapping[str, str]], text: str, card: Mapping[str, Any]) -> list[Mapping[str, str]]:
    """The conversation with one more question. Only the first has the model's own format, as in training."""
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
