"""Adapters in one batch: every token gets its own, a plain one none."""

import pytest
import torch

from serve.engines.cpu_lora import add_lora, bgmv_expand, bgmv_expand_slice, bgmv_shrink

RANK, WIDTH_IN, WIDTH_OUT = 3, 8, 5


def reference(weights: torch.Tensor, inputs: torch.Tensor, indices: list[int]) -> torch.Tensor:
    rows = [
        weights[i, 0] @ row if i >= 0 else torch.zeros(weights.shape[2]) for i, row in zip(indices, inputs, strict=True)
    ]
    return torch.stack(rows)


@pytest.mark.parametrize("indices", [[0, 2, -1, 0], [1, 1, 1, 1], [-1, -1, -1, -1]])
def test_each_token_is_multiplied_by_its_own_adapter_and_a_plain_one_by_none(indices: list[int]) -> None:
    torch.manual_seed(0)
    down, up = torch.randn(3, 1, RANK, WIDTH_IN), torch.randn(3, 1, WIDTH_OUT, RANK)
    inputs, index = torch.randn(4, WIDTH_IN), torch.tensor(indices)
    small = torch.full((4, RANK), 9.0)
    bgmv_shrink(inputs, down, small, index, 0.5)
    torch.testing.assert_close(small, 0.5 * reference(down, inputs, indices))
    base = torch.randn(4, WIDTH_OUT)
    added = base.clone()
    bgmv_expand(small, up, added, index, add_inputs=True)
    torch.testing.assert_close(added, base + reference(up, small, indices))
    wide = torch.zeros(4, WIDTH_OUT + 4)
    bgmv_expand_slice(small, up, wide, index, 2, WIDTH_OUT, add_inputs=False)
    torch.testing.assert_close(wide[:, 2 : 2 + WIDTH_OUT], reference(up, small, indices))
    assert wide[:, :2].abs().sum() == wide[:, 2 + WIDTH_OUT :].abs().sum() == 0


def test_one_adapter_for_all_rows_is_added_slice_by_slice() -> None:
    torch.manual_seed(0)
    inputs, base = torch.randn(4, WIDTH_IN), torch.randn(4, WIDTH_OUT + 2)
    downs = [torch.randn(RANK, WIDTH_IN), torch.randn(RANK, WIDTH_IN)]
    ups = [torch.randn(WIDTH_OUT, RANK), torch.randn(2, RANK)]
    output = base.clone()
    add_lora(output, inputs, downs, ups, 0.5, (WIDTH_OUT, 2))
    parts = [inputs @ down.T @ up.T for down, up in zip(downs, ups, strict=True)]
    torch.testing.assert_close(output, base + 0.5 * torch.cat(parts, dim=1))
