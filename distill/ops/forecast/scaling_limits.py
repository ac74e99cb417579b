"""What stops the design from growing, and how near a run comes to it. Pure.

Each figure says whether it was measured (`python -m tests.benchmarks.scale --part rows` measures those of the driver
and the tally anew) or is an estimate. They are per prompt or trace of a run, whatever the length of its texts.
"""

from __future__ import annotations

from typing import NamedTuple

from distill.generate.asker import CHUNK_ROWS, REPORT_S

GIB = 2**30
NEAR = 0.5
"""Share of a limit from which it is told."""
DRIVER_BASE_GIB = 1.0
"""Of the driver with Ray and vLLM imported; the quickstart's takes 0.8 to 0.9 (seen 2026-11-25)."""
DRIVER_PROMPT_BYTES = 340.0
"""Of the driver per prompt until teachers have written, Ray Data's part included: what each of 900,000 more prompts
added on three local nodes (measured 2026-11-28). Most of it are the chunks that wait."""
DRIVER_TRACE_BYTES = 660.0
"""Of the driver per trace at most: 484 for the index that generation begins with and 173 for the one it ends with,
resident growth over 128,000 traces in shards of 32 rows (measured 2026-11-25)."""
FILES = 1_000_000
"""Shards of one folder that are still listed in a minute. An estimate; a local disk lists 4,000 in under 0.1 s."""
REPORTS_PER_S = 2_000.0
"""Progress reports that the one tally actor takes. An estimate. An engine sends one a second and one at the end of each
batch."""
BLOCKS = 1_000_000
"""Blocks of one Ray Data job, of which the driver keeps a reference each. An estimate."""


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
