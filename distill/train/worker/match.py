"""A student's own answers as rows, and how far each of their tokens is from the teacher in a step.

The student's log-probabilities come from the engine that trains, those of the teacher from files
(`distill.train.rollouts`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
import torch.distributed as dist

from distill.core.run_dir import RunDir, StageName
from distill.core.schema import Dropped, dropped
from distill.models.chat_template import IGNORED
from distill.train.rollouts.figures import PARTS, third_of
from distill.train.rollouts.store import Rollout, read_rollouts, teacher_scores
from distill.train.rollouts.write import read_examples, student_prompt
from distill.train.worker.batches import TrainRow
from distill.train.worker.pairs import MicroBatch, scored

if TYPE_CHECKING:
    from deepspeed.runtime.engine import DeepSpeedEngine
    from transformers import PreTrainedTokenizerBase

    from distill.train.rollouts.plan import RolloutPlan

NO_ROLLOUT = "no_answer_of_the_student"
NOT_SCORED = "not_scored"
"""Its pool's teacher is not one that the arm is compared with: a row that was routed (`filters.too_long_takes`)."""
TOO_LONG = "too_long"


class OwnToken(NamedTuple):
    """Columns of what is known of each learnt token of an answer, [n] each."""

    teacher: np.ndarray[Any, np.dtype[np.float32]]
    """Log-probability under the teacher, nats."""
    sampled: np.ndarray[Any, np.dtype[np.float32]]
    """The same under the student that wrote it."""
    third: np.ndarray[Any, np.dtype[np.int64]]
    """Of the answer, 0 to 2."""
    is_end: np.ndarray[Any, np.dtype[np.bool_]]
    """Whether it ends the answer."""


class OwnAnswers(NamedTuple):
    """The rows of a cell that matches its teachers."""

    kept: list[TrainRow]
    drops: list[Dropped]
    tokens: dict[str, OwnToken]
    """Row -> its tokens."""


def load_answers(
    run_dir: RunDir, cell: str, shard: str, plan: RolloutPlan, tokenizer: PreTrainedTokenizerBase, *,
    max_length: int, first_tokens: int | None,
) -> OwnAnswers:  # fmt: skip
    """The student's answers as rows, each after its prompt; rows without one are dropped and counted."""
    answers = {one.trace_id: one for one in read_rollouts(run_dir, cell)}
    scores = teacher_scores(run_dir, cell, plan)
    found = OwnAnswers([], [], {})
    for example in read_examples(run_dir, shard):
        name = example["trace_id"]
        prompt = student_prompt(tokenizer, example)
        answer = answers.get(name)
        if answer is None or name not in scores:
            reason = NO_ROLLOUT if answer is None else NOT_SCORED
            found.drops.append(dropped(StageName.TRAIN, cell, reason, row=example))
        elif len(prompt) + len(answer.tokens) > max_length:
            found.drops.append(dropped(StageName.TRAIN, cell, TOO_LONG, row=example))
        else:
            length = min(len(answer.tokens), first_tokens or len(answer.tokens))
            found.kept.append(answer_row(example, prompt, answer, length))
            found.tokens[name] = own_tokens(answer, scores[name], length)
    return found


def answer_row(example: Mapping[str, Any], prompt: Sequence[int], answer: Rollout, length: int) -> TrainRow:
    """A row that learns the first `length` tokens of an answer, which ends it."""
    ids = np.concatenate([np.asarray(prompt, dtype=np.int32), answer.tokens[:length]])
    labels = np.concatenate([np.full(len(prompt), IGNORED, dtype=np.int32), answer.tokens[:length]])
    return TrainRow(example["trace_id"], example["pool"], ids.tolist(), labels.tolist(), phase=example["phase"])


def own_tokens(answer: Rollout, teacher: np.ndarray[Any, np.dtype[np.float32]], length: int) -> OwnToken:
    """What is known of the first `length` tokens of an answer; thirds are those of the whole."""
    is_end = np.zeros(len(answer.tokens), dtype=np.bool_)
    is_end[-1] = answer.is_finished
    return OwnToken(teacher[:length], answer.sampled[:length], third_of(len(answer.tokens))[:length], is_end[:length])


class StepScores(NamedTuple):
    """A step's tokens of this worker, one tensor per micro-batch, and their figures over all workers."""

    nll: list[torch.Tensor]
    """[n] each: negative log-likelihood under the student as it is now, nats."""
    teacher: list[torch.Tensor]
    """[n] each: log-probability under the teacher, nats."""
    figures: dict[str, float]
    """`kl`, sampled reverse KL in nats per token, also by thirds (`kl_first` ...); `drift`, by how much less likely the
    tokens are than when they were sampled; `end`, log-probability of the tokens that end an answer."""


def score_step(
    engine: DeepSpeedEngine, micros: Iterable[MicroBatch], rows: Sequence[TrainRow], tokens: Mapping[str, OwnToken]
) -> StepScores:
    """Score a step's tokens with the student as it is. Changes no weight.

    Args:
        engine: with the student's weights.
        micros: of this worker in the step.
        rows: of the cell.
        tokens: row -> what is known of its tokens.
    """
    nlls, teachers = [], []
    table = torch.zeros(len(PARTS) + 2, 2, dtype=torch.double, device=engine.device)
    for micro, losses in scored(engine, micros):
        known = [tokens[rows[row].trace_id] for row in micro.rows]
        nlls.append(losses)
        teachers.append(_joined([one.teacher for one in known], losses))
        table += _sums(known, losses)
    dist.all_reduce(table)
    return StepScores(nlls, teachers, step_figures(table))


def _joined(columns: Sequence[Any], like: torch.Tensor) -> Any:
    """A column of the rows of a micro-batch as one tensor; empty for a worker without rows."""
    joined = np.concatenate(columns) if columns else np.zeros(0, dtype=np.float32)
    return torch.from_numpy(joined).to(like.device)


def _sums(known: Sequence[OwnToken], losses: torch.Tensor) -> torch.Tensor:
    """[third ..., drift, end] x (sum, tokens), in fp64."""
    table = torch.zeros(len(PARTS) + 2, 2, dtype=torch.double, device=losses.device)
    if not known:  # a worker without rows
        return table
    teacher, sampled, third, is_end = (_joined(column, losses) for column in zip(*known, strict=True))
    own = losses.double()
    ones = torch.ones_like(own)
    table.index_add_(0, third, torch.stack([-own - teacher, ones], dim=1))
    table[len(PARTS)] = torch.stack([(sampled + own).sum(), ones.sum()])
    table[len(PARTS) + 1] = torch.stack([-own[is_end].sum(), is_end.double().sum()])
    return table


def step_figures(table: torch.Tensor) -> dict[str, float]:
    """The figures of `StepScores` from their sums over all workers; those without a token are left out."""
    *thirds, drift, end = table.tolist()
    total, count = (sum(column) for column in zip(*thirds, strict=True))
    parts = {f"kl_{part}": value / number for part, (value, number) in zip(PARTS, thirds, strict=True) if number}
    found = {"kl": total / max(1.0, count), **parts, "drift": drift[0] / max(1.0, drift[1])}
    return found | ({"end": end[0] / end[1]} if end[1] else {})
