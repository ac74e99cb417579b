"""The mix: exact counts, common prompts only, nested selection, the same whatever the order, equal arms."""

import random
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.config.mix import (
    BothMix,
    CurriculumMix,
    HardGetsLongMix,
    MixConfig,
    SingleMix,
    WeightedMix,
    WeightedTokensMix,
)
from distill.config.shares import largest_remainder
from distill.core.errors import StageError
from distill.core.schema import content_hash
from distill.mix.accounting import equal_arms, lost_prompts, mix_details
from distill.mix.candidates import Candidates, build_candidates
from distill.mix.choice import Choice, exact_counts
from distill.mix.filters import USABLE, reasons_without_text
from distill.mix.policies import choose, validate_common, validate_sizes
from distill.mix.seeded_order import identities_of, keys_of, order_hash, order_hash_of
from tests.fixtures.mix_data import POOLS, candidates_of, full_rows, index_of, row, with_levels

SHARES = st.integers(0, 100).map(lambda percent: percent / 100)
FEW = settings(max_examples=40, deadline=None)


def weighted(share: float, *, stratify: tuple[str, ...] = ()) -> WeightedMix:
    return WeightedMix(name="m", weights={"long": share, "short": float(1 - Fraction(str(share)))}, stratify=stratify)


def chosen(mix: MixConfig, candidates: Candidates, seed: int = 0) -> Choice:
    return choose([mix], candidates, seed)[mix.name]


def long_prompts(choice: Choice) -> set[int]:
    return set(choice.prompts[choice.pools == 0].tolist())


def has_rows(share: float, total: int) -> bool:
    counts = largest_remainder({"long": share, "short": float(1 - Fraction(str(share)))}, total)
    return all(counts[pool] > 0 or weight in (0.0, 1.0) for pool, weight in (("long", share), ("short", 1 - share)))


@given(weights=st.lists(st.integers(0, 50), min_size=1, max_size=5).filter(any), total=st.integers(0, 10_000))
def test_counts_add_up_and_are_within_one_of_the_weight(weights: list[int], total: int) -> None:
    shares = {f"pool{number}": weight / 64 for number, weight in enumerate(weights)}
    shares["rest"] = 1 - sum(shares.values()) if sum(shares.values()) <= 1 else 0.0
    if sum(shares.values()) != 1:
        return
    counts = largest_remainder(shares, total)
    assert sum(counts.values()) == total
    assert all(abs(counts[pool] - share * total) < 1 for pool, share in shares.items())


@given(keys=st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=20), seed=st.integers(0, 9))
def test_the_order_is_the_same_for_one_identity_and_for_a_column(keys: list[int], seed: int) -> None:
    column = order_hash(np.array(keys, dtype=np.uint64), "assign", seed)
    assert column.tolist() == [order_hash_of(f"{key:016x}", "assign", seed) for key in keys]
    assert len(set(column.tolist())) == len(set(keys))


def test_identities_come_back_from_their_numbers() -> None:
    import pyarrow as pa

    names = [content_hash(number) for number in range(50)]
    assert identities_of(keys_of(pa.chunked_array([pa.array(names[:20])[3:], pa.array(names[20:])]), "id")) == names[3:]
    with pytest.raises(StageError, match="'p1' is no trace id"):
        keys_of(pa.array([names[0], "p1"]), "trace id")
    with pytest.raises(StageError, match="'zz00000000000000' is no trace id"):
        keys_of(pa.array(["zz00000000000000"]), "trace id")


@FEW
@given(share=SHARES, num_prompts=st.integers(1, 60), seed=st.integers(0, 5))
def test_a_weight_is_met_exactly_or_refused(share: float, num_prompts: int, seed: int) -> None:
    candidates = candidates_of(full_rows(num_prompts))
    if not has_rows(share, num_prompts):
        with pytest.raises(StageError, match="rounds to no row"):
            chosen(weighted(share), candidates, seed)
        return
    counts = largest_remainder({"long": share, "short": float(1 - Fraction(str(share)))}, num_prompts)
    choice = chosen(weighted(share), candidates, seed)
    assert len(long_prompts(choice)) == counts["long"]
    assert choice.prompts.tolist() == list(range(num_prompts))


@FEW
@given(
    parts=st.lists(st.integers(1, 20), min_size=2, max_size=4), num_prompts=st.integers(1, 20), more=st.integers(0, 40)
)
def test_the_number_of_prompts_that_is_asked_for_is_enough(parts: list[int], num_prompts: int, more: int) -> None:
    pools = "abcd"[: len(parts)]
    weights = {pool: part / 100 for pool, part in zip(pools[1:], parts[1:], strict=True)}
    weights |= {"a": float(1 - sum(Fraction(str(one)) for one in weights.values()))}

    def counts(number: int) -> dict[str, int]:
        return exact_counts("m", weights, candidates_of(full_rows(number, tuple(pools)), tuple(pools)))

    try:
        assert all(counts(num_prompts).values())
    except StageError as refused:
        enough = int(str(refused).partition("use at least ")[2].partition(" ")[0])
        assert num_prompts < enough and all(counts(enough + more).values())


