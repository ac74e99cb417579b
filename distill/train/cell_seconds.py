"""What the seconds of a finished cell were spent on, from its manifest."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple


class CellSeconds(NamedTuple):
    """Seconds of one cell: steps, writing, scoring and starts of all of its attempts, the rest of the last one."""

    train: float
    """Of the steps."""
    write: float
    """In which its student wrote its own answers."""
    score: float
    """In which teachers scored them."""
    starts: float
    """Of the engines and processes for both."""
    rest: float
    """Of workers, weights, checkpoints and saving."""


def cell_seconds(recorded: Mapping[str, Any]) -> CellSeconds | None:
    """The seconds of a cell; None where they were not recorded. `recorded`: details of its manifest."""
    if "steps_s" not in recorded:
        return None
    seconds, rounds = recorded["seconds"], recorded.get("rounds", {})
    rollouts = recorded.get("rollouts", {}).get("seconds", {})
    wrote_s, started_s = rounds.get("write_s", 0.0), rounds.get("start_s", 0.0)
    others = sum(value for name, value in seconds.items() if name not in ("train", "rollouts"))
    return CellSeconds(
        train=recorded["steps_s"],
        write=rollouts.get("write", 0.0) + wrote_s,
        score=sum(value for name, value in rollouts.items() if name.startswith("score_")),
        starts=rollouts.get("starts", 0.0) + started_s,
        # A cell that was resumed has steps, and rounds, from before its last attempt.
        rest=others + max(0.0, seconds["train"] - recorded["steps_s"] - wrote_s - started_s),
    )
