"""Languages and levels of a report: how much of the reasoning is in the prompt's language, accuracy by level and
language. Of benchmarks whose prompts have a language only."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distill.core.run_dir import RunDir, benchmark_scores
from distill.core.schema import AnswerKind, Prompt, Score, Verdict
from distill.evaluate.interval import Interval
from distill.evaluate.statistics import accuracy, accuracy_interval
from distill.evaluate.variance import Shares
from distill.report.arms import Arm
from distill.report.formats import percent
from distill.report.level_table import level_order
from distill.report.score_data import LanguageScore, LevelScore

COLUMNS = ("prompt_id", "reasoning_language", "answer_language", "told_letters", "own_letters")
MAX_LISTED = 3
"""Most languages of the reasoning that are listed."""

Problems = Mapping[str, Mapping[str, Prompt]]
"""Benchmark -> prompt id -> problem."""


class _Told(NamedTuple):
    """What was told of the completions of one arm in one language."""

    prompt_ids: NDArray[np.str_]
    run: NDArray[np.int64]
    reasoning: list[str]
    answer: list[str]
    told: NDArray[np.float64]
    own: NDArray[np.float64]


def language_scores(run_dir: RunDir, arms: Sequence[Arm], problems: Problems) -> list[LanguageScore]:
    """A line per arm, benchmark and language of its prompts."""
    found = []
    for arm in arms:
        labels = _labels(arm, problems, "language")
        if any(labels):
            table = _completions(run_dir, arm)
            found += [_language_score(arm, labels == name, name, table) for name in sorted({*labels.tolist()} - {""})]
    return found


def level_scores(arms: Sequence[Arm], problems: Problems) -> list[LevelScore]:
    """Accuracy by level within each language, and over all levels; of multiple choice also without a language."""
    return [score for arm in arms if _is_by_level(problems.get(arm.benchmark, {})) for score in _levels(arm, problems)]


def language_words(scores: Sequence[LanguageScore]) -> list[str]:
    """A sentence for every line whose reasoning was told."""
    return [
        f"`{one.label}` on `{one.benchmark}`: {percent(one.in_own)} of its reasoning is in the prompts' language "
        f"({one.language}); most of a reasoning is in {_listed(one)}."
        for one in scores
        if one.in_own is not None
    ]


def _listed(score: LanguageScore) -> str:
    return ", ".join(f"{name} {percent(share)}" for name, share in score.reasoning.items())


def _is_by_level(prompts: Mapping[str, Prompt]) -> bool:
    has_levels = len({one.level for one in prompts.values()} - {""}) > 1
    is_choice = any(one.answer_kind == AnswerKind.CHOICE for one in prompts.values())
    return is_choice or (has_levels and any(one.language for one in prompts.values()))


def _labels(arm: Arm, problems: Problems, by: str) -> NDArray[np.str_]:
    """[prompts]: the label of each of the arm's prompts."""
    prompts = problems.get(arm.benchmark, {})
    return np.array([str(getattr(prompts.get(name), by, "")) for name in arm.prompt_ids.tolist()], dtype=np.str_)


def _levels(arm: Arm, problems: Problems) -> Iterator[LevelScore]:
    languages, levels = _labels(arm, problems, "language"), _labels(arm, problems, "level")
    listed = level_order(levels.tolist())
    for language in sorted({*languages.tolist()}):
        for level in [*(listed if len(listed) > 1 else []), ""]:
            is_in = (languages == language) & ((levels == level) | (level == ""))
            if is_in.any():
                yield _level_score(arm, is_in, language, level)


def _level_score(arm: Arm, is_in: NDArray[np.bool_], language: str, level: str) -> LevelScore:
    shares, ids = arm.shares[:, is_in], arm.prompt_ids[is_in]
    verdicts = np.concatenate([run.verdicts[np.isin(run.prompt_ids, ids)] for run in arm.runs])
    is_graded = not np.isnan(shares).all()
    return LevelScore(
        student=arm.student,
        mix=arm.mix,
        benchmark=arm.benchmark,
        language=language,
        level=level,
        accuracy=accuracy(shares) if is_graded else None,
        interval=accuracy_interval(shares) if is_graded else Interval(0.0, 1.0),
        num_prompts=int((~np.isnan(shares).all(axis=0)).sum()),
        correct=int((verdicts == Verdict.CORRECT.value).sum()),
        no_answer=int((verdicts == Verdict.NO_ANSWER.value).sum()),
        completions=len(verdicts),
    )


def _completions(run_dir: RunDir, arm: Arm) -> _Told:
    tables = [
        run_dir.read_table(*benchmark_scores(run.model, run.benchmark), row_type=Score, columns=COLUMNS)
        for run in arm.runs
    ]
    whole = pa.concat_tables([table.select(COLUMNS) for table in tables])
    return _Told(
        prompt_ids=np.asarray(whole["prompt_id"].to_pylist(), dtype=np.str_),
        run=np.repeat(np.arange(len(tables)), [table.num_rows for table in tables]),
        reasoning=whole["reasoning_language"].to_pylist(),
        answer=whole["answer_language"].to_pylist(),
        told=whole["told_letters"].to_numpy().astype(np.float64),
        own=whole["own_letters"].to_numpy().astype(np.float64),
    )


def _language_score(arm: Arm, is_in: NDArray[np.bool_], language: str, told: _Told) -> LanguageScore:
    ids = arm.prompt_ids[is_in]
    rows = np.flatnonzero(np.isin(told.prompt_ids, ids))
    reasoning = Counter(told.reasoning[row] for row in rows)
    del reasoning[""]
    answers = [told.answer[row] for row in rows if told.answer[row]]
    in_own = _own_shares(told, rows, ids, len(arm.runs))
    is_told, shares = not np.isnan(in_own).all(), arm.shares[:, is_in]
    is_graded = not np.isnan(shares).all()
    return LanguageScore(
        student=arm.student,
        mix=arm.mix,
        label=arm.label,
        benchmark=arm.benchmark,
        language=language,
        accuracy=accuracy(shares) if is_graded else None,
        interval=accuracy_interval(shares) if is_graded else Interval(0.0, 1.0),
        num_prompts=int((~np.isnan(shares).all(axis=0)).sum()),
        completions=len(rows),
        told=reasoning.total(),
        in_own=accuracy(in_own) if is_told else None,
        in_own_interval=accuracy_interval(in_own) if is_told else Interval(0.0, 1.0),
        answers_told=len(answers),
        answers_in_own=answers.count(language) / len(answers) if answers else None,
        reasoning={name: count / reasoning.total() for name, count in reasoning.most_common(MAX_LISTED)},
    )


def _own_shares(told: _Told, rows: NDArray[np.int64], ids: NDArray[np.str_], num_runs: int) -> Shares:
    """[runs, prompts]: mean over a prompt's completions of the share of the reasoning that is in its language; NaN
    where none was told."""
    rows = rows[told.told[rows] > 0]
    order = np.argsort(ids)
    at = order[np.searchsorted(ids, told.prompt_ids[rows], sorter=order)]
    total, count = (np.zeros((num_runs, len(ids))) for _ in range(2))
    np.add.at(total, (told.run[rows], at), told.own[rows] / told.told[rows])
    np.add.at(count, (told.run[rows], at), 1)
    return np.divide(total, count, out=np.full_like(total, np.nan), where=count > 0)
