"""Manifests: the completion record of a stage, or of an item of one."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Manifest:
    """The completion record of a stage or an item of it. Rows in = rows out + dropped."""

    stage: str
    key: str
    """Content hash of everything the result depends on."""
    rows_in: int = 0
    rows_out: int = 0
    drops: Mapping[str, int] = field(default_factory=dict)
    wall_s: float = 0.0
    code_version: str = ""
    finished_at: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)
    """What the stage wants the report to know: counts, token totals, solve rates, realised weights."""

    def __post_init__(self) -> None:
        assert self.rows_in == self.rows_out + sum(self.drops.values()), (
            f"{self.stage}: {self.rows_in} rows in, {self.rows_out} out, drops {dict(self.drops)} do not add up"
        )


def now() -> str:
    """The time as manifests write it: UTC, ISO 8601, seconds."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
