"""Scores of a trace under an untouched student, and the arm that they choose."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from distill.config.mix import StudentFitMix
from distill.core.run_dir import trace_fits
from distill.mix.fit_scorer import (
    COPIED_TOKENS,
    TraceFit,
    length_batches,
    shared_batches,
    split_row,
    surprisal_and_rank,
    trace_fit,
)
from distill.mix.policies import choose
from distill.mix.source import MixSource
from distill.mix.stage import mix_stage
from distill.mix.student_fit import student_key
from distill.models.chat_template import IGNORED, Rendered
from tests.fixtures.mix_data import candidates_of, full_rows
from tests.fixtures.mix_run import RECIPE, make_run, trace


def test_scores_follow_their_definitions() -> None:
    fit = trace_fit("t", [7, 8, 9, 7], [0.1, 0.5, 2.0, 3.4], [1, 2, 4, 500])
    assert fit.mean_nll == pytest.approx(6.0 / 4)
    assert fit.rsr == pytest.approx((1 + 2 + 4 + 100) / 6.0)
    assert (fit.unshifted, fit.marginal, fit.shifted) == (0.25, 0.25, 0.5)
    assert (fit.shifted_tokens, fit.shifted_ranks) == ([9, 7], [4, 500])
    assert trace_fit("t", [1], [0.0], [1]).rsr == math.inf


def test_ranks_and_surprisal_are_those_of_the_full_distribution() -> None:
    logits = torch.randn(1100, 37, generator=torch.Generator().manual_seed(0))
    targets = torch.arange(1100) % 37
    nll, ranks = surprisal_and_rank(logits, targets)
    order = logits.argsort(dim=1, descending=True)
    assert ranks.tolist() == [order[row].tolist().index(target) + 1 for row, target in enumerate(targets.tolist())]
    assert torch.allclose(nll, torch.nn.functional.cross_entropy(logits, targets, reduction="none"), atol=1e-5)


def test_batches_keep_to_the_budget_and_hold_every_row_once() -> None:
    lengths = [5, 300, 7, 120, 90, 1000, 3]
    batches = list(length_batches(lengths, budget=400))
    assert sorted(row for batch in batches for row in batch) == list(range(7))
    assert all(len(batch) == 1 or max(lengths[row] for row in batch) * len(batch) <= 400 for batch in batches)


def test_rows_with_a_long_common_prompt_are_few_in_a_pass_since_each_has_a_copy_of_it() -> None:
    assert [len(batch) for batch in length_batches([10] * 256, copied=100)] == [256]
    batches = list(length_batches([10] * 256, copied=COPIED_TOKENS // 100))
    assert [len(batch) for batch in batches] == [100, 100, 56]
    assert [len(batch) for batch in length_batches([10] * 2, copied=2 * COPIED_TOKENS)] == [1, 1]


def test_the_arm_takes_the_trace_that_fits_best() -> None:
    plain = candidates_of(full_rows(3))
    fits = {"s/rsr": np.array([[1.0, 2.0], [5.0, 4.0], [3.0, 3.0]])}
    mix = StudentFitMix(name="fit", pools=("short", "long"), student="s")
    choice = choose([mix], dataclasses.replace(plain, fits=fits), 0)["fit"]
    assert choice.pools.tolist() == [0, 1, 0]


def test_rows_that_share_prompts_come_together_as_far_as_their_prompts_fit() -> None:
    first, second, third = [1] * 40, [2] * 50, [3] * 60
    prompts = [first, first, second, second, second, third]
    assert list(shared_batches(prompts, budget=100)) == [[0, 1, 2, 3, 4], [5]]
    assert list(shared_batches(prompts, budget=10)) == [[0, 1], [2, 3, 4], [5]]


def test_a_row_is_cut_before_the_token_that_predicts_its_answer() -> None:
    row = Rendered([5, 6, 7, 8, 9], [IGNORED, IGNORED, IGNORED, 8, 9])
    shared, alone = split_row(row, shares=True), split_row(row, shares=False)
    assert shared == ([5, 6], [7, 8, 9], [8, 9, IGNORED])
    assert alone == ([], [5, 6, 7, 8, 9], [IGNORED, IGNORED, 8, 9, IGNORED])


def test_a_pool_whose_prompts_were_all_routed_has_no_scores(tmp_path: Path) -> None:
    fit = {"name": "fit", "policy": "student_fit", "pools": ["long", "short"], "student": "s"}
    short, long = ([trace(number, pool) for number in range(3)] for pool in ("short", "long"))
    long = [dataclasses.replace(one, completion=" ".join(map(str, range(200)))) for one in long]
    changes = {"mixes": [*RECIPE["mixes"][:2], fit], "filters": {"too_long_takes": "short"}}
    run = make_run(tmp_path, [*short, *long], num_prompts=3, change=lambda raw: raw | changes)
    key = student_key(MixSource(run.recipe, run.run_dir, (), run.models), "s")
    scores = [trace_fit(one.trace_id, [7, 8], [0.5, 2.0], [1, 5]) for one in short]
    run.run_dir.write_rows(scores, TraceFit, *trace_fits(key), "0.parquet")
    found = mix_stage(run).details["fit"]["s"]
    assert found.keys() == {"short"} and found["short"]["traces"] == 3
