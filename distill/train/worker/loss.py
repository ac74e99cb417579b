"""Fused linear cross-entropy: the loss of training rows without all of their logits in memory.

It is the sum of w_t * NLL_t over the supervised tokens, the one primitive that every objective is made of
(`distill.train.worker.objectives`): the weights are constants, so the gradient is w_t (softmax - onehot).

Only supervised positions reach the output layer, a block of them at a time; the gradient is computed while the block's
logits exist, so that those of a large vocabulary never exist all at once (as in Liger's, arXiv 2410.10989, in plain
torch).
"""

from __future__ import annotations

import types
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.nn import functional

from distill.models.chat_template import IGNORED
from distill.train.layout import LOGIT_BYTES
from distill.train.worker.batches import TrainRow, flatten
from distill.train.worker.kernels.attention import PackedRows, Packing, on_device, packed_rows, to_device
from distill.train.worker.kernels.compiled import stop_compiling
from distill.train.worker.kernels.layers import remove_layer_kernels

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class HeadLoss(torch.autograd.Function):
    """Cross-entropy of `hidden @ weight.T + bias`: from `(hidden [n, h], weight [v, h], bias [v] or None, targets [n],
    token_weights [n] in fp32 or None)` to the weighted sum, which is differentiated, and the n losses in fp32, without
    their weights. None stands for weights of 1: the same to the bit, without the pass over the logits.

    The gradient is computed in the forward pass and only scaled in the backward one, which may run once.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, targets: torch.Tensor,
        token_weights: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        """Losses block by block, with those gradients that are needed."""
        needs = ctx.needs_input_grad
        dtype = _compute_dtype(hidden)
        states, matrix = hidden.to(dtype), weight.to(dtype)
        losses = torch.empty(len(targets), dtype=torch.float32, device=hidden.device)
        to_hidden = torch.empty_like(hidden) if needs[0] else None
        to_weight = torch.zeros_like(weight) if needs[1] else None
        to_bias = torch.zeros_like(bias) if needs[2] and bias is not None else None
        for block in _blocks(len(targets), len(weight)):
            logits = functional.linear(states[block], matrix, None if bias is None else bias.to(dtype)).float()
            logits = functional.log_softmax(logits, dim=1)
            losses[block] = -logits.gather(1, targets[block][:, None])[:, 0]
            if to_hidden is None and to_weight is None:
                continue
            gradient = _gradient(logits, targets[block])
            if token_weights is not None:
                gradient.mul_(token_weights[block, None])
            gradient = gradient.to(dtype)
            if to_hidden is not None:
                to_hidden[block] = gradient @ matrix
            if to_weight is not None:
                to_weight += gradient.T @ states[block]
            if to_bias is not None:
                to_bias += gradient.sum(dim=0)
        ctx.gradients = (to_hidden, to_weight, to_bias)
        ctx.mark_non_differentiable(losses)
        return weighted_sum(losses, token_weights), losses

    @staticmethod
    def backward(ctx: Any, scale: torch.Tensor, _losses: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """The gradients kept by the forward pass, scaled."""
        gradients, ctx.gradients = ctx.gradients, ()
        return *(None if gradient is None else gradient.mul_(scale) for gradient in gradients), None, None


def weighted_sum(losses: torch.Tensor, token_weights: torch.Tensor | None) -> torch.Tensor:
    """Sum of the losses [n], each times its weight; None stands for weights of 1."""
    return losses.sum() if token_weights is None else (losses * token_weights).sum()


def _compute_dtype(hidden: torch.Tensor) -> torch.dtype:
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype


def _blocks(num_rows: int, num_columns: int) -> list[slice]:
    size = max(16, LOGIT_BYTES // (4 * num_columns))
    return [slice(start, start + size) for start in range(0, num_rows, size)]


def _gradient(log_probabilities: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Gradient of the summed loss by the logits, in the memory of the log-probabilities."""
    gradient = log_probabilities.exp_()
    gradient[torch.arange(len(targets), device=targets.device), targets] -= 1
    return gradient


def has_plain_head(model: PreTrainedModel) -> bool:
    """Whether the logits are the output of one linear layer, neither scaled nor capped after it."""
    head = model.get_output_embeddings()
    if type(head) is not torch.nn.Linear:
        return False
    made: list[torch.Tensor] = []
    hook = head.register_forward_hook(lambda _module, _args, output: made.append(output))
    try:
        with torch.no_grad():
            logits = model(input_ids=torch.arange(4, device=model.device)[None], use_cache=False).logits
    finally:
        hook.remove()
    return len(made) == 1 and torch.equal(made[0], logits)


