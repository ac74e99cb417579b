"""`distill ask`: one question, a conversation, or a file of questions, to a served student."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from distill.errors import StageError
from distill.terminal import bars
from serve.client import Piece, model_card, question_turns, stream_chat
from serve.modes import mode_line

NEW, QUIT = "/new", "/quit"
HELP = f"Ask away; {NEW} forgets the conversation, {QUIT} or Ctrl-D ends it."


def ask_student(
    url: str, model: str, problem: str, *, api_key: str, sampling: Mapping[str, Any], console: Console
) -> int:
    """One streamed answer; what the server keeps apart as reasoning is shown dimmed."""
    mode, rest = _without_mode(sampling)
    turns = question_turns(problem, model_card(url, model, api_key), mode)
    show(stream_chat(url, model, turns, api_key=api_key, **rest), console)
    return 0


def chat(
    url: str,
    model: str,
    *,
    api_key: str,
    sampling: Mapping[str, Any],
    console: Console,
    read: Callable[[str], str] = input,
) -> int:
    """A conversation until Ctrl-D; Ctrl-C ends an answer."""
    card, (mode, rest) = model_card(url, model, api_key), _without_mode(sampling)
    turns: list[Mapping[str, str]] = []
    console.print(f"{model} at {url}. {HELP}", markup=False)
    while (text := _next_question(read)) is not None:
        if text == NEW:
            turns = []
        if text in ("", NEW):
            continue
        asked = next_turns(turns, text, card, mode)
        try:
            answer = show(stream_chat(url, model, asked, api_key=api_key, **rest), console)
        except KeyboardInterrupt:
            console.print(" (stopped)")
            continue
        turns = [*asked, {"role": "assistant", "content": answer}]
    return 0


def _without_mode(sampling: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The mode is put into the first turns here; what is left goes with the request."""
    return sampling.get("mode") or "", {key: value for key, value in sampling.items() if key != "mode"}


def next_turns(
    turns: Sequence[Mapping[str, str]], text: str, card: Mapping[str, Any], mode: str = ""
) -> list[Mapping[str, str]]:
    """The conversation with one more question. Only the first is put in the model's own format, as in training."""
    return [*turns, {"role": "user", "content": text}] if turns else [*question_turns(text, card, mode)]


def _next_question(read: Callable[[str], str]) -> str | None:
    try:
        text = read("\n> ").strip()
    except (EOFError, KeyboardInterrupt):
        return None
    return None if text == QUIT else text


def show(pieces: Iterable[Piece], console: Console) -> str:
    """Print pieces as they come; the answer without the reasoning."""
    answer, was_reasoning = "", False
    for piece in pieces:
        if was_reasoning and not piece.is_reasoning:
            console.print()
        was_reasoning = piece.is_reasoning
        console.print(piece.text, end="", markup=False, style="dim" if piece.is_reasoning else None, soft_wrap=True)
        answer += "" if piece.is_reasoning else piece.text
    console.print()
    return answer


def ask_file(
    url: str, model: str, source: Path, out: Path, *, api_key: str, sampling: Mapping[str, Any], console: Console
) -> int:
    """Answer a JSONL file; the same command continues one that was stopped.

    Raises:
        StageError: some rows failed; they are in the output with their reasons.
    """
    from serve.batch import BatchConfig
    from serve.file import Target, answer_file

    card, (mode, rest) = model_card(url, model, api_key), _without_mode(sampling)
    if mode:
        card["modes"] = {mode: mode_line(card.get("modes") or {}, mode)}
    target = Target(url, model, card, {"temperature": 0.0, "seed": 0, **rest}, api_key)
    with bars(console) as shown:
        total, failed = answer_file(
            source, out, target, BatchConfig(), lambda done, total: shown.update(model, done, total)
        )
    console.print(f"{total} rows in {out}", markup=False)
    if failed:
        raise StageError(f"{failed} of them have no completion but an `error` -> the same command asks these again")
    return 0
