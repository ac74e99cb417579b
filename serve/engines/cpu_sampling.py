"""Seeded sampling on vLLM's CPU engine: one random number a token instead of two for every word of the vocabulary.

vLLM 0.29 draws a token as the argmax of probabilities over exponential noise. On CPUs it fills the noise of the whole
batch, and then that of each request with a seed of its own once more: at 49,152 words that was half of the time of an
engine with 135 million weights, and every request of ours has a seed. Here such a batch is drawn by inversion of the
cumulative probabilities. Registered as a vLLM plugin in pyproject.toml.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


BLOCK = 1024
"""Words whose probabilities are added up first; a running sum over the whole vocabulary takes ten times as long."""


def drawn(probabilities: torch.Tensor, generators: Mapping[int, torch.Generator]) -> torch.Tensor:
    """One token of each row, by inversion: the first at which the cumulative probability exceeds a uniform number.

    Args:
        probabilities: [rows, vocabulary], each row >= 0 with any sum above 0.
        generators: of the rows with a seed; what a row draws depends on its own generator only. Others take torch's.

    Returns:
        [rows], int64.
    """
    import torch

    rows, words = probabilities.shape
    uniform = torch.rand(rows, dtype=torch.float64)
    for row, generator in generators.items():
        uniform[row] = torch.rand((), generator=generator, dtype=torch.float64)
    sums = torch.stack([part.sum(-1, dtype=torch.float64) for part in probabilities.split(BLOCK, -1)], -1)
    block, rest = _first_above(sums, uniform * sums.sum(-1))
    tokens = block[:, None] * BLOCK + torch.arange(BLOCK)
    of_block = probabilities.gather(-1, tokens.clamp(max=words - 1)).where(tokens < words, 0.0)
    word, _ = _first_above(of_block, rest)
    return block * BLOCK + word


def _first_above(weights: torch.Tensor, target: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The first index of each row at which the sum so far exceeds its target [rows], and what is left of the target.

    Where rounding puts the target above the whole sum, it is the last index with any weight: never one without.
    """
    import torch

    cumulative = weights.cumsum(-1, dtype=torch.float64)
    last = torch.searchsorted(cumulative, cumulative[:, -1:].contiguous())
    index = torch.minimum(torch.searchsorted(cumulative, target[:, None], right=True), last)
    before = cumulative.gather(-1, index) - weights.gather(-1, index)
    return index.squeeze(-1), (target[:, None] - before).squeeze(-1).clamp(min=0.0)


def register() -> None:
    """Called by vLLM in each of its processes; does nothing on other devices than the CPU."""
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return
    import torch
    from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler, apply_top_k_top_p

    unseeded = TopKTopPSampler.forward_cpu

    def forward_cpu(
        self: Any, logits: Any, generators: dict[int, Any], k: Any, p: Any
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        if not generators:
            return unseeded(self, logits, generators, k, p)  # type: ignore[no-any-return]  # vLLM is not typed
        logits = apply_top_k_top_p(logits, k, p)
        shown = None
        if self.logprobs_mode == "processed_logits":
            shown = logits
        elif self.logprobs_mode == "processed_logprobs":
            shown = logits.log_softmax(dim=-1, dtype=torch.float32)
        return drawn(logits.softmax(dim=-1, dtype=torch.float32), generators), shown

    TopKTopPSampler.forward_cpu = forward_cpu
