"""How a cell is laid out on its workers: ZeRO stage, micro-batch and activation checkpointing, chosen from the model's
shape, the length, the tuning and the memory of a worker. Values that the recipe sets are taken as they are. Pure.

Memory per worker is estimated from above, so that what is chosen fits:

* states: weights, gradients and Adam, 16 bytes per trained weight in mixed precision, of which ZeRO 1 shares the
  optimiser's, 2 also the gradients, 3 also the weights (Rajbhandari et al. 2020, section 3.1 and figure 1);
* activations kept per token: measured on the model's own layers without memory (`distill.models.activations`); where
  that is not possible, inputs of the norms and of every matrix product, as in Korthikanti et al. 2022 (equation 1), for
  attention that keeps no score matrix and a gated feed-forward part, without dropout. Checkpointing keeps each layer's
  input and one layer's activations;
* logits of one block of positions with their gradients: the loss (`distill.train.worker.loss`) never holds more.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Literal, NamedTuple

from cluster.placement import Resources, cpus_per_worker
from cluster.units import GIB
from distill.config.students import FullTune, LoraTune, StudentConfig
from distill.config.train import TrainConfig

if TYPE_CHECKING:
    from distill.models.shape import ModelShape

Device = Literal["cpu", "gpu"]

OVERHEAD_BYTES = {"cpu": 1.2 * GIB, "gpu": 2.0 * GIB}
"""A worker before its first weight: Python with its libraries, or the CUDA context with NCCL's buffers."""
FRAGMENTATION = 1.1
"""What allocators leave unused between blocks."""
USABLE = {"cpu": 0.95, "gpu": 0.92}
"""Share of the memory that a layout may fill."""
LOGIT_BYTES = 96 * 2**20
"""Logits that exist at once, bytes: large enough for the matrix products to run at full speed."""
BUCKET_ELEMENTS = {"cpu": 20_000_000, "gpu": 500_000_000}
"""Elements of ZeRO's communication buffers: our setting on CPU, DeepSpeed's default on GPU."""
MAX_MICRO_TOKENS = {"cpu": 16_384, "gpu": 32_768}
"""Tokens of a micro-batch beyond which a larger one is not faster, only larger."""
MAX_CPU_ROWS = 4
"""On a CPU more rows add padding and no speed."""

ONE_WORKER = ((0, False), (0, True))
SEVERAL_WORKERS = ((1, False), (2, False), (1, True), (2, True), (3, False), (3, True))
"""(ZeRO stage, activation checkpointing) of one worker and of several, from fast to slow."""


@dataclass(frozen=True)
class Layout:
    """How a cell is laid out on its workers, with the memory that each is estimated to need (0: not estimated)."""

    zero_stage: int = 0
    micro_batch_size: int = 4
    checkpoint_activations: bool = False
    offload_optimizer: bool = False
    memory_gib: float = 0.0


class Memory(NamedTuple):
    """Bytes of one worker."""

    weights: float
    gradients: float
    optimizer: float
    buffers: float
    activations: float
    logits: float
    checkpoint: float
    """The copy that is written while training goes on; on a GPU it is in host memory, which is not counted."""
    overhead: float

    @property
    def total(self) -> float:
        """All of it, with what allocators leave unused."""
        return self.overhead + FRAGMENTATION * (sum(self) - self.overhead)


def resolve_layout(student: StudentConfig) -> Layout:
    """The layout that the recipe sets, with defaults for any small model; for when the model's shape is not known."""
    return Layout(
        zero_stage=_given(student.zero_stage, int(student.num_workers > 1 or bool(student.offload_optimizer))),
        micro_batch_size=_given(student.micro_batch_size, 4),
        checkpoint_activations=bool(student.checkpoint_activations),
        offload_optimizer=bool(student.offload_optimizer),
    )


def _given(value: int | None, default: int) -> int:
    return default if value is None else value


def memory_needed(
    shape: ModelShape, student: StudentConfig, layout: Layout, *, length: int, num_workers: int, device: Device
) -> Memory:
    """Estimated memory of one worker of a cell.

    Args:
        shape: the student's model.
        student: says which weights are trained.
        layout: the layout to estimate.
        length: longest row, tokens.
        num_workers: data-parallel workers.
        device: mixed precision (bf16 and fp32) on GPU, fp32 on CPU.
    """
    size, stage, tune = (2 if device == "gpu" else 4), layout.zero_stage, student.tune
    trained = shape.lora_parameters(tune) if isinstance(tune, LoraTune) else shape.num_parameters
    weights = shape.num_parameters + (trained if isinstance(tune, LoraTune) else 0)
    # Gradients are added up in fp32; below stage 2 those in bf16 stay beside. On CPU the optimiser copies its weights.
    gradients = 4 + (2 if device == "gpu" and stage < 2 else 0)
    states = 12 if device == "gpu" else 8 + (4 if stage else 0)
    tokens = layout.micro_batch_size * length
    return Memory(
        weights=weights * size / (num_workers if stage == 3 else 1),
        gradients=trained * gradients / (num_workers if stage >= 2 else 1),
        optimizer=0.0 if layout.offload_optimizer else trained * states / (num_workers if stage else 1),
        buffers=2.0 * size * min(BUCKET_ELEMENTS[device], trained) if stage else 0.0,
        activations=float(tokens * size * _kept_per_token(shape, layout)),
        logits=min(float(tokens * shape.vocab * (2 * size + 8)), 3.0 * LOGIT_BYTES),
        checkpoint=float(trained * (size + states)) if device == "cpu" else 0.0,
        overhead=OVERHEAD_BYTES[device],
    )


