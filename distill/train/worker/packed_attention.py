"""Rows laid end to end in one sequence, without padding and without seeing each other.

Each row's positions begin at 0 and it attends to itself only (block-diagonal attention, one causal block per row, so
that nothing is computed for pairs of rows either). Whether a model can do that is found by trying it on the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ATTENTION = "rows_end_to_end"
PROBE_LENGTHS = (11, 7, 9)
PROBE_TOLERANCE = 0.05
"""How far the probe's outputs may be from those of each row alone, relative to the largest: rounding of bf16."""


def attend_rows(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, _mask: torch.Tensor | None,
    dropout: float = 0.0, **options: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """Attention in the form that transformers calls: [1, heads, tokens, width] to [1, tokens, heads, width].

    `options["row_lengths"]` are the rows in order; without it the sequence is one row.
    """
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


def _no_mask(*_: Any, **__: Any) -> None:
    """Rows are kept apart by computing them apart."""


def use_row_attention(model: PreTrainedModel) -> bool:
    """Have the model attend row by row; whether it does. Where it cannot, it keeps its own attention.

    Not for windows and soft caps of attention, models with a state, and those that the probe finds to mix rows up.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    if not has_plain_attention(model.config) or getattr(model, "_is_stateful", False):
        return False
    AttentionInterface.register(ATTENTION, attend_rows)
    AttentionMaskInterface.register(ATTENTION, _no_mask)
    before = model.config._attn_implementation
    try:
        model.set_attn_implementation(ATTENTION)
        if keeps_rows_apart(model):
            return True
    except (TypeError, ValueError):  # it takes no further arguments, or no other attention
        pass
    model.set_attn_implementation(before)
    return False


def has_plain_attention(config: Any) -> bool:
    """Whether every layer attends to all tokens before, and does nothing else to the scores."""
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    window = getattr(config, "sliding_window", None) and getattr(config, "use_sliding_window", True)
    return kinds == {"full_attention"} and not window and not getattr(config, "attn_logit_softcapping", None)


def positions(lengths: Sequence[int]) -> list[int]:
    """Position of every token in its own row."""
    return [position for length in lengths for position in range(length)]


def keeps_rows_apart(model: PreTrainedModel) -> bool:
    """Whether rows laid end to end give what each gives alone, and no row changes with the one before it."""
    with _still(model):
        rows = [_probe_row(model, length, seed) for seed, length in enumerate(PROBE_LENGTHS)]
        alone = [_outputs(model, [row]) for row in rows]
        together = _outputs(model, rows).split(PROBE_LENGTHS, dim=1)
        other = _outputs(model, [_probe_row(model, PROBE_LENGTHS[0], 99), *rows[1:]]).split(PROBE_LENGTHS, dim=1)
    is_same = all(_distance(row, own) < PROBE_TOLERANCE for row, own in zip(together, alone, strict=True))
    return is_same and all(map(torch.equal, together[1:], other[1:]))


def _probe_row(model: PreTrainedModel, length: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(model.get_input_embeddings().weight.shape[0], (1, length), generator=generator)


def _outputs(model: PreTrainedModel, rows: Sequence[torch.Tensor]) -> torch.Tensor:
    lengths = [row.shape[1] for row in rows]
    places = torch.tensor([positions(lengths)])
    output = model(input_ids=torch.cat(list(rows), dim=1), position_ids=places, use_cache=False, row_lengths=lengths)
    logits: torch.Tensor = output.logits.float()
    return logits


def _distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())


@contextmanager
def _still(model: PreTrainedModel) -> Iterator[None]:
    """Without gradients and dropout."""
    was_training = model.training
    model.eval()
    with torch.no_grad():
        yield
    model.train(was_training)
