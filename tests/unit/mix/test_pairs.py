"""Pairs of traces for preferences: which trace is chosen over which, and where every other one has gone."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from distill.core.errors import StageError
from distill.core.manifest import Manifest
from distill.core.schema import Dropped, Example, content_hash
from distill.mix.accounting import WITHOUT_PAIR
from distill.mix.stage import mix_stage
from distill.mix.trace_fates import CHOSEN, REJECTED, SELECTED, find_traces
from distill.run.context import RunContext
from tests.fixtures.mix_run import make_run, trace

NUM_PROMPTS = 12
PAIRS = {"name": "dpo", "policy": "pairs", "pools": ["long"], "objective": {"kind": "prefer"}}


def wrong(number: int, sample: int, **changes: Any) -> Any:
    return trace(number, "long", sample, verdict="INCORRECT", **changes)


RIGHT = [trace(number, pool) for number in range(NUM_PROMPTS) for pool in ("long", "short")]
WRONG = [
    *(wrong(number, 1) for number in range(3)),
    trace(3, "long", 1, verdict="NO_ANSWER"),
    trace(4, "long", 1, verdict="ERROR"),
    wrong(5, 1, finish_reason="length"),
    wrong(6, 1, completion=" ".join(str(one) for one in range(200))),
    wrong(7, 1, completion="and again we say that it is so, " * 8),
    trace(8, "short", 1, verdict="INCORRECT"),
]


def mixed(folder: Path, traces: list[Any], *arms: dict[str, Any], **changes: Any) -> tuple[RunContext, Manifest]:
    def change(raw: dict[str, Any]) -> dict[str, Any]:
        return raw | {"mixes": list(arms) or [*raw["mixes"], PAIRS], "train": {"max_length": 400}} | changes

    run = make_run(folder, traces, num_prompts=NUM_PROMPTS, change=change)
    return run, mix_stage(run)


def pairs(run: RunContext, arm: str = "dpo") -> dict[str, tuple[str, str]]:
    """Prompt -> (chosen, rejected), of an arm's file; its rows must come in that order."""
    rows = run.run_dir.read_table("mix", f"{arm}.parquet", row_type=Example).to_pylist()
    assert [row["side"] for row in rows] == ["chosen", "rejected"] * (len(rows) // 2)
    halves = zip(rows[::2], rows[1::2], strict=True)
    assert all(one["prompt_id"] == two["prompt_id"] and one["messages"][:-1] == two["messages"][:-1]
               for one, two in zip(rows[::2], rows[1::2], strict=True))  # fmt: skip
    return {one["prompt_id"]: (one["trace_id"], two["trace_id"]) for one, two in halves}


def named(number: int, pool: str, sample: int) -> str:
    return content_hash(f"p{number}", pool, sample)


def test_a_correct_trace_is_chosen_over_a_wrong_one_that_is_whole_and_passes_the_filters(tmp_path: Path) -> None:
    run, manifest = mixed(tmp_path, [*RIGHT, *WRONG])
    wanted = {content_hash(f"p{number}"): (named(number, "long", 0), named(number, "long", 1)) for number in range(4)}
    assert pairs(run) == wanted
    entry = manifest.details["mixes"]["dpo"]
    assert (entry["pairs"], entry["rows"], entry["prompts"]) == (4, 8, 4)
    assert entry["without_pair"] == {"no wrong trace": 8}
    assert manifest.details["wrong_traces"] == {
        "long": {"usable": 4, "cut by the token limit": 1, "too long for a student": 1, "repetition": 1}
    }, "what the verifier could not tell is not among the wrong ones"
    assert "of these prompts dpo has a pair for 4 prompts" in manifest.details["arms"]
    assert manifest.details["mixes"]["long"]["rows"] == NUM_PROMPTS, "the other arms are as they were"


def test_every_trace_of_a_pair_has_its_fate(tmp_path: Path) -> None:
    run, _ = mixed(tmp_path, [*RIGHT, *WRONG])
    names = [named(0, "long", 0), named(0, "long", 1), named(4, "long", 1), named(5, "long", 1)]
    found = find_traces(run.run_dir, names)
    assert [found[name]["fate"] for name in names] == [SELECTED, REJECTED, "not correct", "not correct"]
    assert found[names[1]]["shard"]


def test_the_shortest_correct_trace_is_chosen_over_the_longest(tmp_path: Path) -> None:
    more = [trace(number, "long", 2, completion=f"It is {number + 1}.") for number in range(3)]
    by_length = PAIRS | {"by": ["length"], "pools": ["long", "short"]}
    run, _ = mixed(tmp_path, [*RIGHT, *more, *WRONG], by_length)
    found = pairs(run)
    assert len(found) == NUM_PROMPTS, "every prompt has a short and a long one"
    for number in range(NUM_PROMPTS):
        best = named(number, "long", 2) if number < 3 else named(number, "short", 0)
        assert found[content_hash(f"p{number}")] == (best, named(number, "long", 0))
    fates = find_traces(run.run_dir, [named(number, "long", 2) for number in range(3)])
    assert {one["fate"] for one in fates.values()} <= {CHOSEN, SELECTED}


def test_the_first_criterion_that_finds_a_pair_decides(tmp_path: Path) -> None:
    both = PAIRS | {"by": ["verdict", "length"], "pools": ["long", "short"]}
    run, manifest = mixed(tmp_path, [*RIGHT, *WRONG], both)
    found = pairs(run)
    assert found[content_hash("p0")][1] == named(0, "long", 1)
    assert found[content_hash("p9")] == (named(9, "short", 0), named(9, "long", 0))
    assert manifest.details["mixes"]["dpo"]["without_pair"] == {}


def test_prompts_that_only_lack_a_pair_are_counted_so(tmp_path: Path) -> None:
    run, manifest = mixed(tmp_path, [*RIGHT, *WRONG], PAIRS)
    assert manifest.drops == {WITHOUT_PAIR: 8} and manifest.rows_out == 4
    lost = run.run_dir.read_table("mix", "dropped.parquet", row_type=Dropped).to_pylist()
    assert {row["where"] for row in lost} == {content_hash(f"p{number}") for number in range(4, NUM_PROMPTS)}


def test_an_arm_of_fewer_prompts_has_the_pairs_of_these(tmp_path: Path) -> None:
    run, manifest = mixed(tmp_path, [*RIGHT, *WRONG], PAIRS, PAIRS | {"name": "few", "num_prompts": 9})
    few = manifest.details["mixes"]["few"]
    assert few["pairs"] + sum(few["without_pair"].values()) == 9
    assert set(pairs(run, "few")) <= set(pairs(run))


def test_an_arm_without_any_pair_is_refused_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(StageError, match=r"(?s)none of the 12 prompts of mixes\[dpo\] has a pair.*num_samples"):
        mixed(tmp_path, RIGHT)


def test_the_same_traces_give_the_same_pairs_whatever_their_order(tmp_path: Path) -> None:
    more = [wrong(number, sample) for number in range(6) for sample in (2, 3)]
    one, _ = mixed(tmp_path / "a", [*RIGHT, *WRONG, *more])
    other, _ = mixed(tmp_path / "b", [*more[::-1], *WRONG[::-1], *RIGHT])
    assert pairs(one) == pairs(other)
    assert np.unique([rejected for _, rejected in pairs(one).values()]).size == len(pairs(one))
