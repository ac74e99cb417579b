"""The training loop of every worker of a cell: load, build the engine, resume, step, save.

Runs inside Ray Train. All workers have all rendered rows and the same order of steps; each takes its share of a step.
"""

from __future__ import annotations

import dataclasses
import json
import math
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.distributed as dist

from distill.config.objectives import Match, Prefer, Reinforce, is_scored_first
from distill.config.students import LoraTune
from distill.core.errors import DistillError, FullDiskError, StageError
from distill.core.full_disk import full_disk_said
from distill.core.run_dir import RunDir, Training, written_folders
from distill.core.schema import Dropped, seed_for
from distill.models.chat_template import end_of_turn
from distill.models.resolve import load_tokenizer
from distill.models.save import try_save
from distill.train.attempts import Lease, record_begin, record_event
from distill.train.budget import StepOrder, score_flops, train_flops
from distill.train.rollouts.figures import training_fault
from distill.train.rollouts.store import read_figures
from distill.train.worker.async_checkpoint import AsyncCheckpointer
from distill.train.worker.batches import learning_rate, made_ahead, micro_batches
from distill.train.worker.checkpoint import STATE, Checkpoints, reading
from distill.train.worker.deepspeed_engine import build_engine, build_loss
from distill.train.worker.device import memory_gib, mfu, peak_flops
from distill.train.worker.held_out import held_out_loss
from distill.train.worker.job import CellJob
from distill.train.worker.loss import row_tensors, sums_by
from distill.train.worker.match import score_step
from distill.train.worker.metrics import MetricsLog, StepMetrics, last_means
from distill.train.worker.objectives import (
    describe_objective,
    match_weights,
    mode_weights,
    pair_metrics,
    prefer_losses,
    prefer_weights,
    reinforce_weights,
)
from distill.train.worker.pairs import MicroBatch, of_tokens, pair_sums, reference_scores, scored
from distill.train.worker.process import Clock, log_line, peak_rss_gib, prepare_process, rank, worker_log
from distill.train.worker.rounds import RoundRows, Rounds
from distill.train.worker.row_audit import AUDIT_FILE, audit_rows, require_end_of_turn
from distill.train.worker.rows import Rows, load_rows
from distill.train.worker.save_student import export_student, set_generation_config
from distill.train.worker.student import without_adapter
from distill.train.worker.trackers import TrackedRun, Trackers

if TYPE_CHECKING:
    from deepspeed.runtime.engine import DeepSpeedEngine
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Outcome:
    """How a cell ended, for the driver: counts and measurements, or an error that a retry would not cure."""

    key: str
    error: str = ""
    rows_in: int = 0
    rows_out: int = 0
    drops: Mapping[str, int] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)


class BatchLoss(NamedTuple):
    """The loss of one optimiser step over all workers, before the step."""

    mean: float
    """What the objective minimises: over the supervised tokens, or the pairs."""
    pools: Mapping[str, float]
    """Pool -> mean over its supervised tokens; empty for pairs, and where teachers are matched."""
    pairs: Mapping[str, float]
    """Of `pair_metrics`; empty where rows stand alone."""
    match: Mapping[str, float] = {}
    """Of `step_figures`; empty unless teachers are matched."""
    rewards: Mapping[str, float] = {}
    """Of the round and of clipping; empty unless answers have rewards."""


# The worker

FIRST_ENDS_S = 60.0
"""As long a worker with an error waits for the first one to end by the same; then the error is its own."""
POLL_S = 0.5


def train_worker(config: dict[str, Any]) -> None:
    """The function that Ray Train runs on every worker: `config["job"]` is the cell."""
    job: CellJob = config["job"]
    run_dir = RunDir(job.run_uri)
    with worker_log(job, run_dir):
        prepare_process(job)
        if rank() == 0:
            record_begin(run_dir, job.cell, job.num_workers)
        try:
            with full_disk_said(*written_folders(run_dir)):
                outcome = _train(job, run_dir)
        except FullDiskError:
            # It meets one worker, and others may wait for that one: Ray ends them all, and tries again, for room may
            # have been made by then.
            raise
        except DistillError as error:
            # Ray Train would restart the cell, and it would fail again: the error goes to the driver instead.
            outcome = Outcome(job.key, error=str(error))
            if rank() != 0 and not _first_has_ended(run_dir, job.cell):
                raise  # the others would wait for this worker until they time out, and nobody would know why
        if rank() == 0:
            ended = "failed" if outcome.error else "done"
            record_event(run_dir, job.cell, "end", outcome=ended, detail=outcome.error[:300])
            run_dir.write_bytes(json.dumps(dataclasses.asdict(outcome)).encode(), *Training(job.cell).outcome)


