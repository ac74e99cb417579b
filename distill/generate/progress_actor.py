"""What the engines of one run share while they work: counts for the progress bar, budgets, and when to stop.

One small Ray actor that needs no CPU of its own. Nothing that must survive a crash is kept here: the disk has that.
"""

import time
from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

from distill.core.metrics import Value

MAX_STARTS = 20
"""Times that a batch may start over for any reason (a node that goes, an engine that dies) before it is given up."""


LOST_S = 60.0
"""An engine with work that has not been heard of for so long counts as gone, until it is heard of again; seconds."""


class Snapshot(NamedTuple):
    """How far a run is."""

    engines: int
    """Engines that came up and are not known to be gone."""
    counts: dict[str, int]
    """prompts, traces, failed, correct, tokens, cached_tokens, prompt_tokens, and `solved POOL` for each pool."""
    complete: int
    """Prompts that every pool of the mixes solved, those of earlier sessions included."""
    is_full: bool
    busy_s: float
    """From the first batch to the newest report, seconds: the engines' time without their start."""
    busy_engines: int = 0
    """Engines that have prompts to ask and were heard of within `LOST_S`."""
    silent_s: float = 0.0
    """Since any engine was heard of, seconds; before the first, since the beginning."""


class Tally:
    """State of the actor; every method is quick."""

    def __init__(self, *, complete: int, enough_prompts: int | None, spent_tokens: dict[str, int]) -> None:
        self.complete, self.enough_prompts = complete, enough_prompts
        self.spent_tokens = Counter(spent_tokens)
        self.counts: Counter[str] = Counter()
        self.engines = 0
        self._first_s = self._last_s = 0.0
        self._heard_s = time.monotonic()
        self._work: dict[str, tuple[float, int]] = {}
        self._starts: Counter[str] = Counter()
        self._deaths: Counter[str] = Counter()

    def engine_ready(self) -> None:
        """An engine is up."""
        self.engines += 1
        self._heard_s = time.monotonic()

    def hear(self, engine: str, num_batches: int) -> None:
        """An engine lives and has so many batches in work."""
        self._heard_s = time.monotonic()
        self._work[engine] = (self._heard_s, num_batches)

    def begin(self, batch: str) -> tuple[int, int]:
        """A batch starts: (how often it has started by now, how often its engine died under it)."""
        self._starts[batch] += 1
        self._first_s = self._first_s or time.monotonic()
        return self._starts[batch], self._deaths[batch]

    def is_newest(self, batch: str, start: int) -> bool:
        """Whether nobody has started the batch since: an engine whose host was cut off and given up may still run."""
        return self._starts[batch] == start

    def engine_died(self, engine: str, batches: list[str]) -> None:
        """The engine under these batches died; each of them may be what killed it."""
        self.engines -= 1
        self._work.pop(engine, None)
        self._deaths.update(batches)

    def add(self, counts: dict[str, int], complete: int) -> None:
        """Progress since the last report, and prompts that became complete by it."""
        self.counts.update(counts)
        self._last_s = time.monotonic()
        self.complete += complete

    def spend(self, pool: str, tokens: int) -> None:
        """Completion tokens that an endpoint was paid for."""
        self.spent_tokens[pool] += tokens

    def spent(self, pool: str) -> int:
        """Completion tokens that a pool has cost so far, earlier sessions included."""
        return self.spent_tokens[pool]

    def is_full(self) -> bool:
        """Whether enough prompts are complete."""
        return self.enough_prompts is not None and self.complete >= self.enough_prompts

    def snapshot(self) -> Snapshot:
        """How far the run is."""
        now = time.monotonic()
        silent_s = [now - heard_s for heard_s, num_batches in self._work.values() if num_batches]
        lost = sum(seconds >= LOST_S for seconds in silent_s)
        return Snapshot(
            engines=max(0, self.engines - lost),
            counts=dict(self.counts),
            complete=self.complete,
            is_full=self.is_full(),
            busy_s=self._busy_s(),
            busy_engines=len(silent_s) - lost,
            silent_s=now - self._heard_s,
        )

    def _busy_s(self) -> float:
        return max(0.0, self._last_s - self._first_s)


def start_tally(**state: Any) -> Any:
    """The actor's handle. It lives beside the driver: on another node it could be lost while the run goes on."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    return ray.remote(Tally).options(num_cpus=0, scheduling_strategy=here).remote(**state)


def generate_values(snapshot: Snapshot, num_open: int, num_teachers: int) -> Iterator[Value]:
    """What the generate stage knows. `num_open`: prompts that were open when this session began."""
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
