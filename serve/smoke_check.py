"""Checks that served models still give the answers of their evaluation.

A wrong adapter, chat template or weight file shows in greedy answers.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from serve.api.limits import Limits
from serve.api.reasoning_parser import Delimiters, split_as_streamed
from serve.client import stream_chat
from serve.errors import ServeError
from serve.key_variables import NO_KEY

MIN_AGREEMENT = 0.5
"""Least mean share of the text up to the first difference. Another batch composition may change a bf16 answer at some
token; other weights change it early."""


BODY_MARGIN_BYTES = 256
"""What a request holds beside its messages and its sampling: the model's name, and that it is streamed."""


class SmokeCheck(NamedTuple):
    """A request with its known answer."""

    model: str
    messages: Sequence[Mapping[str, str]]
    sampling: Mapping[str, Any]
    expected: str
    delimiters: Delimiters | None = None
    finish_reason: str = "stop"
    is_cut: bool = False
    """The endpoint's limit ends the answer before the evaluation's ended: the beginnings are compared."""


def run_smoke_checks(base_url: str, checks: Sequence[SmokeCheck], api_key: str = NO_KEY) -> dict[str, float]:
    """Send every check, one after another; returns the mean agreement of each model, from 0 to 1.

    Raises:
        ServeError: the answers of a model differ from the expected ones.
    """
    by_model: dict[str, list[float]] = defaultdict(list)
    for check in checks:
        answer = _answer(base_url, check, api_key)
        expected = _as_streamed(check)
        by_model[check.model].append(agreement(expected[: len(answer)] if check.is_cut else expected, answer))
    wrong = [f"{model} ({max(found):.0%})" for model, found in by_model.items() if not is_same(found)]
    if wrong:
        raise ServeError(
            "the answers of these models differ from those of their evaluation (share of the text before the first "
            f"difference): {', '.join(wrong)}. Their weights, adapter, chat template or engine have changed since: "
            "evaluate them again with `distill run`"
        )
    return {model: sum(found) / len(found) for model, found in by_model.items()}


def _answer(base_url: str, check: SmokeCheck, api_key: str) -> str:
    try:
        pieces = stream_chat(base_url, check.model, check.messages, api_key=api_key, **check.sampling)
        return "".join(piece.text for piece in pieces)
    except ServeError as error:
        raise ServeError(
            f"a problem of the evaluation, asked again to see whether the answer is the same, was not answered: {error}"
        ) from error


def within(check: SmokeCheck, limits: Limits, *, known_tokens: int) -> SmokeCheck | None:
    """The check as the limits let it be asked; None where its problem alone is beyond them.

    Args:
        check: as the evaluation asked it.
        limits: those of the endpoint.
        known_tokens: length of the known answer.
    """
    turns = list(check.messages)
    size = len(json.dumps({"messages": turns, **check.sampling}).encode()) + BODY_MARGIN_BYTES
    num_chars = sum(len(turn["content"]) for turn in turns)
    if num_chars > limits.max_prompt_chars or size > limits.max_body_bytes:
        return None
    most = limits.max_output_tokens
    if most is None or check.sampling.get("max_tokens", most) <= most:
        return check
    return check._replace(sampling={**check.sampling, "max_tokens": most}, is_cut=known_tokens > most)


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
