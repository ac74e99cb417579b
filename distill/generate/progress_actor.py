"""The Ray actor that all engines of a run report to: counts for the progress bar, token budgets, when to stop.

It reserves no CPU. Nothing that must survive a crash is kept here: that is on disk.
"""

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from distill.core.metrics import Value

MAX_STARTS = 20
"""Times that a batch may start, for whatever reason (a lost node, an engine that died), before it is given up."""
LOST_S = 60.0
"""An engine with work that has sent no heartbeat for so long counts as lost, until it sends one; seconds."""


class Snapshot(NamedTuple):
    """Progress of a generation at one moment."""

    engines: int
    """Engines that have started and are not known to be lost."""
    counts: dict[str, int]
    """prompts, traces, failed, correct, tokens, cached_tokens, prompt_tokens, and `solved POOL` for each pool."""
    complete: int
    """Prompts that every pool of the mixes solved, those of earlier sessions included."""
    is_full: bool
    """Whether enough prompts are complete."""
    busy_s: float
    """From the first batch to the newest report, seconds: without the time that engines take to start."""
    busy_engines: int = 0
    """Engines that have prompts to ask and sent a heartbeat within `LOST_S`."""
    silent_s: float = 0.0
    """Since the last heartbeat of any engine, seconds; before the first one, since the actor started."""


class ProgressActor:
    """The actor's state. Every method returns at once: one actor serves all engines of a run."""

    def __init__(self, *, complete: int, enough_prompts: int | None, spent_tokens: dict[str, int]) -> None:
        self.complete, self.enough_prompts = complete, enough_prompts
        self.spent_tokens = Counter(spent_tokens)
        self.counts: Counter[str] = Counter()
        self.engines = 0
        self._first_s = self._last_s = 0.0
        self._last_heartbeat_s = time.monotonic()
        self._work: dict[str, tuple[float, int]] = {}
        self._starts: Counter[str] = Counter()
        self._deaths: Counter[str] = Counter()

    def engine_ready(self) -> None:
        """An engine has started."""
        self.engines += 1
        self._last_heartbeat_s = time.monotonic()

    def heartbeat(self, engine: str, num_batches: int) -> None:
        """An engine is alive and works on so many batches."""
        self._last_heartbeat_s = time.monotonic()
        self._work[engine] = (self._last_heartbeat_s, num_batches)

    def start_batch(self, batch: str) -> tuple[int, int]:
        """Record that a batch starts; returns (its starts so far, how many of them ended with the engine's death)."""
        self._starts[batch] += 1
        self._first_s = self._first_s or time.monotonic()
        return self._starts[batch], self._deaths[batch]

    def is_newest(self, batch: str, start: int) -> bool:
        """Whether this is the batch's latest start: an engine whose host was cut off may still run an earlier one."""
        return self._starts[batch] == start

    def engine_died(self, engine: str, batches: list[str]) -> None:
        """An engine died while it worked on these batches; each of them may be the cause."""
        self.engines -= 1
        self._work.pop(engine, None)
        self._deaths.update(batches)

    def add(self, counts: dict[str, int], complete: int) -> None:
        """Add the counts since the engine's last report, and the prompts that became complete."""
        self.counts.update(counts)
        self._last_s = time.monotonic()
        self.complete += complete

    def spend(self, pool: str, tokens: int) -> None:
        """Record completion tokens that an endpoint was paid for."""
        self.spent_tokens[pool] += tokens

    def spent(self, pool: str) -> int:
        """Completion tokens that a pool has cost so far, earlier sessions included."""
        return self.spent_tokens[pool]

    def is_full(self) -> bool:
        """Whether enough prompts are complete."""
        return self.enough_prompts is not None and self.complete >= self.enough_prompts

    def snapshot(self) -> Snapshot:
        """The progress now."""
        now = time.monotonic()
        silences_s = [now - heartbeat_s for heartbeat_s, num_batches in self._work.values() if num_batches]
        lost = sum(silence_s >= LOST_S for silence_s in silences_s)
        return Snapshot(
            engines=max(0, self.engines - lost),
            counts=dict(self.counts),
            complete=self.complete,
            is_full=self.is_full(),
            busy_s=self._busy_s(),
            busy_engines=len(silences_s) - lost,
            silent_s=now - self._last_heartbeat_s,
        )

    def _busy_s(self) -> float:
        return max(0.0, self._last_s - self._first_s)


def start_progress_actor(**state: Any) -> Any:
    """Start the actor on the driver's node, since another node could be lost during the run; returns its handle."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(ProgressActor).options(num_cpus=0, scheduling_strategy=here).remote(**state)


def generate_values(snapshot: Snapshot, num_open: int, num_teachers: int) -> Iterator[Value]:
    """The generate stage's metrics. `num_open`: prompts that were open when this session began."""
    counts = snapshot.counts
    yield Value("distill_engines", snapshot.engines)
    yield Value("distill_busy_engines", snapshot.busy_engines)
    yield Value("distill_traces", counts.get("traces", 0))
    yield Value("distill_correct_traces", counts.get("correct", 0))
    yield Value("distill_failed_requests", counts.get("failed", 0))
    yield Value("distill_completion_tokens", counts.get("tokens", 0))
    yield Value("distill_complete_prompts", snapshot.complete)
    yield Value("distill_open_prompts", max(0.0, num_open - counts.get("prompts", 0) / num_teachers))
    yield Value("distill_generate_busy_seconds", snapshot.busy_s)
    for name, number in counts.items():
        if name.startswith("solved "):
            yield Value("distill_solved_prompts", number, {"pool": name.removeprefix("solved ")})
