"""Does an endpoint answer as its model did before? A wrong adapter, template or weight file shows in greedy answers."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from serve.api.reasoning_parser import Delimiters, split
from serve.client import stream_chat
from serve.errors import ServeError
from serve.keys import NO_KEY

SAME_ENOUGH = 0.5
"""Mean share of the text that begins alike. Batches of another make-up may turn a bf16 answer at some token, other
weights turn it early."""


class Probe(NamedTuple):
    """A question with the answer that is on record."""

    model: str
    messages: Sequence[Mapping[str, str]]
    sampling: Mapping[str, Any]
    expected: str
    delimiters: Delimiters | None = None


def run_probes(base_url: str, probes: Sequence[Probe], api_key: str = NO_KEY) -> dict[str, float]:
    """Ask every probe, one after another; the agreement of each model, from 0 to 1.

    Raises:
        ServeError: a model answers otherwise than it did.
    """
    by_model: dict[str, list[float]] = defaultdict(list)
    for probe in probes:
        pieces = stream_chat(base_url, probe.model, probe.messages, api_key=api_key, **probe.sampling)
        answer = "".join(piece.text for piece in pieces)
        by_model[probe.model].append(agreement(_as_streamed(probe), answer))
    wrong = [f"{model} ({max(found):.0%})" for model, found in by_model.items() if not is_same(found)]
    if wrong:
        raise ServeError(
            f"these answer otherwise than in their evaluation (share that begins alike): {', '.join(wrong)}. "
            "Their weights, adapter, chat template or engine have changed since: evaluate them again with `distill run`"
        )
    return {model: sum(found) / len(found) for model, found in by_model.items()}


def agreement(expected: str, answer: str) -> float:
    """Share of the longer text that both begin with."""
    longer = max(len(expected), len(answer))
    alike = (index for index, (a, b) in enumerate(zip(expected, answer, strict=False)) if a != b)
    return next(alike, min(len(expected), len(answer))) / longer if longer else 1.0


def is_same(agreements: Sequence[float]) -> bool:
    """Whether answers that agree so much come from the same model: one is equal, or they begin alike."""
    return max(agreements) == 1.0 or sum(agreements) / len(agreements) >= SAME_ENOUGH


def _as_streamed(probe: Probe) -> str:
    if probe.delimiters is None:
        return probe.expected
    parts = split(probe.expected, probe.delimiters)
    return parts.reasoning + parts.content
