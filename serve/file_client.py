"""Sends a JSONL file to an endpoint: one output line per input line, in the same order; resumable.

Answers are appended to `OUT.partial` as they arrive, each with its line's number and hash; the ordered file is renamed
into place at the end. The next run sends failed rows again.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from serve.client import chosen_mode, question_turns
from serve.dataset_client import BatchConfig, Sender
from serve.errors import ServeError


class Line(NamedTuple):
    """One input row."""

    number: int
    sha256: str
    """Hash of its request; empty until the request is known."""
    row: dict[str, Any]


class Target(NamedTuple):
    """The model that answers, and how."""

    base_url: str
    model: str
    card: Mapping[str, Any]
    """The model's metadata, with the format of its prompts."""
    sampling: Mapping[str, Any]
    api_key: str


def read_lines(path: Path) -> list[Line]:
    """The rows of a JSONL file: objects with `problem` (text, formatted as in training) or `messages`.

    Raises:
        ServeError: the file cannot be read, or a line is no such object.
    """
    try:
        texts = split_lines(path.read_bytes().decode("utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise ServeError(f"cannot read {path} ({error})") from error
    return [_line(path, number, text) for number, text in enumerate(texts) if text.strip()]


def split_lines(text: str) -> list[str]:
    """The lines of JSON Lines text. Only a line feed ends one: JSON text may hold U+2028 and other characters that
    `str.splitlines` takes for line ends."""
    return text.removesuffix("\n").split("\n")


def _line(path: Path, number: int, text: str) -> Line:
    try:
        row = json.loads(text)
    except json.JSONDecodeError as error:
        raise ServeError(f"{path}, line {number + 1} is not JSON: {error}") from error
    if not isinstance(row, dict) or not (isinstance(row.get("problem"), str) or isinstance(row.get("messages"), list)):
        raise ServeError(f"{path}, line {number + 1} has neither `problem` (a text) nor `messages` (chat turns)")
    return Line(number, "", row)


def answer_file(
    source: Path, out: Path, target: Target, config: BatchConfig, on_progress: Callable[[int, int], None]
) -> tuple[int, int]:
    """Answer every line of `source` into `out`; returns the number of rows and of failed ones.

    Args:
        source: a JSONL file (`read_lines`).
        out: the output file.
        target: the model that answers.
        config: how requests are sent.
        on_progress: called with the number of finished rows and of all rows.

    Raises:
        ServeError: the source is not valid, or `out` is the source.
    """
    if source.resolve() == out.resolve():
        raise ServeError(f"{out} is the input: choose another name for the output")
    lines = read_lines(source)
    partial = out.with_name(f"{out.name}.partial")
    earlier = read_partial(partial)
    lines = [line._replace(sha256=_identity(request_row(line, target))) for line in lines]
    done = {line.number: kept for line in lines if (kept := earlier.get((line.number, line.sha256)))}
    on_progress(len(done), len(lines))
    asyncio.run(_answer_rest(lines, done, partial, target, config, lambda: on_progress(len(done), len(lines))))
    _write_ordered(lines, done, out)
    failed = sum(bool(answer["error"]) for answer in done.values())
    if not failed:
        partial.unlink(missing_ok=True)
    return len(lines), failed


def _identity(request: Mapping[str, Any]) -> str:
    """Hash of the whole request: another model, mode or sampling is another request."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def read_partial(path: Path) -> dict[tuple[int, str], dict[str, Any]]:
    """Successful answers of an earlier run by line number and hash; removes an incomplete last line from the file."""
    if not path.exists():
        return {}
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        path.write_bytes(whole)
    entries = map(json.loads, filter(None, split_lines(whole.decode())))
    return {(entry["line"], entry["sha256"]): entry["answer"] for entry in entries if not entry["answer"]["error"]}


async def _answer_rest(
    lines: list[Line],
    done: dict[int, dict[str, Any]],
    partial: Path,
    target: Target,
    config: BatchConfig,
    on_row: Callable[[], None],
) -> None:
    sender = Sender(target.base_url, config, target.api_key)
    todo = iter([line for line in lines if line.number not in done])
    with open(partial, "a", encoding="utf-8") as file:

        async def work(rest: Iterator[Line]) -> None:
            for line in rest:  # shared by all workers, so there are never more rows in flight than workers
                answer = (await sender.answer(request_row(line, target)))._asdict()
                done[line.number] = answer
                file.write(json.dumps({"line": line.number, "sha256": line.sha256, "answer": answer}) + "\n")
                file.flush()
                on_row()

        await asyncio.gather(*(work(todo) for _ in range(min(config.max_in_flight, len(lines)))))


def request_row(line: Line, target: Target) -> dict[str, Any]:
    """The request for one input row; the row's own `sampling`, `mode` included, takes precedence over the command's."""
    messages = line.row.get("messages") or question_turns(line.row["problem"], target.card)
    mode = chosen_mode(target.card) or None
    sampling = {**target.sampling, "mode": mode, **(line.row.get("sampling") or {})}
    return {"model": target.model, "messages": messages, "sampling": sampling}


def _write_ordered(lines: list[Line], done: Mapping[int, Mapping[str, Any]], out: Path) -> None:
    temporary = out.with_name(f"{out.name}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps({**line.row, **done[line.number]}, ensure_ascii=False) + "\n")
    temporary.replace(out)
