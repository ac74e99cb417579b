"""A JSONL file through an endpoint: as many output lines as input lines, in their order, continued after a stop.

Answers are appended to `OUT.partial` as they come, each with its line's number and hash; the ordered file appears by
rename at the end. A row that failed is asked again by the next go.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from serve.client import question_turns
from serve.dataset_client import BatchConfig, Sender
from serve.errors import ServeError


class Line(NamedTuple):
    """One input row."""

    number: int
    sha256: str
    """Identity of the request that it makes; empty until it is known whom to ask."""
    row: dict[str, Any]


class Target(NamedTuple):
    """Whom to ask."""

    base_url: str
    model: str
    card: Mapping[str, Any]
    """The model's metadata: how it wants to be asked."""
    sampling: Mapping[str, Any]
    api_key: str


def read_lines(path: Path) -> list[Line]:
    """The rows of a JSONL file: objects with `problem` (a text, put as the model was trained) or `messages`.

    Raises:
        ServeError: a line is no such object.
    """
    try:
        texts = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ServeError(f"cannot read {path} ({error})") from error
    return [_line(path, number, text) for number, text in enumerate(texts) if text.strip()]


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
    """Answer every line of `source` into `out`; returns the numbers of rows and of those that failed.

    `on_progress` hears of rows done and in all. With more rows in flight than `config.max_in_flight` nothing is sent.

    Raises:
        ServeError: the source is no JSONL, or `out` would be the source.
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
    """Of all that is asked: another model, mode or sampling is another request."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def read_partial(path: Path) -> dict[tuple[int, str], dict[str, Any]]:
    """Answers of an earlier go by line number and hash, without failed ones; a torn last line is cut off the file."""
    if not path.exists():
        return {}
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        path.write_bytes(whole)
    entries = map(json.loads, whole.decode().splitlines())
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
            for line in rest:  # shared by all workers, so that no more rows than workers are in flight
                answer = (await sender.answer(request_row(line, target)))._asdict()
                done[line.number] = answer
                file.write(json.dumps({"line": line.number, "sha256": line.sha256, "answer": answer}) + "\n")
                file.flush()
                on_row()

        await asyncio.gather(*(work(todo) for _ in range(min(config.max_in_flight, len(lines)))))


def request_row(line: Line, target: Target) -> dict[str, Any]:
    """What the endpoint is asked for one input row; a `sampling` object of the row wins over the command's."""
    messages = line.row.get("messages") or question_turns(line.row["problem"], target.card)
    sampling = {**target.sampling, **(line.row.get("sampling") or {})}
    return {"model": target.model, "messages": messages, "sampling": sampling}


def _write_ordered(lines: list[Line], done: Mapping[int, Mapping[str, Any]], out: Path) -> None:
    temporary = out.with_name(f"{out.name}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        for line in lines:
            file.write(json.dumps({**line.row, **done[line.number]}, ensure_ascii=False) + "\n")
    temporary.replace(out)
