"""Sample packing: rows in one sequence without padding, with a block-diagonal mask.

Each row's positions begin at 0 and it attends to itself only; attention is computed row by row, so nothing is computed
for pairs of rows either. Whether a model supports that is found by a probe on the model itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ATTENTION = "packed_rows"
PROBE_LENGTHS = (11, 7, 9)
CHANGED_SCORES = ("sliding_window", "softcap", "s_aux", "sinks", "position_bias", "block_indices")
"""What models pass to their attention beside query, key and value, and what this one does not compute."""
PROBE_TOLERANCE = 0.05
"""Largest difference of the probe's outputs from those of each row alone, relative to the largest: bf16 rounding."""


def packed_attention(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, _mask: torch.Tensor | None,
    dropout: float = 0.0, **options: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """Attention as transformers calls it: [1, heads, tokens, width] to [1, tokens, heads, width].

    `options["row_lengths"]` are the rows in order; without it the sequence is one row.

    Raises:
        ValueError: the model asks for a window, a soft cap, sinks or a bias.
    """
    if asked := [name for name in CHANGED_SCORES if options.get(name) is not None]:
        raise ValueError(f"attention by rows has no {', '.join(asked)}")
    lengths = options.get("row_lengths") or [query.shape[2]]
    blocks = zip(*(states.split(lengths, dim=2) for states in (query, key, value)), strict=True)
    is_grouped = query.shape[1] != key.shape[1]
    attended = [
        functional.scaled_dot_product_attention(
            *block, dropout_p=dropout, scale=options.get("scaling"), is_causal=True, enable_gqa=is_grouped
        )
        for block in blocks
    ]
    return (attended[0] if len(attended) == 1 else torch.cat(attended, dim=2)).transpose(1, 2).contiguous(), None


def _no_mask(*_: Any, local_size: int | None = None, **__: Any) -> None:
    """No mask is needed: attention is computed row by row. `local_size`: width of a window or chunk.

    Raises:
        ValueError: a layer asks for a window.
    """
    if local_size is not None:
        raise ValueError(f"attention by rows has no window, and a layer has one of {local_size}")


def use_packed_attention(model: PreTrainedModel) -> bool:
    """Switch the model to packed attention; whether it supports it. Where it does not, it keeps its own attention.

    Not supported: sliding windows, soft caps, stateful models, models to which packing gives other outputs than their
    own attention does, and models whose rows the probe finds to interact.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    if not has_plain_attention(model.config.get_text_config()) or getattr(model, "_is_stateful", False):
        return False
    own = probe_outputs(model)
    AttentionInterface.register(ATTENTION, packed_attention)
    AttentionMaskInterface.register(ATTENTION, _no_mask)
    before = model.config._attn_implementation
    try:
        model.set_attn_implementation(ATTENTION)
        if keeps_rows_apart(model) and _distance(probe_outputs(model), own) < PROBE_TOLERANCE:
            return True
    except (TypeError, ValueError):  # takes no further arguments, or no other attention
        pass
    model.set_attn_implementation(before)
    return False


def has_plain_attention(config: Any) -> bool:
    """Whether every layer has full causal attention without changes of the scores. `config`: of the text model."""
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    return kinds == {"full_attention"} and not window and not getattr(config, "attn_logit_softcapping", None)


def positions(lengths: Sequence[int]) -> list[int]:
    """Position of every token within its row."""
    return [position for length in lengths for position in range(length)]


def keeps_rows_apart(model: PreTrainedModel) -> bool:
    """Whether packed rows give the outputs of each row alone, and no row depends on the one before it."""
    with _deterministic(model):
        rows = [_probe_row(model, length, seed) for seed, length in enumerate(PROBE_LENGTHS)]
        alone = [_outputs(model, [row]) for row in rows]
        together = _outputs(model, rows).split(PROBE_LENGTHS, dim=1)
        other = _outputs(model, [_probe_row(model, PROBE_LENGTHS[0], 99), *rows[1:]]).split(PROBE_LENGTHS, dim=1)
    is_same = all(_distance(row, own) < PROBE_TOLERANCE for row, own in zip(together, alone, strict=True))
    return is_same and all(map(torch.equal, together[1:], other[1:]))


def probe_outputs(model: PreTrainedModel) -> torch.Tensor:
    """Logits of a row by itself, as a user of the model would ask for them: [1, tokens, vocabulary]."""
    with _deterministic(model):
        logits: torch.Tensor = model(input_ids=_probe_row(model, PROBE_LENGTHS[0], 0), use_cache=False).logits.float()
    return logits


def _probe_row(model: PreTrainedModel, length: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(model.get_input_embeddings().weight.shape[0], (1, length), generator=generator)


def _outputs(model: PreTrainedModel, rows: Sequence[torch.Tensor]) -> torch.Tensor:
    lengths = [row.shape[1] for row in rows]
    position_ids = torch.tensor([positions(lengths)])
    output = model(
        input_ids=torch.cat(list(rows), dim=1), position_ids=position_ids, use_cache=False, row_lengths=lengths
    )
    logits: torch.Tensor = output.logits.float()
    return logits


def _distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


@contextmanager
def _deterministic(model: PreTrainedModel) -> Iterator[None]:
    """Without gradients and dropout."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        yield
    model.train(was_training)