def test_three_pools_may_need_more_prompts_than_two() -> None:
    pools = ("a", "b", "c")
    weights = {"a": 0.1, "b": 0.45, "c": 0.45}
    with pytest.raises(StageError, match="use at least 7 prompts"):
        exact_counts("m", weights, candidates_of(full_rows(2, pools), pools))


@FEW
@given(shares=st.lists(SHARES, min_size=2, max_size=2).map(sorted), seed=st.integers(0, 5), stratify=st.booleans())
def test_a_larger_weight_moves_prompts_to_the_pool_and_takes_none_away(
    shares: list[float], seed: int, stratify: bool
) -> None:
    candidates = with_levels(candidates_of(full_rows(200)), [f"Level {number % 3}" for number in range(200)])
    strata = ("level",) if stratify else ()
    few, many = (long_prompts(chosen(weighted(share, stratify=strata), candidates, seed)) for share in shares)
    assert few <= many
    assert len(many - few) == round(200 * shares[1]) - round(200 * shares[0])


@FEW
@given(st.lists(st.integers(1, 30), min_size=2, max_size=5), st.integers(2, 98), st.integers(0, 5))
def test_every_stratum_gets_its_share(sizes: list[int], percent: int, seed: int) -> None:
    levels = [f"Level {level}" for level, size in enumerate(sizes) for _ in range(size)]
    candidates = with_levels(candidates_of(full_rows(len(levels))), levels)
    if not has_rows(percent / 100, len(levels)):
        return
    mine = long_prompts(chosen(weighted(percent / 100, stratify=("level",)), candidates, seed))
    for level, size in enumerate(sizes):
        got = sum(levels[prompt] == f"Level {level}" for prompt in mine)
        share = len(mine) / len(levels)
        assert abs(got - share * size) <= 0.5 + size * len(sizes) / (2 * len(levels)) + 1e-9


@FEW
@given(order=st.randoms(use_true_random=False), batch_rows=st.integers(1, 50), seed=st.integers(0, 3))
def test_neither_the_order_of_the_rows_nor_their_shards_matter(
    order: random.Random, batch_rows: int, seed: int
) -> None:
    rows = full_rows(25, samples=3)
    straight, shuffled = index_of(rows), index_of(order.sample(rows, len(rows)), batch_rows)
    picked = []
    for index in (straight, shuffled):
        usable = reasons_without_text(index, POOLS) == USABLE
        candidates = build_candidates(index, usable, order.sample(POOLS, 2), seed)
        choice = chosen(weighted(0.2), candidates, seed)
        picked.append(index.trace_keys[candidates.rows[choice.prompts, choice.pools]].tolist())
        details = mix_details(weighted(0.2), choice, candidates, index)
    assert picked[0] == picked[1]
    assert len(details["digest"]) == 64


ALL_ARMS: list[MixConfig] = [
    SingleMix(name="long", pool="long"),
    SingleMix(name="short", pool="short"),
    weighted(0.2),
    WeightedTokensMix(name="tokens", weights={"long": 0.5, "short": 0.5}),
    HardGetsLongMix(name="hard", weights={"long": 0.2, "short": 0.8}, order=("long", "short")),
    CurriculumMix(name="first", weights={"long": 0.2, "short": 0.8}, order=("short", "long")),
    BothMix(name="both", pools=("long", "short")),
]


@FEW
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=20, max_size=60), st.integers(0, 3))
def test_all_arms_teach_the_prompts_that_every_pool_solved(solved: list[tuple[bool, bool]], seed: int) -> None:
    rows = [
        row(f"p{number}", pool, verdict="CORRECT" if is_solved else "INCORRECT")
        for number, both in enumerate([*solved, *[(True, True)] * 10])
        for pool, is_solved in zip(POOLS, both, strict=True)
    ]
    candidates = candidates_of(rows, seed=seed)
    assert len(candidates) == sum(all(both) for both in solved) + 10
    arms = choose(ALL_ARMS, candidates, seed)
    for mix in ALL_ARMS:
        assert set(arms[mix.name].prompts.tolist()) == set(range(len(candidates)))
        assert len(arms[mix.name].prompts) == len(candidates) * (2 if mix.name == "both" else 1)
    details = {mix.name: mix_details(mix, arms[mix.name], candidates, index_of(rows)) for mix in ALL_ARMS}
    wide = f"one row each, but both has {2 * len(candidates)} rows, which are more steps with the budget epochs only"
    assert wide in equal_arms(details)
    assert "but" not in equal_arms({name: entry for name, entry in details.items() if name != "both"})


