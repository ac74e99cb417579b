"""Weights & Biases, Trackio and SwanLab: their calls are the same, but for those that open a run."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple

Cell = str | float | int | None


class OpenedAs(NamedTuple):
    """What a run is opened as."""

    project: str
    """The run directory's name."""
    name: str
    """The cell's."""
    key: str
    """The cell's: a resumed one goes on in its own run."""
    folder: str
    """On this machine, for files of its library."""


def wandb_arguments(run: OpenedAs, environment: Mapping[str, str]) -> dict[str, Any]:
    """Arguments of `wandb.init`: offline where no key is set, since it would ask for one."""
    is_told = "WANDB_MODE" in environment or "WANDB_API_KEY" in environment
    mode = {} if is_told else {"mode": "offline"}
    return {"project": run.project, "name": run.name, "id": run.key, "resume": "allow", "dir": run.folder, **mode}


def trackio_arguments(run: OpenedAs, environment: Mapping[str, str]) -> dict[str, Any]:
    """Arguments of `trackio.init`: on this machine, unless `TRACKIO_SPACE_ID` names a space of the hub."""
    return {"project": run.project, "name": run.name, "resume": "allow", "embed": False}


def swanlab_arguments(run: OpenedAs, environment: Mapping[str, str]) -> dict[str, Any]:
    """Arguments of `swanlab.init`: offline where no key is set; it goes on in an earlier run only online."""
    is_told = "SWANLAB_MODE" in environment or "SWANLAB_API_KEY" in environment
    mode = {"id": run.key, "resume": "allow"} if is_told else {"mode": "offline"}
    return {"project": run.project, "name": run.name, "log_dir": run.folder, **mode}


ARGUMENTS: dict[str, Callable[[OpenedAs, Mapping[str, str]], dict[str, Any]]] = {
    "wandb": wandb_arguments,
    "trackio": trackio_arguments,
    "swanlab": swanlab_arguments,
}
"""Tracker, and name of its library -> how it opens a run."""


class LoggedRun:
    """A run of one of these trackers."""

    def __init__(self, tracker: str, run: OpenedAs) -> None:
        self._library = import_module(tracker)
        self._library.init(**ARGUMENTS[tracker](run, os.environ))

    def log(self, step: int, values: dict[str, float]) -> None:
        """Add the values of a step."""
        self._library.log(values, step=step)

    def table(self, name: str, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> None:
        """Show a table, in the form that the library has for one."""
        self._library.log({name: TABLES[self._library.__name__](self._library, columns, rows)})

    def close(self) -> None:
        """Write what is still buffered."""
        self._library.finish()


def wandb_table(library: Any, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Any:
    """A table of Weights & Biases."""
    return library.Table(columns=list(columns), data=[list(row) for row in rows])


def trackio_table(library: Any, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Any:
    """A table of Trackio, which takes data frames."""
    import pandas

    return library.Table(dataframe=pandas.DataFrame(list(rows), columns=list(columns)))


def swanlab_table(library: Any, columns: Sequence[str], rows: Sequence[Sequence[Cell]]) -> Any:
    """A table of SwanLab, which takes texts."""
    texts = [["" if value is None else str(value) for value in row] for row in rows]
    return library.echarts.Table().add(list(columns), texts)


TABLES = {"wandb": wandb_table, "trackio": trackio_table, "swanlab": swanlab_table}
