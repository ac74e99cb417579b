"""Terminal output: progress bars, plain lines if there is no terminal, and the output of libraries in a file."""

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

FILE_COLUMNS = 160
LINE_EVERY_S = 20.0
"""Without a terminal (a Ray job, CI) a long step prints a line at this interval."""


class Bars:
    """Progress of one long step, with one bar per item."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._progress = Progress(
            TextColumn("  {task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("[dim]{task.fields[message]}"),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}
        self._printed_at: dict[str, float] = {}

    def update(self, name: str, done: float, total: float, message: str = "") -> None:
        """Show that `done` of `total` are done, with a message beside the bar."""
        if name not in self._tasks:
            self._tasks[name] = self._progress.add_task(name, total=total, message=message)
        self._progress.update(self._tasks[name], completed=done, total=total, message=message)
        printed_at = self._printed_at.setdefault(name, time.monotonic())
        is_due = time.monotonic() - printed_at > LINE_EVERY_S or done >= total
        if not self._console.is_terminal and is_due:
            self._printed_at[name] = time.monotonic()
            self._console.print(f"  {name}: {done:g}/{total:g} {message}", highlight=False)


@contextmanager
def bars(console: Console) -> Iterator[Bars]:
    """Progress bars while the block runs."""
    shown = Bars(console)
    if console.is_terminal:
        with shown._progress:
            yield shown
    else:
        yield shown


@contextmanager
def quiet(log_file: Path) -> Iterator[Console]:
    """Redirect all output to `log_file`, even of C code and child processes; yield a console on the real terminal."""
    log_file.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    saved = os.dup(1), os.dup(2)
    with open(log_file, "a", buffering=1) as log, _text_stream(os.dup(saved[0])) as terminal:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
        try:
            is_terminal = terminal.isatty()
            # A file has no width, and the one that rich assumes would truncate tables.
            width = None if is_terminal else FILE_COLUMNS
            yield Console(file=terminal, highlight=False, soft_wrap=not is_terminal, width=width)
        finally:
            for stream in (sys.stdout, sys.stderr):
                with suppress(OSError):  # the log's disk is full: what is said next has to reach the terminal
                    stream.flush()
            for number, descriptor in enumerate(saved, 1):
                os.dup2(descriptor, number)
                os.close(descriptor)


def _text_stream(descriptor: int) -> TextIO:
    return os.fdopen(descriptor, "w", buffering=1, encoding="utf-8")
