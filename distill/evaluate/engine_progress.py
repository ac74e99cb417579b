"""Tells on the terminal how far the engines are that start."""

from collections.abc import Callable

from rich.console import Console

from serve.deploy import Progress, is_news

TOLD_EVERY_S = 15.0
"""Longest silence while engines start, seconds."""


def told_on(console: Console) -> Callable[[Progress], None]:
    """Tells when an engine is ready and when a step begins, and every few seconds which engines are not ready."""
    told: list[Progress] = []

    def tell(progress: Progress) -> None:
        if is_news(progress, told[-1] if told else None, TOLD_EVERY_S):
            told[:] = [progress]
            console.print(f"  [dim]{progress.line}[/]", highlight=False)

    return tell
