"""Limits of the design's scale, and how near a run comes to them. Pure.

Each figure says whether it was measured (`python -m tests.benchmarks.scale --part rows` measures those of the driver
and the progress actor again) or is an estimate. They are per prompt or trace of a run, whatever the texts' length.
"""

from __future__ import annotations

from typing import NamedTuple

from cluster.units import GIB
from distill.generate.asker import REPORT_S
from distill.generate.chunks import CHUNK_ROWS

NEAR_SHARE = 0.5
"""Share of a limit from which it is reported."""
DRIVER_BASE_GIB = 1.0
"""Of the driver with Ray and vLLM imported; the quickstart's takes 0.8 to 0.9 (seen 2026-11-25)."""
DRIVER_PROMPT_BYTES = 340.0
"""Of the driver per prompt until teachers have written, Ray Data's part included: what each of 900,000 more prompts
added on three local nodes (measured 2026-11-28). Most of it are waiting chunks."""
DRIVER_TRACE_BYTES = 660.0
"""Of the driver per trace at most: 484 for the index that generation begins with and 173 for the one it ends with,
resident growth over 128,000 traces in shards of 32 rows (measured 2026-11-25)."""
FILES = 1_000_000
"""Shards of one folder that can still be listed in a minute. An estimate; a local disk lists 4,000 in under 0.1 s."""
REPORTS_PER_S = 2_000.0
"""Progress reports that the one progress actor handles. An estimate. An engine sends one a second and one at the end of
each batch."""
BLOCKS = 1_000_000
"""Blocks of one Ray Data job, of which the driver keeps a reference each. An estimate."""


class ScalingLimit(NamedTuple):
    """A resource whose use grows with a run."""

    name: str
    used: float
    most: float
    remedy: str

    @property
    def share(self) -> float:
        """Used share of the limit."""
        return self.used / self.most


def scaling_limits(
    *, prompts: float, traces: float, engines: float, write_s: float | None, driver_gib: float
) -> list[ScalingLimit]:
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
        ScalingLimit("memory of the driver, GiB", driver, driver_gib, "a head node with more memory, or several runs"),
        ScalingLimit("shards of one pool", prompts / CHUNK_ROWS, FILES, "several runs, or an object store"),
        ScalingLimit("blocks of one Ray Data job", prompts / CHUNK_ROWS, BLOCKS, "several runs"),
    ]
    if write_s:
        reports = engines / REPORT_S + prompts / CHUNK_ROWS / write_s
        found.append(
            ScalingLimit("progress reports per second", reports, REPORTS_PER_S, "fewer engines, or several runs")
        )
    return sorted(found, key=lambda limit: -limit.share)
