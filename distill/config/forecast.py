"""Assumptions of the forecast that `distill plan` prints. Nothing here changes a run.

A value that the recipe sets takes precedence over a measured one, and that over the default, which is a guess of the
right order and is printed as an assumption.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from cluster.gpus import GPU_KINDS
from distill.config.base import Section, Share, one_of
from distill.core.errors import Problem

Positive = Annotated[float, Field(gt=0)]
ByTeacher = dict[str, Positive]


class ForecastConfig(Section):
    """Assumptions of the forecast."""

    num_prompts: int | None = Field(default=None, ge=1)
    """Prompts of the sources, where their number is unknown until they are read (files, the hub)."""
    solve_rate: dict[str, Share] = Field(default={})
    """Teacher -> chance that a trace is correct and complete, on the prompts that it is asked. Default 0.6."""
    mean_tokens: ByTeacher = Field(default={})
    """Teacher -> mean completion, tokens. Default 3,500 for long, 400 for short reasoning, at most its `max_tokens`."""
    prompt_tokens: Positive | None = None
    """Mean prompt of a teacher, tokens. Default 200."""
    student_prompt_tokens: Positive | None = None
    """Mean prompt of a student's example, tokens. Default 150."""
    answer_tokens: Positive | None = None
    """Mean answer of an evaluated student, tokens. Default: the mean trace of the arms."""
    prefix_hits: Share | None = None
    """Share of prompt tokens that hit an engine's prefix cache. Default 0."""
    decode_bandwidth: Annotated[float, Field(gt=0, le=1)] = 0.6
    """Share of a GPU's memory bandwidth that decoding uses."""
    prefill_flops: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of a GPU's peak FLOPs that prefilling (and decoding in large batches) uses."""
    train_flops: Annotated[float, Field(gt=0, le=1)] = 0.35
    """Share of a GPU's peak FLOPs that training uses (MFU)."""
    step_overhead_s: float = Field(default=0.005, ge=0)
    """Overhead of one step of an engine, seconds."""
    engine_start_s: Positive = 120.0
    """Start of an engine until its first token, seconds: weights, compilation, CUDA graphs."""
    cell_start_s: Positive = 60.0
    """Time of a training cell besides its steps, seconds: workers, weights, saving."""
    usd_per_gpu_hour: dict[str, Positive] = Field(default={})
    """Kind of GPU (`h100`) -> your price per hour, USD. Default: the list prices of `cluster/gpus.py`."""
    accuracy: Share | None = None
    """Share of the benchmarks' problems that trained students solve. This and the next three decide which difference a
    run is expected to show. Default 0.5, where results vary most."""
    arm_correlation: Share | None = None
    """Correlation of the outcomes of two arms on the same problems. Default 0.3, the least that is published of
    frontier models (arXiv 2411.00640)."""
    seed_correlation: Share | None = None
    """Correlation of the outcomes of two training seeds of one arm. Default 0.6."""
    seed_spread: Share | None = None
    """Standard deviation of an arm's accuracy between training seeds, beside what the problems add. Default 0.02."""


def forecast_problems(section: Mapping[str, Any], teachers: Sequence[str]) -> Iterator[Problem]:
    """Teachers that the recipe does not have, and unknown kinds of GPU."""
    for field, known, what in (
        ("solve_rate", teachers, "teacher"),
        ("mean_tokens", teachers, "teacher"),
        ("usd_per_gpu_hour", list(GPU_KINDS), "kind of GPU"),
    ):
        values = section.get(field)
        for name in values if isinstance(values, dict) else ():
            if name not in known:
                yield Problem(f"forecast.{field}.{name}", f"there is no {what} {name!r}", one_of(name, known))
