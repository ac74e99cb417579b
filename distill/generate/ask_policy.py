"""Decides which trace to request next, so that no token is spent on a prompt that no mix can use. Pure functions.

A prompt is taught only if every pool of a mix solved it. Hence the cheapest teacher is asked first, a prompt that it
fails never reaches an expensive one, and a prompt is asked again only while it is unsolved. A teacher that reads is
asked for edits of the traces that are there; where none of them is of use, its source is asked for another trace.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from cluster.placement import Resources
from distill.core.schema import Verdict

MAX_SAMPLES = 1024
"""Most traces per prompt, or per trace that is read (`num_samples`)."""
TAKEN = {"correct": "c", "wrong": "w", "any": "cwo"}
"""What a reader takes -> the marks of such traces."""


@dataclass(frozen=True)
class PoolPlan:
    """How many traces a pool wants for every prompt, or for every trace that it reads."""

    name: str
    max_samples: int
    """Most traces per prompt, or per trace that it reads."""
    num_correct: int = 1
    """Correct traces of a prompt that are enough."""
    reads: str = ""
    """The pool that it reads; empty: none."""
    takes: str = "correct"
    """Which of its traces."""
    is_closed: bool = False
    """It writes nothing now: a data set, or a teacher of an earlier pass. What it holds is all there will be."""


class PoolState(NamedTuple):
    """What a pool holds for one prompt."""

    done: frozenset[int] = frozenset()
    """Samples that were answered or given up: their numbers, of an edit `edit_number`."""
    correct: int = 0
    sources: frozenset[str] = frozenset()
    """Its traces, where another pool reads it: the mark of each and its identity."""

    def add(self, sample: int, *, is_correct: bool, source: str = "") -> "PoolState":
        """The state after one more answer. `source`: of `source_mark` and the identity, where the pool is read."""
        sources = self.sources | {source} if source else self.sources
        return PoolState(self.done | {sample}, self.correct + is_correct, sources)


def source_mark(verdict: str, *, is_correct: bool) -> str:
    """What a reader takes a trace for: `c`, which a mix may use, `w`, wrong or without an answer, or `o`, neither."""
    return "c" if is_correct else "w" if verdict in (Verdict.INCORRECT, Verdict.NO_ANSWER) else "o"


def edit_number(source: str, index: int) -> int:
    """The number of an edit among all that a pool may hold for a prompt.

    Args:
        source: identity of the trace that is read.
        index: of the edit among those of this trace.
    """
    return int(source, 16) * MAX_SAMPLES + index


def edit_of(number: int) -> tuple[str, int]:
    """The inverse of `edit_number`."""
    return f"{number // MAX_SAMPLES:016x}", number % MAX_SAMPLES


@dataclass(frozen=True)
class AskPlan:
    """The pools in the order in which they are asked, and which of them are useful only together."""

    pools: tuple[PoolPlan, ...]
    groups: tuple[frozenset[str], ...]
    """A prompt counts for a group once all pools of the group solved it. A pool in no group is wanted for itself."""
    stop_early: bool = True
    sources: tuple[tuple[str, ...], ...] = ()
    """Per group the sources whose prompts it is for, empty for all; no tuple at all: every group is for all prompts."""

    def for_source(self, source: str) -> "AskPlan":
        """The plan for the prompts of a source: without the groups that are not for them, and their pools."""
        if not any(self.sources):
            return self
        if source not in self._by_source:
            self._by_source[source] = self._restricted(source)
        return self._by_source[source]

    @cached_property
    def _by_source(self) -> "dict[str, AskPlan]":
        return {}

    def _restricted(self, source: str) -> "AskPlan":
        pairs = zip(self.groups, self.useful, self.sources, strict=True)
        kept = [(group, useful) for group, useful, sources in pairs if not sources or source in sources]
        grouped = frozenset().union(*self.useful)
        alone = frozenset(name for pool in self.pools if pool.name not in grouped for name in self._chain(pool.name))
        wanted = alone.union(*(useful for _, useful in kept))
        pools = tuple(pool for pool in self.pools if pool.name in wanted)
        groups = tuple(group for group, _ in kept)
        return replace(self, pools=pools, groups=groups, sources=())

    def plan(self, pool: str) -> PoolPlan:
        """The plan of a pool by its name."""
        return self.by_name[pool]

    @cached_property
    def by_name(self) -> dict[str, PoolPlan]:
        """The plans by the pools' names."""
        return {plan.name: plan for plan in self.pools}

    @cached_property
    def readers(self) -> dict[str, tuple[PoolPlan, ...]]:
        """Pool that is read -> those that read it."""
        read = dict.fromkeys(plan.reads for plan in self.pools if plan.reads)
        return {name: tuple(plan for plan in self.pools if plan.reads == name) for name in read}

    @cached_property
    def useful(self) -> tuple[frozenset[str], ...]:
        """Of every group the pools that serve it: its own, and what they read, directly or not."""
        return tuple(frozenset(name for pool in group for name in self._chain(pool)) for group in self.groups)

    def _chain(self, pool: str) -> list[str]:
        """A pool, what it reads, what that reads, and so on."""
        chain = [pool]
        while chain[-1] in self.by_name and (source := self.by_name[chain[-1]].reads):
            chain.append(source)
        return chain


States = Mapping[str, PoolState]
"""Pool -> its state for one prompt; a pool without traces may be absent."""

NOTHING = PoolState()


def samples(pool: PoolPlan, states: States) -> Iterable[int]:
    """The numbers of all samples that can be asked for now; of a reader only edits of traces that are there."""
    if pool.is_closed:
        return ()
    if not pool.reads:
        return range(pool.max_samples)
    marks, sources = TAKEN[pool.takes], states.get(pool.reads, NOTHING).sources
    taken = sorted(source[1:] for source in sources if source[0] in marks)
    return [edit_number(source, index) for source in taken for index in range(pool.max_samples)]


