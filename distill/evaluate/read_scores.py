"""Scores of a run as columns, for the report and the search."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distill.config.passes import cell_name
from distill.config.recipe import Recipe
from distill.core.run_dir import RunDir, benchmark_scores
from distill.core.schema import Score, Verdict
from distill.evaluate.arms import arm_name, arms_of
from distill.evaluate.models import mode_name
from distill.evaluate.variance import Shares
from distill.grading.instructions import NOT, STRICT, from_words

COLUMNS = (
    "prompt_id",
    "verdict",
    "completion_tokens",
    "finish_reason",
    "repetition",
    "string_match",
    "detail",
    "judge_verdict",
)


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
    repetition: NDArray[np.float64]
    """Share of each completion's 8-word runs that occur earlier in it."""
    string_matches: NDArray[np.str_]
    """Verdicts of the plain string comparison; empty where it has no rule for the kind of answer."""
    second_verdicts: NDArray[np.str_]
    """Verdicts under another reading: the loose one of instructions, a judge's of refusals; empty where there is
    none."""
    instructions: NDArray[np.int64]
    """[rows, 3]: instructions of the prompt, and how many are followed under the strict and under the loose reading."""


@dataclass(frozen=True)
class ScoredModel:
    """A model in `evaluate/`, with the parts of its name."""

    name: str
    student: str
    mix: str
    """Its mix, with the mode that it was scored in where the mix has modes; empty for an untouched student."""
    seed: int | None
    cell: str = ""
    """The cell that it was trained in; empty for an untouched student."""


def expected_models(recipe: Recipe) -> list[ScoredModel]:
    """Every model that the recipe scores. Other folders of `evaluate/` belong to an earlier recipe."""
    found = []
    for student in recipe.students:
        found.append(ScoredModel(student.name, student.name, "", None))
        arms = [arm for arm in (*recipe.mixes, *recipe.merges) if recipe.takes(student.name, arm.name)]
        for mix, seed in itertools.product(arms, recipe.train.seeds):
            name = cell_name(recipe, student.name, mix.name, seed)
            found += [
                ScoredModel(mode_name(name, mode), student.name, arm, seed, cell=name) for arm, mode in mix.arms.items()
            ]
    return [*found, *_made_to_answer(recipe, found)]


def _made_to_answer(recipe: Recipe, models: Sequence[ScoredModel]) -> Iterator[ScoredModel]:
    """The evaluation arms; they have no training cell of their own."""
    known = {name: model for model in models for name in (model.cell, model.name)}
    for arm in arms_of(recipe):
        model = known[arm.base]
        mix = model.mix if arm.base == model.name else model.mix.partition(":")[0]
        yield replace(model, name=arm.name, mix=arm_name(mix, arm.plan.suffix), cell="")


def models_by_itself(recipe: Recipe, cell: str) -> dict[str, ScoredModel]:
    """How a cell's student answers by itself: mode -> the model that is scored in it.

    The mode is empty where the student has none, and where it is left to choose (the evaluation arm `mode = "auto"`).
    """
    free = {arm.name for arm in arms_of(recipe) if arm.base == cell and arm.plan.key == "mode"}
    own = [one for one in expected_models(recipe) if one.cell == cell or one.name in free]
    return {one.name.removeprefix(cell).removeprefix(":") if one.cell else "": one for one in own}


def trained_models(recipe: Recipe) -> list[ScoredModel]:
    """The trained and merged models, each once whatever modes it is scored in."""
    models = {model.cell: model for model in expected_models(recipe) if model.cell}
    return [replace(model, name=cell, mix=model.mix.partition(":")[0]) for cell, model in models.items()]


def read_scores(recipe: Recipe, run_dir: RunDir) -> list[Scored]:
    """All scores of the recipe's models, in the recipe's order."""
    read = [
        read_scored(run_dir, model, benchmark)
        for benchmark in recipe.evaluate.benchmarks
        for model in expected_models(recipe)
    ]
    return [scored for scored in read if len(scored.prompt_ids)]


def read_scored(run_dir: RunDir, model: ScoredModel, benchmark: str) -> Scored:
    """One file of scores; empty where there is none."""
    table = run_dir.read_table(*benchmark_scores(model.name, benchmark), row_type=Score, columns=COLUMNS)
    readings = list(zip(table["detail"].to_pylist(), table["judge_verdict"].to_pylist(), strict=True))
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
        repetition=table["repetition"].to_numpy(),
        string_matches=_strings(table, "string_match"),
        second_verdicts=np.asarray([_second_verdict(*pair) for pair in readings], dtype=np.str_),
        instructions=np.asarray([_counts(detail) for detail, _ in readings], dtype=np.int64).reshape(-1, 3),
    )


def _counts(detail: str) -> tuple[int, int, int]:
    followed = [one.how for one in from_words(detail)]
    return len(followed), followed.count(STRICT), len(followed) - followed.count(NOT)


def _second_verdict(detail: str, judge_verdict: str) -> str:
    num, _, loose = _counts(detail)
    if not num:
        return judge_verdict
    return (Verdict.CORRECT if loose == num else Verdict.INCORRECT).value


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
