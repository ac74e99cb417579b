"""How likely a teacher finds the tokens that the student wrote: our own scorer in a Ray task, never an engine.

The teacher reads what it is asked itself, worked examples and all, and then the student's tokens as they are: the same
ids, not the same text. So it is compared as the writer of the traces that the student learnt before.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cluster.session import Device
from cluster.storage import local_folder
from distill.config.teachers import ChatFormat
from distill.core.run_dir import RunDir
from distill.mix.feature_store import read_problems
from distill.mix.fit_scorer import FitJob, FitScorer
from distill.models.chat_template import IGNORED, Rendered, chat_messages, render_prompt
from distill.models.resolve import load_tokenizer
from distill.train.rollouts.store import Rollout, read_rollouts, write_scores
from distill.train.rollouts.write import read_examples, student_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

ITSELF = "@student"
"""The scorer of the student's own weights, for the check before the training; no teacher can have this name."""


@dataclass(frozen=True)
class ScoreJob:
    """What the scorer's task needs, sent to it by pickle."""

    run_uri: str
    cell: str
    examples: str
    """Path of the arm's rows in the run's file system."""
    scorer: str
    model: str
    """Address of the weights that score."""
    chat: ChatFormat | None
    """How the scorer is asked; None: as the student is."""
    pool: str | None
    """Only rows of this pool; None: all."""
    device: Device
    most_rows: int | None = None
    """Only so many; None: all."""


def score_answers(job: ScoreJob) -> float:
    """The Ray task: score and store; the seconds that it took without loading the model."""
    run_dir = RunDir(job.run_uri)
    examples = {row["trace_id"]: row for row in read_examples(run_dir, job.examples)}
    rollouts = [one for one in read_rollouts(run_dir, job.cell) if _is_mine(examples[one.trace_id], job.pool)]
    rollouts = rollouts[: job.most_rows]
    tokenizer = load_tokenizer(local_folder(job.model))
    problems = read_problems(run_dir) if job.chat else {}
    rows = [answer_row(scorer_prompt(tokenizer, examples[one.trace_id], job.chat, problems), one) for one in rollouts]
    longest = max((len(row.input_ids) for row in rows), default=0)
    scorer = FitScorer(FitJob(job.model, job.chat or ChatFormat(), longest, job.device, is_quick=True))
    started = time.monotonic()
    scores = scorer.log_probabilities(rows)
    seconds = time.monotonic() - started
    found: dict[str, NDArray[np.float32]] = {one.trace_id: values for one, values in zip(rollouts, scores, strict=True)}
    write_scores(run_dir, job.cell, job.scorer, found)
    return seconds


def _is_mine(example: Mapping[str, Any], pool: str | None) -> bool:
    return pool is None or example["pool"] == pool


def scorer_prompt(
    tokenizer: PreTrainedTokenizerBase,
    example: Mapping[str, Any],
    chat: ChatFormat | None,
    problems: Mapping[str, str],
) -> list[int]:
    """What the scorer reads before the student's answer. `problems`: prompt -> its text."""
    if chat is None:
        return student_prompt(tokenizer, example)
    messages = chat_messages(problems[example["prompt_id"]], chat)
    return render_prompt(tokenizer, messages, chat.template_options)


def answer_row(prompt: Sequence[int], rollout: Rollout) -> Rendered:
    """A prompt with an answer whose every token is scored."""
    tokens = rollout.tokens.tolist()
    return Rendered(input_ids=[*prompt, *tokens], labels=[IGNORED] * len(prompt) + tokens)