def _kept_per_token(shape: ModelShape, layout: Layout) -> float:
    """Elements kept per token."""
    if shape.kept_bytes_per_token:
        layer = shape.kept_bytes_per_token / 2 / shape.layers
    else:  # norms are computed in fp32: four elements of the width each, in and out
        attention = 2 * shape.query_width + 4 * shape.kv_width
        layer = 9 * shape.hidden + attention + 4 * shape.intermediate
    return shape.layers * shape.hidden + layer if layout.checkpoint_activations else shape.layers * layer


def choose_layout(
    shape: ModelShape, student: StudentConfig, train: TrainConfig, *, memory_gib: float, device: Device
) -> Layout | None:
    """The fastest layout that fits, None where none does. What the recipe sets is taken as it is; a layout that it sets
    in full is not checked.

    From fast to slow: no checkpointing and the lowest ZeRO stage (1 costs no more than plain data parallelism, 2
    reduces in every micro-batch), then checkpointing (a third more computation), then stage 3 (half as much again to
    send; Rajbhandari et al. 2020, section 7). Within one, the largest micro-batch.
    """
    is_given = None not in (student.zero_stage, student.micro_batch_size, student.checkpoint_activations)
    for layout in _candidate_layouts(student, train, device):
        needed = memory_needed(
            shape, student, layout, length=train.max_length, num_workers=student.num_workers, device=device
        ).total
        if is_given or needed <= memory_gib * GIB * USABLE[device]:
            return replace(layout, memory_gib=round(needed / GIB, 2))
    return None


def _candidate_layouts(student: StudentConfig, train: TrainConfig, device: Device) -> Iterator[Layout]:
    stages: Sequence[tuple[int, bool]] = ONE_WORKER if student.num_workers == 1 else SEVERAL_WORKERS
    if student.zero_stage is not None:
        stages = ((student.zero_stage, False), (student.zero_stage, True))
    elif student.offload_optimizer and stages is ONE_WORKER:
        stages = ((1, False), (1, True))
    wanted = student.checkpoint_activations
    kept = [(stage, recompute) for stage, recompute in stages if wanted is None or wanted == recompute] or [
        (stage, bool(wanted)) for stage in dict.fromkeys(stage for stage, _ in stages)
    ]
    for (stage, recompute), micro in product(kept, micro_batch_sizes(student, train, device)):
        yield Layout(stage, micro, recompute, bool(student.offload_optimizer))


def micro_batch_sizes(student: StudentConfig, train: TrainConfig, device: Device) -> list[int]:
    """Sizes that a micro-batch may have, largest first: divisors of a worker's rows per batch, up to a maximum."""
    if student.micro_batch_size is not None:
        return [student.micro_batch_size]
    rows = max(1, train.batch_size // student.num_workers)
    largest = max(1, MAX_MICRO_TOKENS[device] // train.max_length)
    largest = min(largest, MAX_CPU_ROWS) if device == "cpu" else largest
    return [size for size in range(rows, 0, -1) if rows % size == 0 and size <= largest]


def suggest_changes(
    shape: ModelShape,
    student: StudentConfig,
    train: TrainConfig,
    *,
    memory_gib: float,
    device: Device,
    max_workers: int,
) -> str:
    """Changes of the recipe, in words, each enough by itself to make a student fit."""

    def fits(student: StudentConfig, train: TrainConfig = train) -> bool:
        return choose_layout(shape, student, train, memory_gib=memory_gib, device=device) is not None

    free = student.model_copy(update={"zero_stage": None, "micro_batch_size": None, "checkpoint_activations": None})
    found = (
        ["leave out zero_stage, micro_batch_size and checkpoint_activations, which are then chosen"]
        if fits(free)
        else []
    )
    counts = [count for count in range(student.num_workers + 1, max_workers + 1) if train.batch_size % count == 0]
    workers = next((count for count in counts if fits(free.model_copy(update={"num_workers": count}))), None)
    found += [f"num_workers = {workers}"] if workers else []
    if isinstance(student.tune, FullTune) and fits(free.model_copy(update={"tune": LoraTune()})):
        found += ['tune = { kind = "lora" }']
    halves = (train.max_length >> power for power in range(1, 12))
    shorter = next((n for n in halves if n >= 8 and fits(free, train.model_copy(update={"max_length": n}))), None)
    found += [f"train.max_length = {shorter}"] if shorter else []
    return " or ".join(found) or "take a smaller model or workers with more memory"


def worker_resources(device: Device, threads: int, gpu: str = "") -> Resources:
    """What one training worker reserves. `gpu`: kind of its GPU; empty for any."""
    return Resources(cpus=1, gpus=1, gpu=gpu) if device == "gpu" else Resources(cpus=threads)


def threads_per_worker(num_workers: int, num_cells: int, nodes: Sequence[Resources], memory_gib: float = 0.0) -> int:
    """CPUs of one worker: an equal share of the cells that the memory holds at once, or what lets all workers of a cell
    fit the nodes. At least one.

    Args:
        num_workers: of one cell.
        num_cells: that could run at the same time.
        nodes: what there is.
        memory_gib: of one worker; 0 where it is not counted.
    """
    slots = sum(node.slots_for(Resources(cpus=1, memory_gib=memory_gib)) for node in nodes)
    at_once = max(1, min(num_cells, slots // num_workers))
    share = cpus_per_worker(num_workers, at_once, sum(node.cpus for node in nodes))
    fitting = (cpus for cpus in range(share, 0, -1) if sum(node.cpus // cpus for node in nodes) >= num_workers)
    return next(fitting, 1)
