"""What a recipe can say of the forecast that `distill plan` prints. Nothing here changes what a run does.

What is told counts before what a run directory measured, and that before the defaults, which are guesses of the right
order and are printed as such.
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
    """Prompts that the sources give, where their number is not known before they are read (files, the hub)."""
    solve_rate: dict[str, Share] = Field(default={})
    """Teacher -> chance that one of its traces is correct and whole, on prompts that it is asked. Default 0.6."""
    mean_tokens: ByTeacher = Field(default={})
    """Teacher -> mean completion, tokens. Default 3,500 for long, 400 for short reasoning, at most its `max_tokens`."""
    prompt_tokens: Positive | None = None
    """Mean prompt of a teacher, tokens. Default 200."""
    student_prompt_tokens: Positive | None = None
    """Mean prompt of a student's example, tokens. Default 150."""
    answer_tokens: Positive | None = None
    """Mean answer of an evaluated student, tokens. Default: the mean trace that the arms are taught."""
    prefix_hits: Share | None = None
    """Share of prompt tokens whose keys and values an engine has already. Default 0."""
    decode_bandwidth: Annotated[float, Field(gt=0, le=1)] = 0.6
    """Share of a GPU's memory bandwidth that decoding uses."""
    prefill_flops: Annotated[float, Field(gt=0, le=1)] = 0.5
    """Share of a GPU's peak that prefilling (and decoding in large batches) uses."""
    train_flops: Annotated[float, Field(gt=0, le=1)] = 0.35
    """Share of a GPU's peak that training uses (MFU)."""
    step_overhead_s: float = Field(default=0.005, ge=0)
    """What one step of an engine takes besides the model, seconds."""
    engine_start_s: Positive = 120.0
    """From nothing to the first token of an engine, seconds: weights, compilation, CUDA graphs."""
    cell_start_s: Positive = 60.0
    """What a training cell takes besides its steps, seconds: workers, weights, saving."""
    usd_per_gpu_hour: dict[str, Positive] = Field(default={})
    """Kind of GPU (`h100`) -> your price of an hour. Default: the list prices of `cluster/gpus.py`."""


def forecast_problems(section: Mapping[str, Any], teachers: Sequence[str]) -> Iterator[Problem]:
    """Teachers that the recipe does not have, and kinds of GPU that nobody knows."""
    for field, known, what in (
        ("solve_rate", teachers, "teacher"),
        ("mean_tokens", teachers, "teacher"),
        ("usd_per_gpu_hour", list(GPU_KINDS), "kind of GPU"),
    ):
        told = section.get(field)
        for name in told if isinstance(told, dict) else ():
            if name not in known:
                yield Problem(f"forecast.{field}.{name}", f"there is no {what} {name!r}", one_of(name, known))
