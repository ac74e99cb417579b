"""What stops the design from growing, and how near a run comes to it. Pure.

The figures are measured by `python -m tests.benchmarks.scale` (distill/recipes/README.md says when and where), not
derived; they are per prompt or trace of a run, whatever the length of its texts.
"""

from __future__ import annotations

from typing import NamedTuple

from distill.generate import CHUNK_ROWS
from distill.teachers.ask import REPORT_S

GIB = 2**30
NEAR = 0.5
"""Share of a limit from which it is told."""
DRIVER_BASE_GIB = 1.0
DRIVER_PROMPT_BYTES = 250.0
"""Of the driver per prompt while teachers write: blocks, references and the ids of what is on disk."""
DRIVER_TRACE_BYTES = 700.0
"""Of the driver per trace when a stage ends and counts it (`verify.read_index` makes a row of each)."""
FILES = 1_000_000
"""Shards of one folder that are still listed in seconds on a shared file system."""
REPORTS_PER_S = 2_000.0
"""Progress reports that the one tally actor takes. An engine sends one a second, and one at the end of each batch."""
BLOCKS = 1_000_000
"""Blocks of one Ray Data job, of which the driver keeps a reference each."""


class Limit(NamedTuple):
    """One thing that grows with a run."""

    name: str
    used: float
    most: float
    remedy: str

    @property
    def share(self) -> float:
        """Used of what there is."""
        return self.used / self.most


def limits(*, prompts: float, traces: float, engines: float, write_s: float | None, driver_gib: float) -> list[Limit]:
    """All limits of a run, the nearest first.

    Args:
        prompts: of the run.
        traces: of all pools.
        engines: of the teachers, together.
        write_s: seconds that the teachers write; None where not known.
        driver_gib: memory of the driver's machine.
    """
    driver = DRIVER_BASE_GIB + (prompts * DRIVER_PROMPT_BYTES + traces * DRIVER_TRACE_BYTES) / GIB
    found = [
        Limit("memory of the driver, GiB", driver, driver_gib, "a head node with more memory, or several runs"),
        Limit("shards of one pool", prompts / CHUNK_ROWS, FILES, "several runs, or an object store"),
        Limit("blocks of one Ray Data job", prompts / CHUNK_ROWS, BLOCKS, "several runs"),
    ]
    if write_s:
        reports = engines / REPORT_S + prompts / CHUNK_ROWS / write_s
        found.append(Limit("progress reports per second", reports, REPORTS_PER_S, "fewer engines, or several runs"))
    return sorted(found, key=lambda limit: -limit.share)
