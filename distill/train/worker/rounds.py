"""The rounds of a cell that is rewarded for its own answers: prompts, answers with rewards, rows with advantages.

A round begins with the student as it is: its adapter goes to the engine, which answers and grades; what is usable
becomes the rows of the round's steps. The answers are kept in `train/CELL/rounds/`, so that a cell that was killed
within a round takes them again, with the weights of the checkpoint at its beginning.
"""

from __future__ import annotations

import json
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

import torch.distributed as dist

from distill.config.objectives import Reinforce
from distill.config.students import LoraTune
from distill.core.errors import StageError
from distill.core.full_disk import full_disk_said
from distill.core.run_dir import RunDir, Training
from distill.core.schema import seed_for
from distill.models.chat_template import IGNORED, opening_tokens
from distill.models.thinking import prompt_end
from distill.train.attempts import Lease, SupersededError
from distill.train.rollouts.rewards import (
    SAME,
    OwnAnswer,
    advantages,
    is_told,
    round_fault,
    round_figures,
    round_words,
)
from distill.train.rollouts.round_writer import Question, start_writer
from distill.train.rollouts.rounds_plan import RoundsPlan
from distill.train.rollouts.write import read_examples
from distill.train.worker.batches import TrainRow
from distill.train.worker.checkpoint import WRITE_ERRORS
from distill.train.worker.process import log_line, rank

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from distill.train.worker.job import CellJob

ANSWERS, FIGURES = "parquet", "json"
"""Endings of a round's files; the figures are written last."""


@dataclass(frozen=True)
class RoundRows:
    """The answers of a round that its steps learn from, as rows. An answer as good as the others to its prompt has no
    gradient: it takes no pass, and its tokens count in the mean."""

    first: int
    """The round's first step."""
    answers: list[TrainRow]
    steps: tuple[tuple[int, ...], ...]
    """Of each step of the round its rows, by number."""
    tokens: tuple[int, ...]
    """Of each step: tokens of all its usable answers, those without a gradient included."""
    advantages: list[float]
    """Of every row."""
    shown: Mapping[str, float]
    """Figures of the round that the steps show."""

    def rows(self, step: int) -> tuple[int, ...]:
        """The rows of a step over all workers, by number."""
        return self.steps[step - self.first]

    def num_tokens(self, step: int) -> int:
        """Tokens that the loss of a step is a mean over."""
        return self.tokens[step - self.first]


