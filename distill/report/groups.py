"""Levels and subjects of prompts: which of them are listed, and the accuracy within each."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from distill.core.schema import Prompt
from distill.evaluate.statistics import accuracy, accuracy_interval
from distill.report.arms import Arm
from distill.report.level_table import level_order
from distill.report.score_data import GroupScore

MAX_GROUPS = 14
"""Most levels or subjects that are listed: as many as MMLU-Pro has subjects."""


def listed_groups(labels: Iterable[str], by: str = "level") -> list[str]:
    """The distinct labels of prompts in order; none where there are not between two and `MAX_GROUPS` of them."""
    names = level_order(labels) if by == "level" else sorted(set(labels) - {""})
    return names if 1 < len(names) <= MAX_GROUPS else []


def group_scores(arms: Sequence[Arm], prompts: Mapping[str, Mapping[str, Prompt]]) -> list[GroupScore]:
    """Accuracy within every level and subject of a benchmark that are listed.

    Args:
        prompts: benchmark -> prompt id -> problem.
    """
    return [
        score
        for arm in arms
        for by in ("level", "subject")
        for score in _arm_groups(arm, by, prompts.get(arm.benchmark, {}))
    ]


def _arm_groups(arm: Arm, by: str, prompts: Mapping[str, Prompt]) -> Iterator[GroupScore]:
    labels = np.array([str(getattr(prompts.get(name), by, "")) for name in arm.prompt_ids.tolist()], dtype=np.str_)
    for name in listed_groups(labels.tolist(), by):
        shares = arm.shares[:, labels == name]
        num_prompts = int((~np.isnan(shares).all(axis=0)).sum())
        if num_prompts:
            rate, interval = accuracy(shares), accuracy_interval(shares)
            yield GroupScore(arm.student, arm.mix, arm.benchmark, by, name, rate, interval, num_prompts)