class ResponseLoss(torch.nn.Module):
    """A causal model whose forward returns the weighted sum of the losses of the supervised tokens of packed rows.

    `packing`: how several rows are kept apart in one sequence, or that the model gets one row at a time. `is_fused`:
    the output layer computes the loss itself (`HeadLoss`); otherwise it computes the logits of the supervised
    positions. `is_mixed`: matrix products in bf16. `kernels`: those of the layers, in words.
    """

    def __init__(
        self, model: PreTrainedModel, *, packing: Packing, is_fused: bool, is_mixed: bool, kernels: str = "torch"
    ) -> None:
        super().__init__()
        self.model = model
        self.packing, self.is_fused, self.is_mixed, self.kernels = packing, is_fused, is_mixed, kernels
        self._kept = torch.empty(0)
        self._targets = torch.empty(0)
        self._weights: torch.Tensor | None = None
        self._losses = torch.empty(0)
        head = model.get_output_embeddings()
        self._hook = head.register_forward_pre_hook(self._select)
        if is_fused:
            # Replaces the layer's own forward, so that DeepSpeed's hooks (ZeRO 3) gather its weights for it.
            head.forward = types.MethodType(self._head_loss, head)

    @property
    def packs(self) -> bool:
        """Whether several rows share a forward pass."""
        return bool(self.packing.attention)

    @property
    def layout(self) -> str:
        """How rows and loss are computed, in words, for the manifest and the log."""
        rows = f"packed rows ({self.packing.attention})" if self.packs else "one row per forward pass"
        why = f" ({self.packing.reason})" if self.packing.reason else ""
        loss = "fused loss" if self.is_fused else "logits of supervised positions"
        return f"{rows}{why}, {loss}, kernels: {self.kernels}"

    def _select(self, _module: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        return (args[0].index_select(1, self._kept), *args[1:])

    def _head_loss(self, head: torch.nn.Linear, hidden: torch.Tensor) -> torch.Tensor:
        total, self._losses = HeadLoss.apply(hidden[0], head.weight, head.bias, self._targets, self._weights)
        return total

    def forward(
        self, input_ids: torch.Tensor, position_ids: torch.Tensor, kept: torch.Tensor, targets: torch.Tensor,
        rows: PackedRows, weights: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
        """The weighted sum of the losses, and the n losses themselves in fp32, detached.

        Args:
            input_ids: [1, tokens].
            position_ids: [1, tokens], from 0 in every row.
            kept: [n], places of the tokens whose successor counts, on the device: a mask would have to be waited for.
            targets: [n], these successors.
            rows: where the rows begin and end.
            weights: [n] in fp32, of the losses; absent: 1 each.
        """
        self._kept, self._targets, self._weights = kept, targets, weights
        options = {"position_ids": position_ids, "rows": rows} if self.packs else {}
        with torch.autocast(input_ids.device.type, torch.bfloat16, enabled=self.is_mixed):
            output = self.model(input_ids=input_ids, use_cache=False, **options).logits
        if self.is_fused:
            total, losses = output, self._losses
        else:
            losses = functional.cross_entropy(output[0].float(), targets, reduction="none")
            total = weighted_sum(losses, weights)
        return total, losses.detach()

    def release(self) -> PreTrainedModel:
        """Undo all changes; the model, with logits for every position."""
        self._hook.remove()
        if self.packs:
            self.model.set_attn_implementation(self.packing.own)
        vars(self.model.get_output_embeddings()).pop("forward", None)
        remove_layer_kernels(self.model)
        stop_compiling(self.model)
        return self.model


class MicroTensors(NamedTuple):
    """Packed rows on the device of the loss."""

    inputs: dict[str, Any]
    """What the loss takes."""
    pools: torch.Tensor
    """[n]: the pool of each token that counts."""
    row_of: torch.Tensor
    """[n]: its row, by number among the packed ones."""


def row_tensors(rows: Sequence[TrainRow], pools: Sequence[str], padding: int, device: torch.device) -> MicroTensors:
    """Packed rows as the loss takes them, on its device.

    A worker without rows of its own still takes part, with two tokens that do not count in the loss.
    """
    idle = TrainRow("", "", input_ids=[padding] * 2, labels=[IGNORED] * 2)
    flat = flatten(rows or [idle])
    row_of = [number for number, row in enumerate(rows) for _ in range(row.supervised_tokens)]
    pool_ids = [pools.index(rows[number].pool) for number in row_of]
    of_tokens = {"input_ids": [flat.input_ids], "position_ids": [flat.position_ids]}
    columns = {**of_tokens, "kept": flat.kept, "targets": flat.targets, "pools": pool_ids, "row_of": row_of}
    made = {name: to_device(torch.tensor(values, dtype=torch.long), device) for name, values in columns.items()}
    pool_of, row_of_token = made.pop("pools"), made.pop("row_of")
    return MicroTensors({**made, "rows": on_device(packed_rows(flat.row_lengths), device)}, pool_of, row_of_token)


def sums_by(groups: torch.Tensor, losses: torch.Tensor, num_groups: int) -> torch.Tensor:
    """[group, (loss, tokens)] in fp64, from the group of each loss."""
    table = torch.zeros(num_groups, 2, dtype=torch.double, device=losses.device)
    losses = losses.double()
    table.index_add_(0, groups, torch.stack([losses, torch.ones_like(losses)], dim=1))
    return table