class Rounds:
    """Writes the rounds of a cell. The first worker has the engine; the others get its answers."""

    def __init__(self, job: CellJob, plan: RoundsPlan, run_dir: RunDir, tokenizer: PreTrainedTokenizerBase) -> None:
        """Raises: StageError, the adapter is spread over several workers."""
        assert isinstance(job.objective, Reinforce), "only this objective has rounds"
        if job.layout.zero_stage == 3:
            raise StageError(
                f"{job.cell}: rounds hand the adapter to an engine, and zero_stage 3 spreads it over workers -> set "
                "students.zero_stage to 2 or less"
            )
        self.objective, self.size = job.objective, job.objective.steps_per_round
        self._job, self._plan, self._run_dir, self._tokenizer = job, plan, run_dir, tokenizer
        self._prompt_ids: dict[str, str] = {}
        self._writer: Any = None

    def answers(
        self, first: int, steps: Sequence[Sequence[TrainRow]], model: PreTrainedModel, lease: Lease
    ) -> RoundRows:
        """The answers of the student as it is to the prompts of a round's steps. Every worker must call it.

        Args:
            first: the round's first step.
            steps: the prompts of each step.
            model: the student, with its adapter.
            lease: of this attempt, which may have been given up while its engine wrote.

        Raises:
            StageError: nothing can be learnt from them, or from those of the last rounds.
            FullDiskError: they could not be written.
            SupersededError: the lease was lost.
        """
        number = first // self.size
        shared: list[Any] = [None, None]
        if rank() == 0:
            try:
                shared[0] = self._written(number, steps, model, lease)
            except (StageError, SupersededError) as error:
                shared[1] = error  # said to all workers, which would wait for the answers otherwise
        dist.broadcast_object_list(shared)
        if shared[1]:
            raise shared[1]
        try:
            return round_rows(self.objective, first, steps, shared[0], self._mode_tokens)
        except StageError:
            self._forget_errors(number, lease)
            raise

    def _mode_tokens(self, tokens: Sequence[int]) -> int:
        return opening_tokens(self._tokenizer, tokens, self._plan.openings)

    def _written(
        self, number: int, steps: Sequence[Sequence[TrainRow]], model: PreTrainedModel, lease: Lease
    ) -> list[OwnAnswer]:
        """The answers of a round: those on disk where they are whole, else new ones."""
        known, job = Training(self._job.cell), self._job
        if self._figures(number).get("key") == job.key:
            table = self._run_dir.read_table(*known.round(number, ANSWERS), row_type=OwnAnswer)
            found = [OwnAnswer(**row) for row in table.to_pylist()]
        else:
            started = time.monotonic()
            self.start()
            start_s, started = time.monotonic() - started, time.monotonic()
            found = self._ask(number, questions(steps, self, number), model)
            lease.check()
            self._run_dir.write_rows(found, OwnAnswer, *known.round(number, ANSWERS))
            written = {"key": job.key, **round_figures(self.objective, found)}
            written |= {"write_s": round(time.monotonic() - started, 2), "start_s": round(start_s, 2)}
            lease.check()
            self._run_dir.write_bytes(json.dumps(written, indent=1).encode(), *known.round(number, FIGURES))
        rounds = self._newest(number)
        log_line(f"round {number + 1}: {round_words(rounds[-1])}")
        if fault := round_fault(rounds):
            self._forget_errors(number, lease)
            raise StageError(f"{job.cell}: round {number + 1}: {fault}")
        return found

    def _newest(self, number: int) -> list[dict[str, Any]]:
        """Figures of a round and of those before it, as far as they tell whether the reward is constant."""
        found: list[dict[str, Any]] = []
        for one in range(number, -1, -1):
            found.insert(0, self._figures(one))
            if is_told(found):
                break
        return found

    def _figures(self, number: int) -> dict[str, Any]:
        return dict(json.loads(self._run_dir.read_bytes(*Training(self._job.cell).round(number, FIGURES)) or b"{}"))

    def _forget_errors(self, number: int, lease: Lease) -> None:
        """Have a round that stopped the training written and graded anew, should the cell be continued, where verdicts
        are missing: more time for the verifier may find them."""
        if rank() == 0 and self._figures(number).get("errors"):
            lease.check()
            self._run_dir.remove(*Training(self._job.cell).round(number, FIGURES))

    def totals(self, num_steps: int) -> dict[str, float]:
        """Over all rounds of a training: answers, those without a reward, tokens, and the seconds of writing them and
        of starting the engine."""
        rounds = [self._figures(one) for one in range(num_steps // self.size)]
        return {
            name: sum(one.get(name, 0) for one in rounds)
            for name in ("answers", "cut", "errors", "tokens", "write_s", "start_s")
        }

    def _ask(self, number: int, asked: Sequence[Question], model: PreTrainedModel) -> list[OwnAnswer]:
        """Hand the adapter to the engine, and ask."""
        with full_disk_said(tempfile.gettempdir()):
            folder = tempfile.mkdtemp(prefix="adapter-")
        try:
            with full_disk_said(folder, errors=WRITE_ERRORS):
                model.save_pretrained(folder)
            return self.write(number, folder, asked)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def start(self) -> None:
        """Start the engine, in the first round of an attempt, and wait until it is up."""
        import ray

        job = self._job
        assert isinstance(job.student.tune, LoraTune), "refused with the recipe"
        if self._writer is None:
            self._writer = start_writer(
                job.run_uri, self._plan, model=job.model_path, rank=job.student.tune.rank, device=job.device,
                threads=job.threads, seed=job.seed,
            )  # fmt: skip
            ray.get(self._writer.is_up.remote())

    def write(self, number: int, adapter: str, asked: Sequence[Question]) -> list[OwnAnswer]:
        """The engine's answers. `adapter`: folder of the student's."""
        import ray

        answers: list[OwnAnswer] = ray.get(self._writer.write.remote(number, adapter, list(asked)))
        return answers

    def prompt_id(self, trace_id: str) -> str:
        """The prompt of an arm's row."""
        if not self._prompt_ids:
            rows = read_examples(self._run_dir, self._job.shards[0])
            self._prompt_ids = {row["trace_id"]: row["prompt_id"] for row in rows}
        return self._prompt_ids[trace_id]

    def is_opened(self, tokens: Sequence[int]) -> bool:
        """Whether a prompt puts the student inside its reasoning."""
        return prompt_end(str(self._tokenizer.decode(list(tokens)))).opened is not None

    def seed(self, number: int, answer_id: str) -> int:
        """Of one answer, the same whenever the round is written."""
        return seed_for("round", self._job.seed, number, answer_id)


def questions(steps: Sequence[Sequence[TrainRow]], rounds: Rounds, number: int) -> list[Question]:
    """Everything that is asked in a round: `samples` answers to each prompt of each of its steps."""
    found = []
    for step, prompts in enumerate(steps):
        for place, row in enumerate(prompts):  # a prompt may be drawn twice in a step, and is answered anew then
            tokens, opened = list(row.input_ids), rounds.is_opened(row.input_ids)
            for sample in range(rounds.objective.samples):
                name = f"{step}/{place}/{row.trace_id}/{sample}"
                found.append(
                    Question(
                        name, row.trace_id, rounds.prompt_id(row.trace_id), tokens, opened,
                        rounds.objective.max_tokens, rounds.seed(number, name),
                    )
                )  # fmt: skip
    return found


def round_rows(
    objective: Reinforce,
    first: int,
    steps: Sequence[Sequence[TrainRow]],
    answers: Sequence[OwnAnswer],
    mode_tokens: Callable[[Sequence[int]], int],
) -> RoundRows:
    """The usable answers of a round as rows, by step. Pure.

    Args:
        objective: with the rewards.
        first: the round's first step.
        steps: the prompts of each step.
        answers: in the order of `questions`.
        mode_tokens: how many of an answer's first tokens say its mode.

    Raises:
        StageError: a step has none.
    """
    prompts = {row.trace_id: row for step in steps for row in step}
    found, figures = advantages(objective, answers), round_figures(objective, answers)
    usable: list[list[OwnAnswer]] = [[] for _ in steps]
    for one in answers:
        if one.is_usable:
            usable[int(one.answer_id.partition("/")[0])].append(one)
    if not all(usable):
        raise StageError(
            f"no answer to the prompts of a step has a reward ({figures['cut']} of the round's {figures['answers']} "
            f"were cut, {figures['errors']} could not be graded) -> raise objective.max_tokens or train.batch_size"
        )
    # A step in which nothing differs keeps one row, so that every worker has a pass to take.
    learnt = [[one for one in group if abs(found[one.answer_id]) > SAME] or group[:1] for group in usable]
    ends = list(accumulate(map(len, learnt), initial=0))
    every = [one for group in learnt for one in group]
    return RoundRows(
        first=first,
        answers=[answer_row(prompts[one.trace_id], one, mode_tokens(one.tokens)) for one in every],
        steps=tuple(tuple(range(start, end)) for start, end in pairwise(ends)),
        tokens=tuple(sum(len(one.tokens) for one in group) for group in usable),
        advantages=[found[one.answer_id] for one in every],
        shown={name: figures[name] for name in ("reward", "right", "mean_tokens")},
    )


def answer_row(prompt: TrainRow, answer: OwnAnswer, mode_tokens: int) -> TrainRow:
    """An answer behind its prompt, every token of it learnt."""
    ids = [*prompt.input_ids, *answer.tokens]
    labels = [*[IGNORED] * len(prompt.input_ids), *answer.tokens]
    return TrainRow(answer.answer_id, prompt.pool, ids, labels, prompt.phase, mode_tokens)
