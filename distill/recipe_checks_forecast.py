"""What can be wrong with the assumptions of a forecast beyond their bounds."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from cluster.gpus import GPU_KINDS
from distill.errors import Problem
from distill.recipe_checks_mix import one_of


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
