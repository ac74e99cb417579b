"""Training: the optimiser budget and all other settings."""

from collections.abc import Iterator, Mapping, Sequence
from importlib.util import find_spec
from typing import Any, Literal, get_args

from pydantic import Field

from distill.config.arm_graph import arm_budgets
from distill.config.base import Section, Share, seed_problems
from distill.config.decides import EXTENT, NOTHING, from_stage
from distill.config.mix import BothMix, MixConfig
from distill.core.errors import Problem

KernelChoice = Literal["auto", "torch", "compile", "liger"]
TrackerName = Literal["tensorboard", "mlflow", "wandb", "trackio", "swanlab"]


class TrainConfig(Section):
    """One optimiser budget for every arm: arms that would take different numbers of steps are refused."""

    budget: Literal["epochs", "steps", "tokens"] = "epochs"
    """What is equal for every arm: passes over its rows; optimiser steps of `batch_size` rows; or both supervised
    tokens and steps, each step taking as many rows as make up its share of the tokens."""
    num_epochs: int = Field(default=2, ge=1)
    """Passes over the rows; for the budget `epochs`."""
    num_steps: int | None = Field(default=None, ge=1)
    """Optimiser steps of every cell; for the budgets `steps` and `tokens`."""
    num_tokens: int | None = Field(default=None, ge=1)
    """Supervised tokens of every cell; for the budget `tokens`."""
    unmatched: bool = Field(default=False, json_schema_extra=NOTHING)
    """Allow arms with different numbers of optimiser steps. Such arms cannot be compared fairly."""
    batch_size: int = Field(default=16, ge=1)
    """Rows per optimiser step, over all workers."""
    max_length: int = Field(default=4096, ge=8, json_schema_extra=from_stage("mix"))
    """Longest prompt plus completion, tokens. A longer example is dropped and counted, never cut."""
    warmup_ratio: Share = 0.1
    """Share of the steps with linear warm-up of the learning rate; cosine decay follows."""
    weight_decay: float = Field(default=0.0, ge=0.0)
    """Decoupled weight decay (AdamW)."""
    max_grad_norm: float = Field(default=1.0, gt=0)
    """Gradients are clipped to this norm."""
    seeds: tuple[int, ...] = Field(default=(0,), min_length=1, json_schema_extra=EXTENT)
    """Training seeds (row order, initial adapter): every student x mix is trained once with each."""
    kernels: KernelChoice = Field(default="auto", json_schema_extra=NOTHING)
    """How the layers of a student are computed. `torch`: by the model's own modules. `compile`: these, through
    torch.compile. `liger`: norms and gated units by Liger's Triton kernels (GPU; extra `gpu`). `auto`: ours on a CPU,
    on a GPU Liger's where it is installed, else `torch`. Kernels are only used where they give the model's own outputs;
    the log and the cell's manifest say what was used, and why not what was asked for."""
    checkpoint_every_steps: int = Field(default=50, ge=1, json_schema_extra=NOTHING)
    """Optimiser steps between checkpoints, at most."""
    checkpoint_every_minutes: float = Field(default=5.0, gt=0, json_schema_extra=NOTHING)
    """Minutes between checkpoints, at most: what a killed cell of slow steps loses."""
    max_failures: int = Field(default=2, ge=0, json_schema_extra=NOTHING)
    """How often a cell whose workers died is restarted from its last checkpoint."""
    max_parallel_cells: int | None = Field(default=None, ge=1, json_schema_extra=NOTHING)
    """Most cells that are trained at once. Absent: as many as fit the cluster."""
    held_out_prompts: int | None = Field(default=None, ge=1, json_schema_extra=from_stage("mix"))
    """Common prompts that no arm teaches. Every cell's loss on their traces is measured before and after its training,
    pool by pool; it shows differences also where accuracy is at the floor. Absent: none."""
    trackers: tuple[TrackerName, ...] = Field(default=(), json_schema_extra=NOTHING)
    """Trackers that show the values of `metrics.jsonl`, and the scores in the end: TensorBoard files in every cell's
    folder, MLflow, Weights & Biases, Trackio, SwanLab (extras `mlflow`, `wandb`, `trackio`, `swanlab`). The last three
    stay on the machine unless a key or a space is set for them. One that fails is told and stops nothing."""
    tracking_uri: str = Field(default="", pattern=r"^[^@\s]*$", json_schema_extra=NOTHING)
    """URI of the MLflow server, without credentials, which MLflow reads from the environment. Absent: the folder
    `mlruns` of the run."""

    @property
    def without_budget(self) -> "TrainConfig":
        """The same with the default budget, for runs that have one of their own."""
        return self._with_defaults("budget", "num_epochs", "num_steps", "num_tokens")

    @property
    def used(self) -> "TrainConfig":
        """The same without the passes that the budgets `steps` and `tokens` do not look at."""
        return self if self.budget == "epochs" else self._with_defaults("num_epochs")

    def with_steps(self, num_steps: int | None) -> "TrainConfig":
        """The same with an arm's own number of steps, where it has one, and as many tokens in each step."""
        if num_steps is None:
            return self
        scale = num_steps / (self.num_steps or num_steps)
        tokens = None if self.num_tokens is None else round(self.num_tokens * scale)
        return self.model_copy(update={"num_steps": num_steps, "num_tokens": tokens})

    def _with_defaults(self, *names: str) -> "TrainConfig":
        return self.model_copy(update={name: type(self).model_fields[name].default for name in names})


