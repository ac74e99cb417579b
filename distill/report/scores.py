"""Scores of a run as outcomes per prompt: which models were scored, and the numbers of one model on one benchmark."""

import itertools
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distill.config import Recipe
from distill.report.numbers import ModelScore
from distill.run_dir import RunDir
from distill.schema import Score, Verdict
from distill.statistics import accuracy, accuracy_interval, wilson_interval
from distill.variance import Shares

COLUMNS = ("prompt_id", "sample_index", "verdict", "completion_tokens", "finish_reason")


@dataclass(frozen=True)
class Scored:
    """One model's graded rows on one benchmark, without the completions."""

    model: str
    student: str
    mix: str
    seed: int | None
    benchmark: str
    prompt_ids: NDArray[np.str_]
    verdicts: NDArray[np.str_]
    tokens: NDArray[np.int64]
    is_truncated: NDArray[np.bool_]


@dataclass(frozen=True)
class Model:
    """A name under `evaluate/`, taken apart."""

    name: str
    student: str
    mix: str
    seed: int | None


def expected_models(recipe: Recipe) -> list[Model]:
    """Every model of the recipe, as evaluate names it: what else lies in the folder belongs to an older recipe."""
    several = len(recipe.train.seeds) > 1
    found = []
    for student in recipe.students:
        found.append(Model(student.name, student.name, "", None))
        for mix, seed in itertools.product(recipe.mixes, recipe.train.seeds):
            name = f"{student.name}@{mix.name}" + (f"@{seed}" if several else "")
            found.append(Model(name, student.name, mix.name, seed))
    return found


def read_scores(recipe: Recipe, run_dir: RunDir) -> list[Scored]:
    """All scores of the recipe's models, in the recipe's order."""
    read = [
        read_scored(run_dir, model, benchmark)
        for benchmark in recipe.evaluate.benchmarks
        for model in expected_models(recipe)
    ]
    return [scored for scored in read if len(scored.prompt_ids)]


def read_scored(run_dir: RunDir, model: Model, benchmark: str) -> Scored:
    """One file of scores; empty where there is none."""
    table = run_dir.read_table("evaluate", model.name, f"{benchmark}.parquet", row_type=Score, columns=COLUMNS)
    return Scored(
        model=model.name,
        student=model.student,
        mix=model.mix,
        seed=model.seed,
        benchmark=benchmark,
        prompt_ids=_strings(table, "prompt_id"),
        verdicts=_strings(table, "verdict"),
        tokens=table["completion_tokens"].to_numpy(),
        is_truncated=_strings(table, "finish_reason") == "length",
    )


def model_score(scored: Scored) -> ModelScore:
    """The numbers of one model on one benchmark."""
    counts = {verdict: int((scored.verdicts == verdict.value).sum()) for verdict in Verdict}
    shares = outcome_shares([scored], np.unique(scored.prompt_ids))
    num_graded = len(scored.verdicts) - counts[Verdict.ERROR]
    return ModelScore(
        model=scored.model,
        student=scored.student,
        mix=scored.mix,
        seed=scored.seed,
        benchmark=scored.benchmark,
        accuracy=accuracy(shares) if num_graded else None,
        interval=accuracy_interval(shares) if num_graded else wilson_interval(0, 0),
        num_prompts=len(np.unique(scored.prompt_ids)),
        num_graded=num_graded,
        correct=counts[Verdict.CORRECT],
        incorrect=counts[Verdict.INCORRECT],
        no_answer=counts[Verdict.NO_ANSWER],
        errors=counts[Verdict.ERROR],
        mean_tokens=float(scored.tokens.mean()),
        p95_tokens=float(np.quantile(scored.tokens, 0.95)),
        truncated=int(scored.is_truncated.sum()),
    )


def outcome_shares(runs: list[Scored], prompt_ids: NDArray[np.str_]) -> Shares:
    """[runs, prompts]: share of each prompt's graded completions that are correct; NaN where none was graded."""
    return np.vstack([_run_shares(run, prompt_ids) for run in runs])


def _run_shares(run: Scored, prompt_ids: NDArray[np.str_]) -> NDArray[np.float64]:
    graded = (run.verdicts != Verdict.ERROR.value) & np.isin(run.prompt_ids, prompt_ids)
    positions = np.searchsorted(prompt_ids, run.prompt_ids[graded])
    correct = (run.verdicts[graded] == Verdict.CORRECT.value).astype(np.float64)
    num_graded = np.bincount(positions, minlength=len(prompt_ids)).astype(np.float64)
    num_correct = np.bincount(positions, weights=correct, minlength=len(prompt_ids))
    shares = np.full(len(prompt_ids), np.nan)
    np.divide(num_correct, num_graded, out=shares, where=num_graded > 0)
    return shares


def _strings(table: pa.Table, column: str) -> NDArray[np.str_]:
    return np.asarray(table[column].to_pylist(), dtype=np.str_)
