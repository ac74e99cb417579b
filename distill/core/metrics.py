"""What a run tells Prometheus while it works: Ray's agent on every node offers it beside Ray's and vLLM's own values.

`cluster/grafana.json` shows them. Values are those of the progress bars; what must last is in the manifests, not here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from ray.util.metrics import Gauge


METRICS: dict[str, tuple[str, tuple[str, ...]]] = {
    "distill_engines": ("Teachers' engines that are up", ()),
    "distill_busy_engines": ("Of them those that have prompts to ask; far fewer than all of them is a tail", ()),
    "distill_traces": ("Traces written in this session", ()),
    "distill_correct_traces": ("Of them those that the verifier accepts", ()),
    "distill_failed_requests": ("Requests that were given up", ()),
    "distill_completion_tokens": ("Tokens of the traces of this session", ()),
    "distill_solved_prompts": ("Prompts that a pool solved in this session", ("pool",)),
    "distill_complete_prompts": ("Prompts that every pool of the mixes solved, earlier sessions included", ()),
    "distill_open_prompts": ("Prompts that teachers are still to be asked for", ()),
    "distill_generate_busy_seconds": ("From the first batch to the newest report", ()),
    "distill_cell_step": ("Optimiser steps that a cell has taken", ("cell",)),
    "distill_cell_num_steps": ("Optimiser steps that a cell will take", ("cell",)),
    "distill_cell_loss": ("Training loss of a cell", ("cell",)),
    "distill_cell_tokens_per_second": ("Supervised tokens that a cell trains on per second", ("cell",)),
}
"""Name -> (help, labels beside `run`)."""


class Value(NamedTuple):
    """One value now."""

    metric: str
    value: float
    labels: Mapping[str, str] = {}


def publish(run: str, values: Iterator[Value]) -> None:
    """Hand values to the node's agent. Ray must be connected."""
    for one in values:
        _gauge(one.metric).set(one.value, {"run": run, **one.labels})


@cache
def _gauge(name: str) -> Gauge:
    from ray.util.metrics import Gauge

    text, labels = METRICS[name]
    return Gauge(name, description=text, tag_keys=("run", *labels))
