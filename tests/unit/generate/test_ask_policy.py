"""Who is asked what: every request that a mix cannot use is not made."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.placement import Resources
from distill.generate.ask_policy import (
    AskPlan,
    PoolPlan,
    PoolState,
    is_complete,
    is_lost,
    is_solved,
    next_samples,
    not_asked,
    plan_jobs,
)

CHEAP, DEAR = PoolPlan("cheap", 2), PoolPlan("dear", 3)
PLAN = AskPlan((CHEAP, DEAR), (frozenset({"cheap", "dear"}),))
BOTH = ("cheap", "dear")


def solved(*done: int) -> PoolState:
    return PoolState(frozenset(done), 1)


def failed(*done: int) -> PoolState:
    return PoolState(frozenset(done), 0)


def test_the_cheap_teacher_is_asked_first() -> None:
    assert next_samples(PLAN, {}, BOTH) == [("cheap", 0)]


def test_a_prompt_is_asked_again_only_while_it_is_not_solved() -> None:
    assert next_samples(PLAN, {"cheap": failed(0)}, BOTH) == [("cheap", 1)]
    assert next_samples(PLAN, {"cheap": solved(0)}, BOTH) == [("dear", 0)]


def test_a_prompt_that_the_cheap_teacher_fails_never_reaches_the_expensive_one() -> None:
    assert next_samples(PLAN, {"cheap": failed(0, 1)}, BOTH) == []
    assert is_lost(failed(0, 1), CHEAP)


def test_an_engine_asks_only_for_its_own_pools_and_waits_for_cheaper_ones() -> None:
    assert next_samples(PLAN, {}, ("dear",)) == []
    assert next_samples(PLAN, {"cheap": solved(0)}, ("cheap",)) == []
    assert next_samples(PLAN, {"cheap": solved(0)}, ("dear",)) == [("dear", 0)]


def test_another_group_may_still_need_a_prompt_that_one_group_lost() -> None:
    plan = AskPlan((CHEAP, DEAR), (frozenset({"cheap", "dear"}), frozenset({"dear"})))
    assert next_samples(plan, {"cheap": failed(0, 1)}, BOTH) == [("dear", 0)]


def test_a_pool_is_not_asked_the_prompts_of_sources_that_none_of_its_mixes_teaches() -> None:
    other = PoolPlan("other", 1)
    groups = (frozenset({"cheap", "dear"}), frozenset({"cheap"}))
    plan = AskPlan((CHEAP, DEAR, other), groups, sources=(("sums",), ("puzzles",)))
    pools = {name: [pool.name for pool in plan.for_source(name).pools] for name in ("sums", "puzzles", "rest")}
    assert pools == {"sums": ["cheap", "dear", "other"], "puzzles": ["cheap", "other"], "rest": ["other"]}
    assert is_complete(plan.for_source("puzzles"), {"cheap": solved(0)})
    assert not is_complete(plan.for_source("sums"), {"cheap": solved(0)})
    assert not is_complete(plan.for_source("rest"), {"cheap": solved(0)}), "no mix teaches it"
    assert PLAN.for_source("sums") is PLAN


def test_a_pool_of_no_mix_is_asked_for_itself() -> None:
    plan = AskPlan((CHEAP, DEAR), (frozenset({"cheap"}),))
    assert next_samples(plan, {"cheap": failed(0, 1)}, BOTH) == [("dear", 0)]


def test_without_early_stopping_everything_missing_is_asked_at_once() -> None:
    plan = AskPlan((CHEAP, DEAR), PLAN.groups, stop_early=False)
    assert next_samples(plan, {"cheap": solved(0)}, BOTH) == [("cheap", 1), ("dear", 0), ("dear", 1), ("dear", 2)]


def test_more_correct_traces_can_be_wanted_and_a_used_up_budget_accepts_fewer() -> None:
    plan = PoolPlan("cheap", 3, num_correct=2)
    assert not is_solved(PoolState(frozenset({0}), 1), plan)
    assert is_solved(PoolState(frozenset({0, 1, 2}), 1), plan)


def test_skipped_requests_are_counted_by_reason() -> None:
    assert not_asked(PLAN, {"cheap": failed(0, 1)}, BOTH) == (0, 3)
    assert not_asked(PLAN, {"cheap": solved(0), "dear": solved(0)}, BOTH) == (3, 0)


STATES = st.builds(
    lambda done, correct: PoolState(frozenset(done), min(correct, len(done))),
    st.sets(st.integers(0, 3), max_size=4),
    st.integers(0, 2),
)


@given(
    sizes=st.lists(st.integers(1, 4), min_size=1, max_size=4),
    groups=st.lists(st.sets(st.integers(0, 3), min_size=1), max_size=3),
    outcomes=st.lists(st.booleans(), min_size=20, max_size=20),
)
def test_asking_always_ends_and_never_repeats(sizes: list[int], groups: list[set[int]], outcomes: list[bool]) -> None:
    names = [f"pool{number}" for number in range(len(sizes))]
    plan = AskPlan(
        tuple(PoolPlan(name, size) for name, size in zip(names, sizes, strict=True)),
        tuple(frozenset(names[i] for i in group if i < len(names)) for group in groups),
    )
    states: dict[str, PoolState] = {}
    asked = []
    for outcome in outcomes:
        wanted = next_samples(plan, states, names)
        if not wanted:
            break
        for pool, index in wanted:
            asked.append((pool, index))
            states[pool] = states.get(pool, PoolState()).add(index, is_correct=outcome)
    assert len(asked) == len(set(asked)) <= sum(sizes)
    assert not next_samples(plan, states, names)


@given(first=STATES, second=STATES)
def test_a_complete_prompt_is_asked_nothing_and_wanted_means_not_complete(first: PoolState, second: PoolState) -> None:
    states = {"cheap": first, "dear": second}
    if is_complete(PLAN, states):
        assert next_samples(PLAN, states, BOTH) == []


H100 = Resources(1, 1, gpu="H100")


@pytest.mark.parametrize(
    ("needs", "nodes", "jobs"),
    [
        ([Resources(1), Resources(1)], [Resources(2)], [[0], [1]]),
        ([Resources(1), Resources(1)], [Resources(2), Resources(2)], [[0, 1]]),
        ([Resources(1, 4), Resources(1, 4), Resources(1, 1)], [Resources(64, 8)], [[0, 1], [2]]),
        ([Resources(1, 16)], [Resources(8, 8)], [[0]]),
        ([H100, H100], [Resources(8, 1, gpu="H100"), Resources(8, 1, gpu="L4")], [[0], [1]]),
        ([H100, Resources(1, 1, gpu="L4")], [Resources(8, 1, gpu="H100"), Resources(8, 1, gpu="L4")], [[0, 1]]),
        ([H100, Resources(1, 2)], [Resources(8, 1, gpu="H100"), Resources(8, 1, gpu="L4")], [[0], [1]]),
    ],
)
def test_engines_that_are_up_together_always_fit_together(
    needs: list[Resources], nodes: list[Resources], jobs: list[list[int]]
) -> None:
    assert plan_jobs(needs, nodes) == jobs
