"""Checks that served models still give the answers of their evaluation.

A wrong adapter, chat template or weight file shows in greedy answers.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from serve.api.reasoning_parser import Delimiters, split_as_streamed
from serve.client import stream_chat
from serve.errors import ServeError
from serve.key_variables import NO_KEY

MIN_AGREEMENT = 0.5
"""Least mean share of the text up to the first difference. Another batch composition may change a bf16 answer at some
token; other weights change it early."""


class SmokeCheck(NamedTuple):
    """A request with its known answer."""

    model: str
    messages: Sequence[Mapping[str, str]]
    sampling: Mapping[str, Any]
    expected: str
    delimiters: Delimiters | None = None
    finish_reason: str = "stop"


def run_smoke_checks(base_url: str, checks: Sequence[SmokeCheck], api_key: str = NO_KEY) -> dict[str, float]:
    """Send every check, one after another; returns the mean agreement of each model, from 0 to 1.

    Raises:
        ServeError: the answers of a model differ from the expected ones.
    """
    by_model: dict[str, list[float]] = defaultdict(list)
    for check in checks:
        pieces = stream_chat(base_url, check.model, check.messages, api_key=api_key, **check.sampling)
        answer = "".join(piece.text for piece in pieces)
        by_model[check.model].append(agreement(_as_streamed(check), answer))
    wrong = [f"{model} ({max(found):.0%})" for model, found in by_model.items() if not is_same(found)]
    if wrong:
        raise ServeError(
            "the answers of these models differ from those of their evaluation (share of the text before the first "
            f"difference): {', '.join(wrong)}. Their weights, adapter, chat template or engine have changed since: "
            "evaluate them again with `distill run`"
        )
    return {model: sum(found) / len(found) for model, found in by_model.items()}


def agreement(expected: str, answer: str) -> float:
    """Length of the common prefix as a share of the longer text."""
    longer = max(len(expected), len(answer))
    differing = (index for index, (a, b) in enumerate(zip(expected, answer, strict=False)) if a != b)
    return next(differing, min(len(expected), len(answer))) / longer if longer else 1.0


def is_same(agreements: Sequence[float]) -> bool:
    """Whether answers with these agreements come from the same model: one is equal, or the mean is high enough."""
    return max(agreements) == 1.0 or sum(agreements) / len(agreements) >= MIN_AGREEMENT


def _as_streamed(check: SmokeCheck) -> str:
    if check.delimiters is None:
        return check.expected
    return split_as_streamed(check.expected, check.delimiters, check.finish_reason)
