"""Sample packing: rows in one sequence without padding, with a block-diagonal mask.

Each row's positions begin at 0 and it attends to itself only, to all before it or to a window of it, as the layer asks;
nothing is computed for pairs of rows. On a GPU one kernel call has all rows (torch's `varlen_attn`), elsewhere there is
one call per row. Whether a model supports either is found by a probe on the model itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn import functional
from torch.nn.attention.varlen import varlen_attn

from distill.models.attention import head_width, one_row_reason
from distill.train.worker.batches import positions
from distill.train.worker.kernels.probe import probe_logits, probe_row, quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel

ROWS, VARLEN = "packed_rows", "packed_varlen"
"""Names under which transformers knows the two implementations: a call per row, and one call for all rows."""
PROBE_LENGTHS = (11, 7, 9)
CHANGED_SCORES = ("softcap", "s_aux", "sinks", "position_bias", "block_indices")
"""What models pass to their attention beside query, key and value, and what these do not compute."""
PROBE_TOLERANCE = 0.05
"""Largest difference of the probe's outputs from those of each row alone, relative to the largest: bf16 rounding."""
WINDOW_BLOCK = 512
"""Fewest queries of one call where a row is longer than the layer's window."""
WIDE_HEADS, WIDE_ON = 192, ((8, 0), (9, 0), (10, 0))
"""Heads wider than this are trained on GPUs of these compute capabilities only: the others lack the shared memory."""


class Packing(NamedTuple):
    """How the rows of a micro-batch are laid out for a model."""

    attention: str
    """The implementation that keeps packed rows apart; empty where each row has a forward pass of its own."""
    reason: str
    """Why it is not the fastest one, in words; empty where it is."""
    own: str = "sdpa"
    """The implementation that the model had, and has again after training."""


class Choices(NamedTuple):
    """Implementations to try, the fastest first, and why `varlen_attn` is not among them."""

    names: tuple[str, ...]
    reason: str = ""


@dataclass(frozen=True)
class PackedRows:
    """The rows of a micro-batch, as a keyword argument on its way through a model to its attention.

    Not a tuple: torch.compile would guard every number in it, and compile again for every micro-batch.
    """

    lengths: list[int]
    starts: torch.Tensor
    """Where the rows begin and the last one ends, [rows + 1], int32, beside the model's weights."""
    longest: int


def packed_rows(lengths: Sequence[int]) -> PackedRows:
    """Rows of these lengths, on the CPU."""
    return PackedRows(list(lengths), torch.tensor([0, *accumulate(lengths)], dtype=torch.int32), max(lengths))


def on_device(rows: PackedRows, device: torch.device) -> PackedRows:
    """The same rows for a model on a device."""
    return replace(rows, starts=to_device(rows.starts, device))


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the CPU on a device. To a GPU it is copied from pinned memory, which waits for nothing."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def attention_choices(capability: tuple[int, int] | None, dtype: torch.dtype, width: int) -> Choices:
    """Which implementations can be used at all. The limits are those of FlashAttention-2, which torch's kernel is.

    Args:
        capability: compute capability of the GPU; None on a CPU.
        dtype: of queries, keys and values.
        width: of a head.
    """
    if capability is None:
        return Choices((ROWS,))
    if capability < (8, 0):
        why = f"torch's varlen_attn needs compute capability 8.0, this GPU has {'.'.join(map(str, capability))}"
    elif dtype not in (torch.bfloat16, torch.float16):
        why = f"torch's varlen_attn computes in 16 bits, not in {str(dtype).removeprefix('torch.')}"
    elif width % 8 or width > 256 or (width > WIDE_HEADS and capability not in WIDE_ON):
        why = f"torch's varlen_attn takes no heads of width {width} on this GPU"
    else:
        return Choices((VARLEN, ROWS))
    return Choices((ROWS,), why)


# The implementations, as transformers calls them: [1, heads, tokens, width] to [1, tokens, heads, width]


def row_attention(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: int | None,
    dropout: float = 0.0, **options: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """One call per row; `options["rows"]` are the rows in order, without it the sequence is one row.

    Raises:
        ValueError: the model asks for a soft cap, sinks or a bias, or its mask and its layer for different windows.
    """
    window = _window_of(mask, options)
    rows: PackedRows | None = options.get("rows")
    lengths = rows.lengths if rows else [query.shape[2]]
    blocks = zip(*(states.split(lengths, dim=2) for states in (query, key, value)), strict=True)
    scale = options.get("scaling")
    attended = [_attend(q, k, v, window, dropout=dropout, scale=scale) for q, k, v in blocks]
    return (attended[0] if len(attended) == 1 else torch.cat(attended, dim=2)).transpose(1, 2).contiguous(), None


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, window: int | None, *, dropout: float,
    scale: float | None,
) -> torch.Tensor:  # fmt: skip
    is_grouped = query.shape[1] != key.shape[1]
    length = query.shape[2]
    if window is None or length <= window:
        return functional.scaled_dot_product_attention(
            query, key, value, dropout_p=dropout, scale=scale, is_causal=True, enable_gqa=is_grouped
        )
    size = max(window, WINDOW_BLOCK)
    attended = []
    for start in range(0, length, size):
        end, first = min(start + size, length), max(0, start - window + 1)
        behind = torch.arange(start, end, device=query.device)[:, None] - torch.arange(first, end, device=query.device)
        attended.append(
            functional.scaled_dot_product_attention(
                query[:, :, start:end], key[:, :, first:end], value[:, :, first:end],
                attn_mask=(behind >= 0) & (behind < window), dropout_p=dropout, scale=scale, enable_gqa=is_grouped,
            )
        )  # fmt: skip
    return torch.cat(attended, dim=2)