TRACKERS = get_args(TrackerName)


def missing_trackers(names: Sequence[str]) -> list[str]:
    """The trackers among these whose library is not installed."""
    modules = {"tensorboard": "tensorboardX"}
    return [name for name in names if find_spec(modules.get(name, name)) is None]


def budget_problems(train: Mapping[str, Any]) -> Iterator[Problem]:
    """A budget without its number, or a number that the budget does not use; a seed that is named twice."""
    yield from seed_problems("train.seeds", train.get("seeds"))
    budget = train.get("budget", "epochs")
    needed = {"steps": ["num_steps"], "tokens": ["num_steps", "num_tokens"]}.get(budget, [])
    for name in ("num_steps", "num_tokens"):
        if name in needed and train.get(name) is None:
            yield Problem(f"train.{name}", f"is missing, and train.budget is {budget!r}", "set it")
        if name not in needed and train.get(name) is not None:
            what = f"{train[name]} has no effect: train.budget is {budget!r}"
            yield Problem(f"train.{name}", what, f"remove it, or set train.budget = {name.removeprefix('num_')!r}")


def tracker_problems(train: Mapping[str, Any]) -> Iterator[Problem]:
    """Trackers whose library is missing: found before teachers are paid."""
    trackers = train.get("trackers")
    names = [name for name in trackers if name in TRACKERS] if isinstance(trackers, list | tuple) else []
    for name in missing_trackers(names):
        remedy = f"pip install 'mix-distillation-on-ray[{name}]', on every machine of the cluster"
        yield Problem("train.trackers", f"{name} is not installed here", remedy)
    if train.get("tracking_uri") and "mlflow" not in names:
        yield Problem(
            "train.tracking_uri",
            "is only used by MLflow, which train.trackers does not name",
            'add "mlflow" to train.trackers',
        )


def unequal_arm_problems(train: Mapping[str, Any], mixes: Sequence[MixConfig]) -> Iterator[Problem]:
    """Arms that take different numbers of steps whatever the traces: `both` has a row per pool and prompt.

    Arms of other prompts, of another number of them or with other arms before them may take other numbers of steps:
    they are not compared.
    """
    if train.get("budget", "epochs") != "epochs" or train.get("unmatched"):
        return
    budgets = arm_budgets(mixes, ())
    for budget in dict.fromkeys(budgets[mix.name] for mix in mixes):
        equal = [mix for mix in mixes if budgets[mix.name] == budget]
        rows = {mix.name: len(mix.shares) if isinstance(mix, BothMix) else 1 for mix in equal}
        if len(set(rows.values())) > 1:
            listed = ", ".join(f"{name} {count}" for name, count in rows.items())
            what = f"the arms take different numbers of optimiser steps; rows per prompt: {listed}"
            remedy = 'set train.budget = "steps" with train.num_steps, or train.unmatched = true'
            yield Problem("train.budget", what, remedy)


def own_steps_problems(train: Mapping[str, Any], mixes: Sequence[MixConfig]) -> Iterator[Problem]:
    """An arm's own number of steps, where arms must take equally many or steps are not what is given.

    A stage of a training in several has its own number without further ado: it is compared with its like only.
    """
    parents = {mix.after for mix in mixes}
    for mix in (mix for mix in mixes if mix.num_steps is not None):
        where, budget = f"mixes[{mix.name}].num_steps", train.get("budget", "epochs")
        if budget != "steps":
            what = f"{mix.num_steps} has no effect: train.budget is {budget!r}"
            yield Problem(where, what, 'remove it, or set train.budget = "steps"')
        elif not train.get("unmatched") and mix.after is None and mix.name not in parents:
            what = f"{mix.num_steps} steps, and the other arms take {train.get('num_steps')}: no fair comparison"
            yield Problem(where, what, "remove it, or allow it with train.unmatched = true")
