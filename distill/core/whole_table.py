"""Prints a table as wide as it is."""

from __future__ import annotations

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

WIDEST = 1000
"""Characters of a line at most."""


def print_whole(table: Table, console: Console) -> None:
    """Print a table as wide as it is: rich would cut numbers on a narrow terminal, which wraps lines instead."""
    needed = Measurement.get(console, console.options.update(max_width=WIDEST), table).maximum
    width = console.width
    console.width = max(width, needed)
    console.print(table, crop=False)
    console.width = width
