"""What the students of arms that learn from their own answers write, who scores it, and how long that takes. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from distill.config.match_problems import scorers
from distill.config.objectives import Match, Prefer, Reinforce
from distill.config.recipe import Recipe
from distill.config.teachers import VllmTeacher
from distill.models.shape import ModelShape
from distill.ops.forecast.roofline import SERVED_SEQUENCES, EngineSize, device_kind, engine_rate, token_flops
from distill.ops.forecast.workload import Workload
from distill.train.budget import num_passes
from distill.train.machines import Machines
from distill.train.plan import PlannedCell
from distill.train.rollouts.write import CHUNK


class Taught(NamedTuple):
    """What the steps of a cell learn from, all passes together."""

    examples: float
    """Rows, pairs or own answers."""
    supervised_tokens: float
    """Of each."""
    rows: int
    """In each: two in a pair."""


@dataclass(frozen=True)
class OwnAnswers:
    """What a cell's student writes for its own training."""

    answers: float
    written: float
    """Tokens, without prompts."""
    scored: float
    """Of these, tokens that a teacher scores before the training."""
    read: float
    """Prompt tokens of each answer."""
    at_once: float
    """Answers that are asked for together."""
    num_scorers: int
    """Processes that score, one after another: the student itself, on a few answers, and each teacher."""


NOTHING_WRITTEN = OwnAnswers(0.0, 0.0, 0.0, 0.0, 0.0, 0)


def taught(one: PlannedCell, work: Workload, recipe: Recipe) -> Taught:
    """What a cell's steps learn from: its rows, or the student's answers to their prompts."""
    mix, how = work.mixes[one.cell.mix], one.cell.objective
    budget = one.cell.budget(recipe.train)
    if isinstance(how, Match):
        mean = min(work.answer_tokens, how.first_tokens or how.max_tokens, how.max_tokens)
        return Taught(mix.rows * num_passes(budget, mix.rows, round(mix.rows * mean)), mean, 1)
    examples = mix.rows * num_passes(budget, mix.rows, mix.supervised_tokens)
    if isinstance(how, Reinforce):
        return Taught(examples * how.samples, min(work.answer_tokens, how.max_tokens), 1)
    mean = mix.supervised_tokens / max(1, mix.rows)
    return Taught(examples, mean, 2 if isinstance(how, Prefer) else 1)


def own_answers(one: PlannedCell, work: Workload, recipe: Recipe) -> OwnAnswers:
    """What a cell's student writes. Its answers are taken to be as long as those of the evaluation."""
    how, rows = one.cell.objective, work.mixes[one.cell.mix].rows
    if isinstance(how, Match):
        written = rows * min(work.answer_tokens, how.max_tokens)
        at_once, num_scorers = min(rows, CHUNK), 1 + len(_scorers(one, recipe))
        return OwnAnswers(rows, written, written, work.row_prompt_tokens, at_once, num_scorers)
    if isinstance(how, Reinforce):
        found = taught(one, work, recipe)
        at_once = recipe.train.batch_size * how.steps_per_round * how.samples
        written = found.examples * found.supervised_tokens
        return OwnAnswers(found.examples, written, 0.0, work.row_prompt_tokens, at_once, 0)
    return NOTHING_WRITTEN


def writing_s(one: PlannedCell, found: OwnAnswers, recipe: Recipe, shape: ModelShape, machines: Machines) -> float:
    """Modelled seconds of the engine, without its start."""
    if not found.answers:
        return 0.0
    mean = found.written / found.answers
    devices = one.job.worker.cpus if machines.device == "cpu" else recipe.serve.engine.num_gpus
    size = EngineSize(shape, int(devices), SERVED_SEQUENCES[machines.device])
    context = found.read + mean / 2
    rate = engine_rate(size, device_kind(machines), recipe.forecast, context_tokens=context, requests=found.at_once)
    return found.answers * (mean / rate.tokens_per_s + found.read / rate.prefill_per_s)


def scoring_s(
    one: PlannedCell, found: OwnAnswers, recipe: Recipe, shapes: Mapping[str, ModelShape], flops_per_s: float
) -> float:
    """Modelled seconds of the teachers' forward passes over prompts and answers, without the start of the processes.

    `shapes`: by name of the model; `flops_per_s`: of one worker while it trains.
    """
    if not found.scored:
        return 0.0
    models = _scorers(one, recipe)
    length = found.read + found.written / found.answers
    mean = sum(token_flops(shapes[model], length / 2) for model in models) / len(models)
    return found.answers * length * mean / flops_per_s


def _scorers(one: PlannedCell, recipe: Recipe) -> list[str]:
    """The models that score the answers of a cell."""
    names = {name for mix in recipe.mixes if mix.name == one.cell.mix for name in scorers(mix)}
    return [teacher.model for teacher in recipe.teachers if isinstance(teacher, VllmTeacher) and teacher.name in names]