@FEW
@given(sizes=st.lists(st.integers(10, 40), min_size=2, max_size=2).map(sorted), seed=st.integers(0, 5))
def test_arms_of_fewer_prompts_teach_a_part_of_those_of_more_and_keep_their_policy(sizes: list[int], seed: int) -> None:
    candidates = candidates_of(full_rows(40))
    taught = []
    for size in sizes:
        arms = [mix.model_copy(update={"num_prompts": size}) for mix in ALL_ARMS]
        choices = choose(arms, candidates, seed)
        for mix in arms:
            assert len(set(choices[mix.name].prompts.tolist())) == size
            assert len(choices[mix.name].prompts) == size * (2 if mix.name == "both" else 1)
        assert len({tuple(set(one.prompts.tolist())) for one in choices.values()}) == 1, (
            "every policy, the same prompts"
        )
        assert len(long_prompts(choices["m"])) == largest_remainder({"long": 0.2, "short": 0.8}, size)["long"]
        taught.append(set(choices["long"].prompts.tolist()))
    assert taught[0] <= taught[1]


def test_arms_of_several_sizes_are_told() -> None:
    rows = full_rows(10)
    candidates = candidates_of(rows)
    arms = [weighted(0.2), SingleMix(name="few", pool="long", num_prompts=4)]
    choices = choose(arms, candidates, 0)
    details = {mix.name: mix_details(mix, choices[mix.name], candidates, index_of(rows)) for mix in arms}
    assert (details["few"]["prompts"], details["few"]["rows_per_prompt"], details["few"]["tokens"]) == (4, 1.0, 120)
    assert equal_arms(details).startswith("arms of one size teach the same prompts, those of a smaller one are among")
    assert "(4, 10), one row each" in equal_arms(details)


def test_an_arm_of_more_prompts_than_are_common_is_refused_with_both_numbers() -> None:
    validate_sizes([weighted(0.2), SingleMix(name="few", pool="long", num_prompts=10)], 10)
    with pytest.raises(StageError, match=r"mixes\[few\].num_prompts = 11, but only 10 prompts .*\n.*use more prompts"):
        validate_sizes([SingleMix(name="few", pool="long", num_prompts=11)], 10)


def test_a_trace_cut_by_the_token_limit_is_selected_for_no_pool() -> None:
    assert len(candidates_of([row("a", "long", finish="length"), row("a", "short")])) == 0


def test_of_several_traces_the_seed_selects_one_for_the_pool() -> None:
    rows = full_rows(40, samples=4)
    first, second = (candidates_of(rows, seed=seed).rows for seed in (1, 2))
    assert (first != second).any()
    assert set((index_of(rows).tokens[first] - [30, 10]).ravel().tolist()) == {0, 1, 2, 3}


@FEW
@given(
    tokens=st.lists(st.tuples(st.integers(1, 5000), st.integers(1, 500)), min_size=3, max_size=80),
    share=st.integers(1, 99).map(lambda percent: percent / 100),
)
def test_a_share_of_tokens_is_met_to_within_one_trace_and_grows_with_the_weight(
    tokens: list[tuple[int, int]], share: float
) -> None:
    candidates = candidates_of(full_rows(len(tokens)))
    candidates.tokens[:] = tokens
    taken: list[set[int]] = []
    for weight in (share, min(0.99, share + 0.05)):
        mix = WeightedTokensMix(name="m", weights={"long": weight, "short": 1 - weight})
        try:
            choice = chosen(mix, candidates)
        except StageError:
            return
        lengths = candidates.tokens[choice.prompts, choice.pools]
        largest = int(candidates.tokens.max())
        assert abs(lengths[choice.pools == 0].sum() - weight * lengths.sum()) <= 2 * largest
        taken.append(long_prompts(choice))
    assert taken[0] <= taken[1]


def test_shares_of_tokens_hold_for_three_pools_too() -> None:
    candidates = candidates_of(full_rows(3000, ("a", "b", "c")), ("a", "b", "c"))
    candidates.tokens[:] = np.random.default_rng(0).integers(1, [4000, 300, 900], size=(3000, 3))
    mix = WeightedTokensMix(name="m", weights={"a": 0.5, "b": 0.2, "c": 0.3})
    choice = chosen(mix, candidates)
    lengths = candidates.tokens[choice.prompts, choice.pools].astype(float)
    shares = np.bincount(choice.pools, weights=lengths) / lengths.sum()
    assert shares == pytest.approx([0.5, 0.2, 0.3], abs=0.002)


