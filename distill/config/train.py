"""The optimiser budget and everything else about training."""

from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Literal

from pydantic import Field

from distill.config.base import Section, Share
from distill.config.mix import BothMix, MixConfig, SingleMix, WeightedMix
from distill.core.errors import Problem


class TrainConfig(Section):
    """One optimiser budget for every arm: arms that would take different numbers of steps are refused."""

    ADDED_LATER = ("early_prompts", "trackers", "tracking_uri", "held_out_prompts")

    budget: Literal["epochs", "steps", "tokens"] = "epochs"
    """What is the same for every arm: passes over its rows; optimiser steps of `batch_size` rows, whatever the arm
    holds; or supervised tokens and steps both, each step taking as many rows as make up its share of the tokens."""
    num_epochs: int = Field(default=2, ge=1)
    """Passes over the rows; for the budget `epochs`."""
    num_steps: int | None = Field(default=None, ge=1)
    """Optimiser steps of every cell; for the budgets `steps` and `tokens`."""
    num_tokens: int | None = Field(default=None, ge=1)
    """Supervised tokens of every cell; for the budget `tokens`."""
    unmatched: bool = False
    """Allow arms with different numbers of optimiser steps, which no comparison between them is fair with."""
    batch_size: int = Field(default=16, ge=1)
    """Rows per optimiser step, over all workers."""
    max_length: int = Field(default=4096, ge=8)
    """Longest prompt plus completion, tokens. A longer example is dropped and counted, never cut."""
    warmup_ratio: Share = 0.1
    """Share of the steps over which the learning rate rises; then it falls as a cosine."""
    weight_decay: float = Field(default=0.0, ge=0.0)
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are clipped to this norm."""
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1)
    """Training seeds (row order, initial adapter): every student x mix is trained once with each."""
    checkpoint_every_steps: int = Field(default=50, ge=1)
    """Optimiser steps between checkpoints."""
    max_failures: int = Field(default=2, ge=0)
    """How often one cell is restarted from its last checkpoint."""
    max_parallel_cells: int | None = Field(default=None, ge=1)
    """Cells trained at once. Absent: as many as the cluster holds."""
    early_prompts: int | None = Field(default=None, ge=1)
    """Begin training when the teachers are done with this many prompts, the first in the seeded order, on machines that
    they leave free, while they still write for the rest. Every cell takes the rows of these prompts first, whenever it
    begins, so that its result does not depend on the clock. Needs the budget `steps` and arms whose rows do not depend
    on prompts still to come (`single`, `both`, `weighted` with `assign = "threshold"`). Absent: after generation."""
    held_out_prompts: int | None = Field(default=None, ge=1)
    """Common prompts that no arm teaches. Every cell's loss on their traces is measured before and after its training,
    pool by pool: what is left to see where accuracy is at the floor. Absent: none."""
    trackers: tuple[Literal["tensorboard", "mlflow"], ...] = ()
    """Where the steps' values are shown beside `metrics.jsonl`: TensorBoard files in every cell's folder, MLflow (extra
    `mlflow`)."""
    tracking_uri: str = Field(default="", pattern=r"^[^@\s]*$")
    """MLflow's; without credentials, which it reads from the environment. Absent: the folder `mlruns` of the run."""


TRACKERS = ("tensorboard", "mlflow")


def missing_trackers(names: Sequence[str]) -> list[str]:
    """Those of the named trackers whose library is not installed."""
    modules = {"tensorboard": "tensorboardX", "mlflow": "mlflow"}
    return [name for name in names if find_spec(modules[name]) is None]


def _budget_problems(train: Mapping[str, Any]) -> Iterator[Problem]:
    """A budget that lacks its number, or a number that its budget would not look at."""
    budget = train.get("budget", "epochs")
    needed = {"steps": ["num_steps"], "tokens": ["num_steps", "num_tokens"]}.get(budget, [])
    for name in ("num_steps", "num_tokens"):
        if name in needed and train.get(name) is None:
            yield Problem(f"train.{name}", f"is missing, and train.budget is {budget!r}", "say how many")
        if name not in needed and train.get(name) is not None:
            what = f"{train[name]} is never looked at: train.budget is {budget!r}"
            yield Problem(f"train.{name}", what, f"remove it, or set train.budget = {name.removeprefix('num_')!r}")


def _tracker_problems(train: Mapping[str, Any]) -> Iterator[Problem]:
    """Trackers whose library is missing: known before the teachers are paid."""
    told = train.get("trackers")
    names = [name for name in told if name in TRACKERS] if isinstance(told, list | tuple) else []
    for name in missing_trackers(names):
        remedy = f"pip install 'mix-distillation-on-ray[{name}]', on every machine of the cluster"
        yield Problem("train.trackers", f"{name} is not installed here", remedy)
    if train.get("tracking_uri") and "mlflow" not in names:
        yield Problem("train.tracking_uri", "is MLflow's, and train.trackers does not name it", 'add "mlflow" there')


def _unequal_arms(train: Mapping[str, Any], mixes: Sequence[MixConfig]) -> Iterator[Problem]:
    """Arms that take different numbers of steps whatever the teachers write: `both` has a row per pool and prompt."""
    if train.get("budget", "epochs") != "epochs" or train.get("unmatched"):
        return
    rows = {mix.name: len(mix.shares) if isinstance(mix, BothMix) else 1 for mix in mixes}
    if len(set(rows.values())) > 1:
        wide = ", ".join(f"{name} {count}" for name, count in rows.items())
        what = f"the arms take different numbers of optimiser steps; rows per prompt: {wide}"
        remedy = 'set train.budget = "steps" with train.num_steps, or train.unmatched = true'
        yield Problem("train.budget", what, remedy)


def early_problems(train: Mapping[str, Any], mixes: Sequence[MixConfig]) -> Iterator[Problem]:
    """Training that begins on the first prompts, with a plan or arms that depend on those still to come."""
    if train.get("early_prompts") is None:
        return
    if train.get("budget", "epochs") != "steps":
        what = f"train.budget is {train.get('budget', 'epochs')!r}: how many steps there are depends on prompts to come"
        yield Problem("train.early_prompts", what, 'set train.budget = "steps" with train.num_steps')
    if train.get("held_out_prompts") is not None:
        what = "is set, and which prompts are held out depends on prompts to come"
        yield Problem("train.held_out_prompts", what, "leave it or train.early_prompts out")
    for mix in mixes:
        is_alone = isinstance(mix, WeightedMix) and mix.assign == "threshold" and not mix.stratify
        if not (is_alone or isinstance(mix, SingleMix | BothMix)):
            what = "train.early_prompts, but which trace a prompt takes here depends on the prompts to come"
            remedy = 'policy = "weighted" with assign = "threshold" and no stratify, or leave train.early_prompts out'
            yield Problem(f"mixes[{mix.name}]", what, remedy)
