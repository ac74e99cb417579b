"""Sends a JSONL file to an endpoint: one output line per input line, in the same order; resumable.

Answers are appended to `OUT.partial` as they arrive, each with its line's number and the hash of its request; the
ordered file, whose rows have that hash too, is renamed into place at the end. The next run asks only what has no answer
yet: new, changed and failed rows, or all of them in another way.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from serve.client import chosen_mode, question_turns
from serve.dataset_client import Answer, BatchConfig, Sender
from serve.errors import ServeError

REQUEST_HASH = "request_sha256"
"""Column of the output: the hash of the whole request."""


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
    except (json.JSONDecodeError, RecursionError) as error:
        raise ServeError(f"{path}, line {number + 1} is not JSON: {error}") from error
    if not isinstance(row, dict) or not (isinstance(row.get("problem"), str) or isinstance(row.get("messages"), list)):
        raise ServeError(f"{path}, line {number + 1} has neither `problem` (a text) nor `messages` (chat turns)")
    return Line(number, "", row)


class FileAnswers(NamedTuple):
    """How many rows there are, and of them."""

    rows: int
    asked: int
    """Rows that had no answer yet."""
    failed: int


def answer_file(
    source: Path, out: Path, target: Target, config: BatchConfig, on_progress: Callable[[int, int], None]
) -> FileAnswers:
    """Answer every line of `source` into `out`; what has its answer there, or beside it, is not asked again.

    Args:
        source: a JSONL file (`read_lines`).
        out: the output file.
        target: the model that answers.
        config: how requests are sent.
        on_progress: called with the number of finished rows and of all rows.

    Raises:
        ServeError: the source is not valid, `out` is the source, or it cannot be written.
    """
    _validate_output(source, out)
    lines = read_lines(source)
    partial = out.with_name(f"{out.name}.partial")
    lines = [line._replace(sha256=_identity(request_row(line, target))) for line in lines]
    earlier = read_finished(out, lines) | read_partial(partial)
    done = {line.number: kept for line in lines if (kept := earlier.get((line.number, line.sha256)))}
    num_asked = len(lines) - len(done)
    on_progress(len(done), len(lines))
    try:
        if num_asked:
            asyncio.run(_answer_rest(lines, done, partial, target, config, lambda: on_progress(len(done), len(lines))))
        _write_ordered(lines, done, out)
    except OSError as error:
        raise ServeError(f"cannot write {out} ({error}): the same command continues") from error
    failed = sum(bool(answer["error"]) for answer in done.values())
    if not failed:
        partial.unlink(missing_ok=True)
    return FileAnswers(len(lines), num_asked, failed)


def _validate_output(source: Path, out: Path) -> None:
    if source.resolve() == out.resolve():
        raise ServeError(f"{out} is the input: choose another name for the output")
    if out.is_dir():
        raise ServeError(f"{out} is a folder: name a file for the output")
    if not out.parent.is_dir():
        raise ServeError(f"{out}: there is no folder {out.parent}: create it, or choose another place for the output")


def _identity(request: Mapping[str, Any]) -> str:
    """Hash of the whole request: another model, mode or sampling is another request."""
    return hashlib.sha256(json.dumps(request, sort_keys=True).encode()).hexdigest()


def read_partial(path: Path) -> dict[tuple[int, str], dict[str, Any]]:
    """Successful answers of an earlier run by line number and hash; removes an incomplete last line from the file.

    Raises:
        ServeError: this command did not write it.
    """
    if not path.exists():
        return {}
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        path.write_bytes(whole)
    try:
        entries = [json.loads(line) for line in split_lines(whole.decode()) if line]
        return {(entry["line"], entry["sha256"]): entry["answer"] for entry in entries if not entry["answer"]["error"]}
    except (ValueError, KeyError, TypeError) as error:
        raise ServeError(f"{path} holds no answers of this command: move it away, or choose another output") from error


def read_finished(out: Path, lines: Sequence[Line]) -> dict[tuple[int, str], dict[str, Any]]:
    """Successful answers in the output of an earlier run, by their line's number now and the hash of their request.

    Empty where there is none, or where it is no output of this command, which would be replaced.
    """
    try:
        rows = [json.loads(line) for line in split_lines(out.read_bytes().decode()) if line]
        return {
            (line.number, row[REQUEST_HASH]): {name: row[name] for name in Answer._fields}
            for line, row in zip(lines, rows, strict=False)
            if not row["error"]
        }
    except (OSError, ValueError, KeyError, TypeError):
        return {}


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
    """The request for one input row; the row's own `sampling`, `mode` included, takes precedence over the command's.

    What cannot be sent stays as it is: it becomes the row's error (`row_problem`).
    """
    problem = line.row.get("problem")
    turns = line.row.get("messages") or (question_turns(problem, target.card) if isinstance(problem, str) else [])
    own = line.row.get("sampling") or {}
    mode = chosen_mode(target.card) or None
    sampling = {**target.sampling, "mode": mode, **own} if isinstance(own, dict) else own
    return {"model": target.model, "messages": turns, "sampling": sampling}


def _write_ordered(lines: list[Line], done: Mapping[int, Mapping[str, Any]], out: Path) -> None:
    temporary = out.with_name(f"{out.name}.tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        for line in lines:
            file.write(_json_line({**line.row, **done[line.number], REQUEST_HASH: line.sha256}) + "\n")
    temporary.replace(out)


def _json_line(row: Mapping[str, Any]) -> str:
    """A row as JSON with its characters as they are; as escapes where one of them is half of a pair, which UTF-8 does
    not have."""
    text = json.dumps(row, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        return json.dumps(row)
    return text