def is_solved(pool: PoolPlan, plan: AskPlan, states: States) -> bool:
    """Whether the pool has enough correct traces for the prompt, or has used up its budget with at least one."""
    correct = states.get(pool.name, NOTHING).correct
    return correct >= pool.num_correct or (correct > 0 and is_spent(pool, plan, states))


def is_spent(pool: PoolPlan, plan: AskPlan, states: States) -> bool:
    """Whether the prompt's budget is used up: nothing is left to be asked, and nothing more can be read."""
    if missing_sample(pool, states) is not None:
        return False
    return pool.is_closed or not pool.reads or is_spent(plan.plan(pool.reads), plan, states)


def is_lost(pool: PoolPlan, plan: AskPlan, states: States) -> bool:
    """Whether the budget is used up without a correct trace."""
    return states.get(pool.name, NOTHING).correct == 0 and is_spent(pool, plan, states)


def is_open(pool: PoolPlan, plan: AskPlan, states: States) -> bool:
    """Whether more traces are of use: the pool has not solved the prompt, or one that has read all of them has not."""
    return not is_solved(pool, plan, states) or is_short(pool, plan, states)


def is_short(pool: PoolPlan, plan: AskPlan, states: States) -> bool:
    """Whether a reader of the pool can go on only if the pool writes more."""
    return any(
        missing_sample(reader, states) is None and is_open(reader, plan, states)
        for reader in plan.readers.get(pool.name, ())
    )


def missing_sample(pool: PoolPlan, states: States) -> int | None:
    """The first sample that can be asked for and is not done; None where there is none."""
    done = states.get(pool.name, NOTHING).done
    return next((number for number in samples(pool, states) if number not in done), None)


def next_samples(plan: AskPlan, states: States, mine: Iterable[str]) -> list[tuple[str, int]]:
    """(pool, number of the sample) of the traces to request now, among the pools `mine` that the caller can ask.

    With early stopping, one trace at a time; without it, all that are missing at once. Empty: nothing for now.
    """
    own = set(mine)
    if not plan.stop_early:
        return [
            (pool.name, number)
            for pool in plan.pools
            if pool.name in own
            for number in samples(pool, states)
            if number not in states.get(pool.name, NOTHING).done
        ]
    for pool in plan.pools:
        if pool.name not in own or not is_open(pool, plan, states):
            continue
        number = missing_sample(pool, states)
        if number is not None and is_wanted(pool.name, plan, states):
            return [(pool.name, number)]
    return []


def is_wanted(pool: str, plan: AskPlan, states: States) -> bool:
    """Whether some group can still be completed and every cheaper pool of that group has solved the prompt."""
    mine = [number for number, useful in enumerate(plan.useful) if pool in useful]
    return not mine or any(_is_ready(pool, number, plan, states) for number in mine)


def _is_ready(pool: str, number: int, plan: AskPlan, states: States) -> bool:
    group, useful = plan.groups[number], plan.useful[number]
    order = [other for other in plan.pools if other.name in useful]
    cheaper = order[: [other.name for other in order].index(pool)]
    # What is only read need not solve the prompt: a reader may take wrong traces.
    all_solved = all(is_solved(other, plan, states) for other in cheaper if other.name in group)
    return all_solved and not any(is_lost(other, plan, states) for other in order if other.name in group)


def is_complete(plan: AskPlan, states: States) -> bool:
    """Whether all pools of every group solved the prompt: the mixes can use it."""
    return bool(plan.groups) and all(
        is_solved(pool, plan, states) for group in plan.groups for pool in plan.pools if pool.name in group
    )


class Stopped(NamedTuple):
    """Requests of the full budget that early stopping saved, by reason."""

    solved: int
    lost: int


def not_asked(plan: AskPlan, states: States, mine: Iterable[str]) -> Stopped:
    """What early stopping saved on one prompt, among the pools `mine` that the caller can ask. Of a reader only edits
    of traces that exist count."""
    solved = lost = 0
    own = set(mine)
    for pool in plan.pools:
        if pool.name not in own:
            continue
        done = states.get(pool.name, NOTHING).done
        rest = sum(number not in done for number in samples(pool, states))
        if not is_open(pool, plan, states):
            solved += rest
        elif not is_wanted(pool.name, plan, states):
            lost += rest
    return Stopped(solved, lost)


def plan_jobs(needs: Sequence[Resources], nodes: Sequence[Resources]) -> list[list[int]]:
    """Groups consecutive teachers whose first engines fit on the nodes together; each group is one streaming job.

    The engines of a job always fit at the same time, with one CPU left for its small tasks, so no two can wait for each
    other. A teacher that does not fit even alone is a job by itself, and fails at the start-up deadline.

    Args:
        needs: what the first engines of each teacher take.
        nodes: the cluster's nodes.

    Returns:
        Positions in `needs`, per job.
    """
    jobs: list[list[int]] = []
    for position, need in enumerate(needs):
        if jobs and fit_together([*(needs[other] for other in jobs[-1]), need], nodes):
            jobs[-1].append(position)
        else:
            jobs.append([position])
    return jobs


def fit_together(needs: Sequence[Resources], nodes: Sequence[Resources]) -> bool:
    """Whether the nodes have enough GPUs, of each requested kind and in total, and one CPU more than is needed."""
    if sum(need.cpus for need in needs) + 1.0 > sum(node.cpus for node in nodes):
        return False
    return all(
        sum(need.gpus for need in needs if kind in ("", need.gpu))
        <= sum(node.gpus for node in nodes if node.is_of_kind(kind))
        for kind in {"", *(need.gpu for need in needs)}
    )