def varlen_attention(
    module: torch.nn.Module, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, mask: int | None,
    dropout: float = 0.0, **options: Any,
) -> tuple[torch.Tensor, None]:  # fmt: skip
    """One call for all rows; `options["rows"]` are the rows in order, without it the sequence is one row.

    Raises:
        ValueError: as `row_attention`; or attention has dropout, or values of another width than its keys.
    """
    window = _window_of(mask, options)
    if dropout or query.shape[-1] != value.shape[-1]:
        raise ValueError("torch's varlen_attn has no dropout, and values as wide as keys")
    rows: PackedRows | None = options.get("rows")
    starts = rows.starts if rows else torch.tensor([0, query.shape[2]], dtype=torch.int32, device=query.device)
    longest = rows.longest if rows else query.shape[2]
    attended = varlen_attn(
        *(states[0].transpose(0, 1) for states in (query, key, value)), starts, starts, longest, longest,
        scale=options.get("scaling"),
        window_size=(-1 if window is None else window - 1, 0),  # keys to the left of the query's own, none to the right
        enable_gqa=query.shape[1] != key.shape[1],
    )  # fmt: skip
    return attended.unsqueeze(0), None


# torch.compile would compile the calls per row again for every other number or length of rows.
IMPLEMENTATIONS = {ROWS: torch.compiler.disable(row_attention), VARLEN: varlen_attention}


def _window_of(mask: int | None, options: dict[str, Any]) -> int | None:
    """The layer's window, on which its mask and its own setting must agree; None where it has none."""
    if asked := [name for name in CHANGED_SCORES if options.get(name) is not None]:
        raise ValueError(f"attention by rows has no {', '.join(asked)}")
    window = options.get("sliding_window")
    if mask != window:
        raise ValueError(f"a layer has a window of {window}, and its mask one of {mask}")
    return window


def _window_mask(*_: Any, local_size: int | None = None, **__: Any) -> int | None:
    """In place of a mask the width of its window (or chunk): rows are kept apart without a mask."""
    return local_size


# Which of them a model supports


def use_packed_attention(model: PreTrainedModel) -> Packing:
    """Switch the model to the fastest packed attention that it supports. Where there is none, it keeps its own.

    Not supported: layers with a state, soft caps, chunks and sinks, models to which packing gives other outputs than
    their own attention does, and models whose rows the probe finds to interact.
    """
    from transformers import AttentionInterface, AttentionMaskInterface

    if reason := one_row_reason(model):
        return Packing("", reason)
    capability = torch.cuda.get_device_capability(model.device) if model.device.type == "cuda" else None
    choices, reason = attention_choices(capability, model.dtype, head_width(model.config.get_text_config()))
    own, before = probe_logits(model).float(), model.config._attn_implementation
    for name in choices:
        AttentionInterface.register(name, IMPLEMENTATIONS[name])
        AttentionMaskInterface.register(name, _window_mask)
        try:
            model.set_attn_implementation(name)
            if _distance(probe_logits(model).float(), own) < PROBE_TOLERANCE and keeps_rows_apart(model):
                return Packing(name, reason, before)
            reason = f"{name}: the model gives other outputs with it"
        except (
            AttributeError,
            TypeError,
            ValueError,
            RuntimeError,
        ) as error:  # takes no further arguments, or a kernel's limit
            reason = f"{name}: {str(error).splitlines()[0] if str(error) else type(error).__name__}"
        model.set_attn_implementation(before)
    return Packing("", reason)


def keeps_rows_apart(model: PreTrainedModel) -> bool:
    """Whether packed rows give the outputs of each row alone, and no row depends on the one before it."""
    with quiet(model):
        rows = [probe_row(model, length, seed) for seed, length in enumerate(PROBE_LENGTHS)]
        alone = [_outputs(model, [row]) for row in rows]
        together = _outputs(model, rows).split(PROBE_LENGTHS, dim=1)
        changed = [probe_row(model, PROBE_LENGTHS[0], 99), *rows[1:]]
        other = _outputs(model, changed).split(PROBE_LENGTHS, dim=1)
    is_same = all(_distance(row, own) < PROBE_TOLERANCE for row, own in zip(together, alone, strict=True))
    return is_same and all(map(torch.equal, together[1:], other[1:]))


def _outputs(model: PreTrainedModel, rows: Sequence[torch.Tensor]) -> torch.Tensor:
    lengths = [row.shape[1] for row in rows]
    output = model(
        input_ids=torch.cat(list(rows), dim=1),
        position_ids=torch.tensor([positions(lengths)], device=model.device),
        use_cache=False,
        rows=on_device(packed_rows(lengths), model.device),
    )
    logits: torch.Tensor = output.logits.float()
    return logits


def _distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max() / other.abs().max())