def _first_has_ended(run_dir: RunDir, cell: str) -> bool:
    """Whether the first worker has told the driver how the cell ended, or does within `FIRST_ENDS_S`."""
    until_s = time.monotonic() + FIRST_ENDS_S
    while not (has_ended := run_dir.exists(*Training(cell).outcome)) and time.monotonic() < until_s:
        time.sleep(POLL_S)
    return has_ended


def _train(job: CellJob, run_dir: RunDir) -> Outcome:
    clock = Clock()
    tokenizer = load_tokenizer(job.model_path)
    rows = load_rows(job, run_dir, tokenizer)
    if not rows.kept:
        raise StageError(f"{job.cell}: no row is left to train on ({rows.reasons})")
    if job.rounds is None:  # whose rows are not written yet
        _audit(rows, job, run_dir, tokenizer)
    loss = build_loss(job)
    log_line(loss.layout)
    log_line(describe_objective(job.objective))
    student = without_adapter(loss.model)
    set_generation_config(student, tokenizer)
    try_save(student, tokenizer)
    clock.lap("load")
    engine = build_engine(job, loss)
    rounds = Rounds(job, job.rounds, run_dir, tokenizer) if job.rounds else None
    cell = TrainingCell(job, run_dir, engine, rows, tokenizer.pad_token_id or 0, rounds)
    clock.lap("engine")
    details = cell.run()
    clock.lap("train")
    cell.lease.check()
    details |= export_student(job, run_dir, engine, rows=cell.rows.kept, tokenizer=tokenizer)
    clock.lap("finish")
    cell.lease.check()
    _write_drops(rows.drops, job, run_dir)
    return Outcome(
        key=job.key,
        rows_in=len(rows.kept) + len(rows.drops),
        rows_out=len(rows.kept),
        drops=rows.reasons,
        details={
            **details,
            "seconds": clock.laps,
            "peak_rss_gib": peak_rss_gib(),
            "precision": job.precision,
            "layout": loss.layout,
        },
    )


def _audit(rows: Rows, job: CellJob, run_dir: RunDir, tokenizer: PreTrainedTokenizerBase) -> None:
    audit = audit_rows(rows.kept, rows.reasons, tokenizer, end=end_of_turn(tokenizer)[-1], limit=job.train.max_length)
    if rank() == 0:
        content = json.dumps(dataclasses.asdict(audit), indent=1, ensure_ascii=False)
        run_dir.write_bytes(content.encode(), *Training(job.cell).file(AUDIT_FILE))
    log_line(audit.sentence())
    if not isinstance(job.objective, Match):  # whose answers are as the student wrote them
        require_end_of_turn(audit, job.cell)


def _write_drops(drops: Sequence[Dropped], job: CellJob, run_dir: RunDir) -> None:
    if rank() == 0:
        run_dir.write_rows(drops, Dropped, *Training(job.cell).dropped)


# Resume, step, save


