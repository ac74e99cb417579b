"""Who is asked what: every request that a mix cannot use is not made."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cluster.placement import Resources
from distill.core.schema import content_hash
from distill.generate.ask_policy import (
    AskPlan,
    PoolPlan,
    PoolState,
    edit_number,
    edit_of,
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
    assert is_lost(CHEAP, PLAN, {"cheap": failed(0, 1)})


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
    two = PoolPlan("cheap", 3, num_correct=2)
    plan = AskPlan((two,), ())
    assert not is_solved(two, plan, {"cheap": PoolState(frozenset({0}), 1)})
    assert is_solved(two, plan, {"cheap": PoolState(frozenset({0, 1, 2}), 1)})


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


# Readers

BASE = PoolPlan("base", 2)
EDIT = PoolPlan("edit", 1, reads="base")
LAST = PoolPlan("last", 1, reads="edit")
CHAIN = AskPlan((BASE, EDIT, LAST), (frozenset({"last"}),))
NAMES = ("base", "edit", "last")
ONE, TWO = "00000000000000a1", "00000000000000b2"


def read(*sources: str, correct: int = 0, done: int = 1) -> PoolState:
    """A pool with traces that are read: a mark and an identity each."""
    return PoolState(frozenset(range(done)), correct, frozenset(sources))


def test_a_reader_is_asked_for_edits_of_traces_that_are_there_and_that_it_takes() -> None:
    assert next_samples(CHAIN, {}, NAMES) == [("base", 0)]
    states = {"base": read(f"c{ONE}", f"w{TWO}", correct=1, done=2)}
    assert next_samples(CHAIN, states, NAMES) == [("edit", edit_number(ONE, 0))]
    assert next_samples(CHAIN, states, ("base", "last")) == []
    edited = states | {"edit": PoolState(frozenset({edit_number(ONE, 0)}), 1, frozenset({f"c{TWO}"}))}
    assert next_samples(CHAIN, edited, NAMES) == [("last", edit_number(TWO, 0))]


@pytest.mark.parametrize(("takes", "sources"), [("correct", [ONE]), ("wrong", [TWO]), ("any", [ONE, TWO])])
def test_which_traces_are_read_is_the_readers_choice(takes: str, sources: list[str]) -> None:
    plan = AskPlan((BASE, PoolPlan("edit", 2, reads="base", takes=takes)), (), stop_early=False)
    states = {"base": read(f"c{ONE}", f"w{TWO}", correct=1, done=2)}
    wanted = [("edit", edit_number(source, index)) for source in sources for index in range(2)]
    assert next_samples(plan, states, NAMES) == wanted


def test_a_prompt_is_lost_to_a_reader_only_once_its_source_writes_no_more() -> None:
    one_wrong = {"base": read(f"w{ONE}")}
    assert not is_lost(EDIT, CHAIN, one_wrong)
    assert next_samples(CHAIN, one_wrong, NAMES) == [("base", 1)]
    all_wrong = {"base": read(f"w{ONE}", f"w{TWO}", done=2)}
    assert is_lost(EDIT, CHAIN, all_wrong) and is_lost(LAST, CHAIN, all_wrong)


def test_a_solved_source_is_asked_again_only_where_its_reader_made_nothing_of_all_it_has() -> None:
    failed_edit = {"base": read(f"c{ONE}", correct=1), "edit": PoolState(frozenset({edit_number(ONE, 0)}), 0)}
    assert next_samples(CHAIN, failed_edit, NAMES) == [("base", 1)]
    assert next_samples(CHAIN, failed_edit, ("edit", "last")) == []
    edited = PoolState(frozenset({edit_number(ONE, 0)}), 1, frozenset({f"c{TWO}"}))
    failed_last = {"base": read(f"c{ONE}", correct=1), "edit": edited, "last": failed(edit_number(TWO, 0))}
    assert next_samples(CHAIN, failed_last, NAMES) == [("base", 1)]
    spent = failed_last | {"base": read(f"c{ONE}", f"w{TWO}", correct=1, done=2)}
    assert next_samples(CHAIN, spent, NAMES) == [] and is_lost(LAST, CHAIN, spent)
    solved_last = failed_last | {"last": solved(edit_number(TWO, 0))}
    assert next_samples(CHAIN, solved_last, NAMES) == []


@pytest.mark.parametrize("num_edits", [1, 0])
def test_a_reader_of_what_writes_no_more_has_done_all_it_can_once_everything_is_read(num_edits: int) -> None:
    given = PoolPlan("base", 1024, is_closed=True)
    edit = PoolPlan("edit", 1, num_correct=2, reads="base")
    plan = AskPlan((given, edit, DEAR), (frozenset({"edit", "dear"}),))
    names = ("edit", "dear")
    states = {"base": read(f"c{ONE}", f"c{TWO}", correct=2, done=2)}
    for source in (ONE, TWO):
        assert next_samples(plan, states, names) == [("edit", edit_number(source, 0))]
        is_correct = num_edits == 1 and source == ONE
        states |= {"edit": states.get("edit", PoolState()).add(edit_number(source, 0), is_correct=is_correct)}
    assert is_solved(edit, plan, states) == bool(num_edits) and is_lost(edit, plan, states) != bool(num_edits)
    assert next_samples(plan, states, names) == ([("dear", 0)] if num_edits else [])
    assert is_lost(given, plan, {}) and is_lost(edit, plan, {}), "a prompt that is not in the data set"


def test_what_is_only_read_is_asked_only_while_its_reader_can_use_it() -> None:
    cheap, own = PoolPlan("cheap", 1), frozenset({"cheap", "edit"})
    plan = AskPlan((cheap, BASE, EDIT), (own,))
    assert next_samples(plan, {}, ("base", "edit")) == [], "the cheaper pool comes first"
    assert next_samples(plan, {"cheap": failed(0)}, ("base", "edit")) == []
    assert next_samples(plan, {"cheap": solved(0)}, ("base", "edit")) == [("base", 0)]
    wrong = AskPlan((BASE, PoolPlan("edit", 1, reads="base", takes="wrong")), (frozenset({"edit"}),))
    assert next_samples(wrong, {"base": read(f"w{ONE}", f"w{TWO}", done=2)}, NAMES) == [("edit", edit_number(ONE, 0))]


@given(
    seed=st.integers(0, 10_000),
    takes=st.sampled_from(["correct", "wrong", "any"]),
    sizes=st.tuples(*[st.integers(1, 3)] * 3),
)
def test_a_chain_of_readers_never_repeats_and_solves_early_what_it_solves_in_full(
    seed: int, takes: str, sizes: tuple[int, int, int]
) -> None:
    pools = (
        PoolPlan("base", sizes[0]),
        PoolPlan("edit", sizes[1], reads="base", takes=takes),
        PoolPlan("last", sizes[2], reads="edit"),
    )
    early, full = (AskPlan(pools, (frozenset({"last"}),), stop_early) for stop_early in (True, False))
    (early_states, asked), (full_states, everything) = (answered(plan, seed) for plan in (early, full))
    assert len(asked) == len(set(asked)) and set(asked) <= set(everything)
    assert is_complete(early, early_states) == is_complete(full, full_states)
    parents = {edit_of(number)[0] for pool, number in asked if pool == "edit"}
    assert parents <= {source[1:] for source in early_states["base"].sources}


def answered(plan: AskPlan, seed: int) -> tuple[dict[str, PoolState], list[tuple[str, int]]]:
    """The states once nothing more is wanted, and what was asked; an answer depends on nothing but its request."""
    states: dict[str, PoolState] = {}
    asked: list[tuple[str, int]] = []
    while wanted := next_samples(plan, states, NAMES):
        for pool, number in wanted:
            name = content_hash(pool, number, seed)
            is_correct = int(name, 16) % 3 == 0
            asked.append((pool, number))
            source = f"{'c' if is_correct else 'w'}{name}"
            states[pool] = states.get(pool, PoolState()).add(number, is_correct=is_correct, source=source)
    return states, asked


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


def test_prompts_of_a_source_need_what_the_pools_of_its_arms_read_and_no_other_pool() -> None:
    other, of_other = PoolPlan("other", 1), PoolPlan("of-other", 1, reads="other")
    loose = PoolPlan("loose", 1, reads="base")
    groups = (frozenset({"last"}), frozenset({"of-other"}))
    plan = AskPlan((BASE, EDIT, LAST, other, of_other, loose), groups, sources=(("a",), ("b",)))
    names = {source: {pool.name for pool in plan.for_source(source).pools} for source in ("a", "b")}
    assert names == {"a": {"base", "edit", "last", "loose"}, "b": {"other", "of-other", "base", "loose"}}
    assert not is_complete(plan.for_source("c"), {}), "a prompt that no arm teaches"
