"""Decides which trace to request next, so that no token is spent on a prompt that no mix can use. Pure functions.

A prompt is taught only if every pool of a mix solved it. Hence the cheapest teacher is asked first, a prompt that it
fails never reaches an expensive one, and a prompt is asked again only while it is unsolved.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

from cluster.placement import Resources


@dataclass(frozen=True)
class PoolPlan:
    """How many traces a pool wants for every prompt."""

    name: str
    max_samples: int
    """Most traces per prompt."""
    num_correct: int = 1
    """Correct traces that are enough."""


class PoolState(NamedTuple):
    """What a pool holds for one prompt."""

    done: frozenset[int] = frozenset()
    """Sample indices that were answered or given up."""
    correct: int = 0

    def add(self, sample_index: int, *, is_correct: bool) -> "PoolState":
        """The state after one more answer."""
        return PoolState(self.done | {sample_index}, self.correct + is_correct)


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
        pairs = zip(self.groups, self.sources, strict=True)
        groups = tuple(group for group, sources in pairs if not sources or source in sources)
        elsewhere = frozenset().union(*self.groups) - frozenset().union(*groups)
        pools = tuple(pool for pool in self.pools if pool.name not in elsewhere)
        return replace(self, pools=pools, groups=groups, sources=())

    def plan(self, pool: str) -> PoolPlan:
        """The plan of a pool by its name."""
        return next(plan for plan in self.pools if plan.name == pool)


States = Mapping[str, PoolState]
"""Pool -> its state for one prompt; a pool without traces may be absent."""

NOTHING = PoolState()


def is_solved(state: PoolState, plan: PoolPlan) -> bool:
    """Whether the pool has enough correct traces for the prompt, or has used up its budget with at least one."""
    return state.correct >= plan.num_correct or (is_spent(state, plan) and state.correct > 0)


def is_spent(state: PoolState, plan: PoolPlan) -> bool:
    """Whether the prompt's budget is used up."""
    return missing_sample(state, plan) is None


def is_lost(state: PoolState, plan: PoolPlan) -> bool:
    """Whether the budget is used up without a correct trace."""
    return state.correct == 0 and is_spent(state, plan)


def missing_sample(state: PoolState, plan: PoolPlan) -> int | None:
    """The first sample index that is not done; None where the budget is used up."""
    return next((index for index in range(plan.max_samples) if index not in state.done), None)


def next_samples(plan: AskPlan, states: States, mine: Iterable[str]) -> list[tuple[str, int]]:
    """(pool, sample index) of the traces to request now, among the pools `mine` that the caller can ask.

    With early stopping, one trace at a time; without it, all that are missing at once. Empty: nothing for now.
    """
    own = set(mine)
    if not plan.stop_early:
        return [
            (pool.name, index)
            for pool in plan.pools
            if pool.name in own
            for index in range(pool.max_samples)
            if index not in states.get(pool.name, NOTHING).done
        ]
    for pool in plan.pools:
        state = states.get(pool.name, NOTHING)
        index = missing_sample(state, pool)
        is_open = pool.name in own and not is_solved(state, pool)
        if index is not None and is_open and is_wanted(pool.name, plan, states):
            return [(pool.name, index)]
    return []


def is_wanted(pool: str, plan: AskPlan, states: States) -> bool:
    """Whether some group can still be completed and every cheaper pool of that group has solved the prompt."""
    mine = [group for group in plan.groups if pool in group]
    return not mine or any(_is_ready(pool, group, plan, states) for group in mine)


def _is_ready(pool: str, group: frozenset[str], plan: AskPlan, states: States) -> bool:
    order = [other for other in plan.pools if other.name in group]
    cheaper = order[: [other.name for other in order].index(pool)]
    all_solved = all(is_solved(states.get(other.name, NOTHING), other) for other in cheaper)
    return all_solved and not any(is_lost(states.get(other.name, NOTHING), other) for other in order)


def is_complete(plan: AskPlan, states: States) -> bool:
    """Whether all pools of every group solved the prompt: the mixes can use it."""
    return bool(plan.groups) and all(
        is_solved(states.get(pool.name, NOTHING), pool)
        for group in plan.groups
        for pool in plan.pools
        if pool.name in group
    )


class Stopped(NamedTuple):
    """Requests of the full budget that early stopping saved, by reason."""

    solved: int
    lost: int


def not_asked(plan: AskPlan, states: States, mine: Iterable[str]) -> Stopped:
    """What early stopping saved on one prompt, among the pools `mine` that the caller can ask."""
    solved = lost = 0
    own = set(mine)
    for pool in plan.pools:
        if pool.name not in own:
            continue
        state = states.get(pool.name, NOTHING)
        rest = sum(index not in state.done for index in range(pool.max_samples))
        if is_solved(state, pool):
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