class TrainingCell:
    """The optimiser steps of one cell, from the newest checkpoint to the last step."""

    def __init__(
        self, job: CellJob, run_dir: RunDir, engine: DeepSpeedEngine, rows: Rows, padding: int,
        rounds: Rounds | None = None,
    ) -> None:  # fmt: skip
        """`rounds`: of a cell that is rewarded for its own answers, whose `rows` are prompts."""
        self.job, self.run_dir, self.engine, self.rows, self.padding = job, run_dir, engine, rows, padding
        self.lengths = [len(row.input_ids) for row in rows.kept]
        asked = StepOrder(job.train, rows.kept, seed=job.seed, together=job.rows_per_example)
        self.order: StepOrder | RoundRows = asked
        self.num_steps = asked.num_steps
        self.rounds, self._asked, self._prompts = rounds, asked, rows.kept
        self._written: dict[int, list[torch.Tensor]] = {}
        """Step of the present round -> losses of its tokens under the student that wrote them, by micro-batch."""
        self.checkpoints = Checkpoints(run_dir, job.cell, job.key)
        self.peak_flops = peak_flops(job.device, job.num_workers)
        self.reference: list[float] = []
        """Of pairs, the negative log-likelihood of every row under the weights that the cell starts from, nats."""
        self.start_kl = float(read_figures(run_dir, job.cell).get("start_kl", 0.0))
        self.divergences: list[float] = []
        """Of the steps so far, where teachers are matched."""
        self._feed: Iterator[MicroBatch] = iter(())
        self._saved_at = time.monotonic()

    def run(self) -> dict[str, Any]:
        """Train to the end; the measurements for the manifest."""
        before = self.held_out_loss()  # of the weights that it starts from: no checkpoint is loaded yet
        if isinstance(self.job.objective, Prefer):
            micros = (self._made(one) for one in self._split(range(len(self.rows.kept))))
            self.reference = reference_scores(self.engine, micros, self.rows.kept, self.run_dir, self.job.cell)
        first = self.resume()
        log = MetricsLog(self.run_dir, self.job.cell, resume_step=first, lease=self.lease) if rank() == 0 else None
        tracked = TrackedRun.of_cell(self.job.cell, self.job.key)
        trackers = Trackers(self.job.train, self.run_dir, tracked, log=log_line) if log else None
        if first and isinstance(self.job.objective, Match):
            self.divergences = self._earlier_divergences(log)
        try:
            for step in range(first, self.num_steps):
                self.prepare(step, is_first=step == first)
                metrics = self.step(step)
                self.checkpointer.check()
                if log and trackers:
                    log.add(metrics)
                    trackers.log(metrics)
                if self._is_saved(step + 1):
                    self.save(step + 1, log)
            self.checkpointer.wait()
        finally:
            self.checkpointer.close()
            if log and trackers:
                trackers.close()
                log.flush()
        held_out = {"before": before, "after": self.held_out_loss()} if self.rows.held_out else {}
        return self._summary(log.lines) | {"held_out_loss": held_out} if log else {}

    def _earlier_divergences(self, log: MetricsLog | None) -> list[float]:
        """Those of the steps before this attempt's first, the same for every worker: all of them decide by these."""
        shared: list[Any] = [[line.match["kl"] for line in log.lines if line.match] if log else []]
        dist.broadcast_object_list(shared)
        return list(shared[0])

    def prepare(self, step: int, *, is_first: bool) -> None:
        """What has to be there before a step. `is_first`: of this attempt."""
        if self.rounds is not None:
            if step % self.rounds.size == 0:
                self._begin_round(self.rounds, step)
        elif is_first:
            self._feed = made_ahead(self._micro_batches(range(step, self.num_steps)), self._made)

    def _begin_round(self, rounds: Rounds, step: int) -> None:
        """Have the student as it is now answer the prompts of a round, and take its answers as the rows."""
        steps = range(step, step + rounds.size)
        prompts = [[self._prompts[row] for row in self._asked.rows(one)] for one in steps]
        made = rounds.answers(step, prompts, self.engine.module.model, self.lease)
        self.rows, self.order = self.rows._replace(kept=made.answers), made
        self.lengths = [len(row.input_ids) for row in made.answers]
        # In the first step the student still is the one that wrote.
        self._written = {
            one: [losses for _, losses in scored(self.engine, map(self._made, self._split(made.rows(one))))]
            for one in steps[1:]
        }
        self._feed = made_ahead(self._micro_batches(steps), self._made)

    def held_out_loss(self) -> dict[str, float]:
        """The held-out loss with the weights as they are now."""
        return held_out_loss(
            self.engine,
            self.rows.held_out,
            self.rows.pools,
            padding=self.padding,
            max_tokens=self.micro_batch_tokens,
        )

    def resume(self) -> int:
        """Claim the cell and load the newest checkpoint that can be read; the number of steps already done."""
        shared: list[Any] = [0, ""]
        if rank() == 0:
            lease = Lease(self.run_dir, self.job.cell, uuid.uuid4().hex)
            lease.claim()
            shared = [self.checkpoints.newest_intact(), lease.attempt]
        dist.broadcast_object_list(shared)
        first, attempt = shared
        self.lease = Lease(self.run_dir, self.job.cell, attempt)
        if first:
            with reading(self.run_dir, *self.checkpoints.parts(first)) as folder:
                self.engine.load_checkpoint(
                    str(folder), tag=STATE, load_module_strict=False, load_lr_scheduler_states=False
                )
        log_line(f"starts after step {first} of {self.num_steps}")
        if rank() == 0:
            record_event(self.run_dir, self.job.cell, "resume", step=first)
        self.checkpointer = AsyncCheckpointer(
            self.engine,
            self.run_dir,
            self.checkpoints,
            rank=rank(),
            num_workers=dist.get_world_size(),
            lease=self.lease,
        )
        return int(first)

    def _is_saved(self, step: int) -> bool:
        """Whether there is a checkpoint after so many steps; after the last one the student itself is saved. A round is
        begun anew from its first step, so there is one after each and none within."""
        if self.rounds is not None:
            is_due = step % self.rounds.size == 0
        else:
            is_due = step % self.job.train.checkpoint_every_steps == 0 or self._is_late()
        return is_due and step < self.num_steps

    def _is_late(self) -> bool:
        """Whether the newest checkpoint is too old by the clock of the first worker, which all workers go by."""
        is_late = time.monotonic() - self._saved_at >= 60 * self.job.train.checkpoint_every_minutes
        told = torch.tensor(is_late, dtype=torch.uint8, device=self.engine.device)
        dist.broadcast(told, src=0)
        return bool(told.item())

    def save(self, step: int, log: MetricsLog | None) -> None:
        """Write a checkpoint; every worker writes its share. The metrics come first: they must cover its steps."""
        if log:
            log.flush()
        self.checkpointer.save(step, exclude_frozen=isinstance(self.job.student.tune, LoraTune))
        self._saved_at = time.monotonic()

    def step(self, step: int) -> StepMetrics:
        """One optimiser step (counted from 0)."""
        started = time.monotonic()
        train, seed = self.job.train, self.job.seed
        # All randomness inside a step (dropout) follows from its number, so a resumed cell repeats it exactly.
        torch.manual_seed(seed_for("step", seed, step, rank()))
        batch = self.order.rows(step)
        supervised = sum(self.rows.kept[row].supervised_tokens for row in batch)
        rate = learning_rate(step, self.num_steps, peak=self.job.peak_learning_rate, warmup_ratio=train.warmup_ratio)
        loss = self._accumulate(batch, supervised, step)
        self._require_finite(loss.mean, step, batch)
        self._require_approach(loss.match, step)
        norm = self._update(rate, step, batch)
        seconds, tokens = time.monotonic() - started, sum(self.lengths[row] for row in batch)
        flops = self._flops(batch, supervised)
        return StepMetrics(
            step=step + 1,
            num_steps=self.num_steps,
            loss=loss.mean,
            lr=rate,
            grad_norm=norm,
            tokens=tokens,
            supervised_tokens=supervised,
            seconds=round(seconds, 4),
            tokens_per_s=round(tokens / seconds, 1),
            flops=flops,
            mfu=mfu(flops, seconds, self.peak_flops),
            memory_gib=memory_gib(self.job.device),
            pools=loss.pools,
            pairs=loss.pairs,
            match=loss.match,
            rewards=loss.rewards,
        )

    def _flops(self, batch: Sequence[int], supervised: int) -> float | None:
        shape, tune, lengths = self.job.shape, self.job.student.tune, [self.lengths[row] for row in batch]
        if shape is None:
            return None
        scored = score_flops(shape, lengths, supervised) if is_scored_first(self.job.objective) else 0.0
        return train_flops(shape, tune, lengths, supervised) + scored

    def _micro_batches(self, steps: Iterable[int]) -> Iterator[tuple[list[int], bool]]:
        """This worker's micro-batches of some steps, in order, and which of them end a step."""
        for step in steps:
            yield from self._split(self.order.rows(step))

    def _split(self, rows: Sequence[int]) -> Iterator[tuple[list[int], bool]]:
        """This worker's micro-batches of some rows, and which of them is the last."""
        micros = micro_batches(
            rows, self.lengths, rank=rank(), num_workers=dist.get_world_size(), max_tokens=self.micro_batch_tokens
        )
        for position, micro in enumerate(micros, 1):
            yield micro, position == len(micros)

    def _made(self, item: tuple[list[int], bool]) -> MicroBatch:
        rows, is_last = item
        tensors = row_tensors([self.rows.kept[row] for row in rows], self.rows.pools, self.padding, self.engine.device)
        return MicroBatch(tensors, rows, is_last)

    def _step_micros(self) -> Iterator[MicroBatch]:
        """This worker's micro-batches of the step that is due."""
        for micro in self._feed:
            yield micro
            if micro.is_last:
                break

    def _accumulate(self, batch: Sequence[int], supervised: int, step: int) -> BatchLoss:
        """Add up the gradients of a step."""
        if isinstance(self.job.objective, Reinforce) and isinstance(self.order, RoundRows):
            return self._accumulate_rewarded(self.order, step, self.job.objective)
        if isinstance(self.job.objective, Prefer):
            return self._accumulate_pairs(batch, self.job.objective)
        if isinstance(self.job.objective, Match):
            return self._accumulate_matched(supervised, self.job.objective)
        table = self._add_imitated(supervised)
        pools = {name: sums[0] / sums[1] for name, sums in zip(self.rows.pools, table.tolist(), strict=True) if sums[1]}
        return BatchLoss(float(table[:, 0].sum()) / supervised, pools, {})

    def _add_imitated(self, supervised: int) -> torch.Tensor:
        """Gradients of a step whose tokens count alike, but for modes with a weight of their own."""
        weight, rows, device = self.job.mode_weight, self.rows.kept, self.engine.device
        if weight == 1.0:
            return self._add_gradients(self._step_micros(), supervised)
        micros = list(self._step_micros())
        weights = [mode_weights([rows[row] for row in micro.rows], weight, device) for micro in micros]
        return self._add_gradients(micros, supervised, weights)

    def _accumulate_pairs(self, batch: Sequence[int], objective: Prefer) -> BatchLoss:
        """The same for pairs: all rows of the step are scored before any of them has its weight."""
        micros = list(self._step_micros())
        pairs = pair_sums(self.engine, micros, batch, self.rows.kept, self.reference)
        of_row = dict(zip(batch, prefer_weights(objective, pairs).flatten().tolist(), strict=True))
        weights = [of_tokens([of_row[row] for row in micro.rows], micro).float() for micro in micros]
        self._add_gradients(micros, len(pairs.margins), weights)
        return BatchLoss(float(prefer_losses(objective, pairs).mean()), {}, pair_metrics(pairs))

    def _accumulate_matched(self, supervised: int, objective: Match) -> BatchLoss:
        """The same for the student's own answers: each token weighs what teacher and student make of it."""
        micros = list(self._step_micros())
        scored = score_step(self.engine, micros, self.rows.kept, self.rows.own)
        weights = [match_weights(objective, *one) for one in zip(scored.nll, scored.teacher, strict=True)]
        self._add_gradients(micros, supervised, weights)
        return BatchLoss(scored.figures["kl"], {}, {}, scored.figures)

    def _accumulate_rewarded(self, answers: RoundRows, step: int, objective: Reinforce) -> BatchLoss:
        """The same for answers with a reward: each token weighs what its answer is better than the others."""
        micros, num_tokens = list(self._step_micros()), answers.num_tokens(step)
        # In the first step of a round the student is the one that wrote: every ratio is 1.
        is_moved = step in self._written
        now = [losses for _, losses in scored(self.engine, micros)] if is_moved else []
        table, weights = torch.zeros(2, dtype=torch.double, device=self.engine.device), []
        for number, micro in enumerate(micros):
            advantages = of_tokens([answers.advantages[row] for row in micro.rows], micro).float()
            nll = now[number] if is_moved else torch.zeros_like(advantages)
            written = self._written[step][number] if is_moved else nll
            found = reinforce_weights(objective, nll, written, advantages)
            rows = [self.rows.kept[row] for row in micro.rows]
            weights.append(found.weights * mode_weights(rows, self.job.mode_weight, self.engine.device))
            table += torch.stack([found.losses.double().sum(), found.is_clipped.double().sum()])
        self._add_gradients(micros, num_tokens, weights)
        dist.all_reduce(table)
        loss, clipped = (table / num_tokens).tolist()
        return BatchLoss(loss, {}, {}, rewards={**answers.shown, "clipped": clipped})

    def _add_gradients(
        self, micros: Iterable[MicroBatch], divisor: int, weights: Sequence[torch.Tensor] | None = None
    ) -> torch.Tensor:
        """Forward and backward of a step; [pool, (loss, tokens)] over all workers.

        Nothing in it waits for the device until all of it is under way.

        Args:
            micros: of this worker.
            divisor: of the weighted sum: the supervised tokens or pairs of all workers.
            weights: of every micro-batch [n] in fp32, of its tokens; absent: 1 each.
        """
        workers = dist.get_world_size()
        table = torch.zeros(len(self.rows.pools), 2, dtype=torch.double, device=self.engine.device)
        for number, micro in enumerate(micros):
            self.engine.set_gradient_accumulation_boundary(micro.is_last)
            weighted = {"weights": weights[number]} if weights else {}
            loss, losses = self.engine(**micro.tensors.inputs, **weighted)
            # DeepSpeed averages over workers; the loss is a mean over all of them.
            self.engine.backward(loss * (workers / divisor), scale_wrt_gas=False)
            table += sums_by(micro.tensors.pools, losses, len(self.rows.pools))
        dist.all_reduce(table)
        return table

    @property
    def micro_batch_tokens(self) -> int:
        """Tokens of one forward pass: `micro_batch_size` times the longest row, filled with rows of any length."""
        return self.job.layout.micro_batch_size * max(self.lengths) if self.engine.module.packs else 0

    def _update(self, rate: float, step: int, batch: Sequence[int]) -> float:
        """Take the optimiser's step, unless the gradient is not finite; the norm of the gradient before clipping."""
        for group in self.engine.optimizer.param_groups:
            group["lr"] = rate
        if not self.engine.zero_optimization():
            # Without ZeRO, DeepSpeed clips by the norm but neither checks nor returns it.
            norm = _grad_norm(self.engine)
            self._require_finite(norm, step, batch)
            self.engine.step()
            return norm
        self.engine.step()  # ZeRO leaves out a step whose norm is not finite, and says that the norm is infinite
        norm = float(self.engine.get_global_grad_norm())
        self._require_finite(norm, step, batch)
        return norm

    def _require_finite(self, value: float, step: int, batch: Sequence[int]) -> None:
        if math.isfinite(value):
            return
        ids = ", ".join(self.rows.kept[row].trace_id for row in batch)
        raise StageError(
            f"{self.job.cell}: the loss or its gradient is {value} at step {step + 1} of {self.num_steps} "
            f"(rows {ids}); the last checkpoint is kept. Lower {self._rate_field} "
            f"({self.job.peak_learning_rate:g}) or inspect these rows."
        )

    def _require_approach(self, figures: Mapping[str, float], step: int) -> None:
        """Stop a training that drives the student away from its teachers."""
        if not figures:
            return
        self.divergences.append(figures["kl"])
        if fault := training_fault(self.start_kl, self.divergences):
            raise StageError(
                f"{self.job.cell}: {fault} at step {step + 1} of {self.num_steps}; the last checkpoint is kept. Lower "
                f"{self._rate_field} ({self.job.peak_learning_rate:g})."
            )

    @property
    def _rate_field(self) -> str:
        """Where the recipe sets the learning rate."""
        is_own = self.job.peak_learning_rate != self.job.student.tune.learning_rate
        return "mixes.objective.learning_rate" if is_own else "students.tune.learning_rate"

    def _summary(self, lines: Sequence[StepMetrics]) -> dict[str, Any]:
        seconds, flops = sum(line.seconds for line in lines), sum(line.flops or 0.0 for line in lines) or None
        return {
            "steps": self.num_steps,
            "steps_s": round(seconds, 2),
            "supervised_tokens": sum(line.supervised_tokens for line in lines),
            "tokens": sum(line.tokens for line in lines),
            "flops": flops,
            "mfu": mfu(flops, seconds, self.peak_flops),
            "first_loss": lines[0].loss,
            "last_loss": lines[-1].loss,
            "checkpoints_s": round(self.checkpointer.blocked_s, 2),
            "tokens_per_s": round(sum(line.tokens for line in lines) / max(seconds, 1e-9), 1),
            **({"pairs": last_means([line.pairs for line in lines])} if lines[-1].pairs else {}),
            **({"match": last_means([line.match for line in lines])} if lines[-1].match else {}),
            **({"rewards": last_means([line.rewards for line in lines])} if lines[-1].rewards else {}),
            **({"rounds": self.rounds.totals(self.num_steps)} if self.rounds else {}),
        }


def _grad_norm(engine: DeepSpeedEngine) -> float:
    gradients = [weight.grad for weight in engine.module.parameters() if weight.grad is not None]
    return float(torch.nn.utils.get_total_norm(gradients))