def test_the_hardest_prompts_get_the_first_pool() -> None:
    rows = [
        *full_rows(10),
        *(row(f"p{number}", "short", 1 + extra, "INCORRECT") for number in (3, 7) for extra in (0, 1)),
    ]
    hard = HardGetsLongMix(name="m", weights={"long": 0.2, "short": 0.8}, order=("long", "short"))
    candidates = candidates_of(rows)
    wanted = {content_hash("p3"), content_hash("p7")}
    assert {
        identities_of(candidates.prompt_keys)[prompt] for prompt in long_prompts(chosen(hard, candidates))
    } == wanted
    by_length = candidates_of(full_rows(10))
    by_length.tokens[[2, 5], 0] = 900
    assert long_prompts(chosen(hard.model_copy(update={"hardness": "length"}), by_length)) == {2, 5}
    levelled = with_levels(candidates, ["Level 2", "Level 10", *["Level 1"] * 7, "Level 3"])
    assert long_prompts(chosen(hard.model_copy(update={"hardness": "level"}), levelled)) == {1, 9}
    unlevelled = with_levels(candidates, ["unknown", *["Level 1"] * 9])
    with pytest.raises(StageError, match="the level of 1 of 10 is 'unknown'"):
        chosen(hard.model_copy(update={"hardness": "level"}), unlevelled)


def test_a_curriculum_is_the_weighted_choice_in_phases() -> None:
    candidates = candidates_of(full_rows(50))
    plain, phased = chosen(weighted(0.2), candidates), chosen(ALL_ARMS[5], candidates)
    assert np.array_equal(plain.pools, phased.pools)
    assert np.array_equal(phased.phases == 1, phased.pools == 0)


def test_no_survivor_names_the_numbers() -> None:
    lost = {"long": {"usable": 1, "repetition": 2}, "short": {"usable": 1}}
    with pytest.raises(
        StageError, match="prompts with one: long 1, short 1; correct traces left out: long 2 repetition"
    ):
        validate_common(candidates_of([row("a", "long"), row("b", "short")]), lost)


def test_details_hold_rows_tokens_and_shares_by_both() -> None:
    rows = full_rows(10)
    candidates = candidates_of(rows)
    details = mix_details(weighted(0.2), chosen(weighted(0.2), candidates), candidates, index_of(rows))
    assert details["rows"] == 10
    assert details["tokens"] == 2 * 30 + 8 * 10
    assert details["requested"] == {"long": 0.2, "short": 0.8}
    assert details["realised_rows"] == {"long": 0.2, "short": 0.8}
    assert details["long_rows"] == 0.2
    assert details["long_tokens"] == pytest.approx(60 / 140)


def test_prompts_of_no_arm_are_counted_with_the_pools_that_lack_them() -> None:
    rows = [*full_rows(3), row("x", "long"), row("y", "long"), row("y", "short")]
    index = index_of(rows)
    reasons = reasons_without_text(index, POOLS)
    reasons[-1] = 9
    candidates = build_candidates(index, reasons == USABLE, POOLS, 0)
    keys = np.unique(np.append(index.prompt_keys, np.uint64(int(content_hash("z"), 16))))
    taught, held = candidates.split_held_out(1, 0)
    assert len(held) == 1 and len(taught) == len(candidates) - 1
    lost = lost_prompts(keys, taught, index, reasons, taught=taught.prompt_keys, held_out=held.prompt_keys)
    assert lost.counts.pop("held out") == 1
    few = taught.prompt_keys[:1]
    assert lost_prompts(keys, taught, index, reasons, taught=few, held_out=held.prompt_keys).counts == {
        **lost.counts,
        "held out": 1,
        "more than any arm teaches": len(taught) - 1,
    }
    everything = candidates.prompt_keys
    lost = lost_prompts(keys, candidates, index, reasons, taught=everything, held_out=held.prompt_keys[:0])
    assert lost.counts == {"not solved by every pool": 2, "filtered out in a pool": 1}
    found = {one["where"]: (one["reason"], one["detail"]) for one in lost.table.to_pylist()}
    assert found[content_hash("x")] == ("not solved by every pool", "short")
    assert found[content_hash("y")] == ("filtered out in a pool", "short")
    assert found[content_hash("z")] == ("not solved by every pool", "long, short")


def test_three_pools_a_rising_weight_loses_no_prompt() -> None:
    pools = ("a", "b", "c")
    candidates = candidates_of(full_rows(100, pools), pools)
    weights = ((0.2, 0.3, 0.5), (0.2, 0.4, 0.4), (0.2, 0.5, 0.3))
    arms = [chosen(WeightedMix(name="m", weights=dict(zip(pools, one, strict=True))), candidates) for one in weights]
    for before, after in pairwise(arms):
        assert set(np.flatnonzero(before.pools == 1)) <= set(np.flatnonzero(after.pools == 1))
