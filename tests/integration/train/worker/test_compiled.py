"""torch.compile of the layers: what dynamo traces, with a backend that counts and compiles nothing."""

from typing import Any

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from distill.train.worker.batches import TrainRow
from distill.train.worker.kernels.attention import Packing, use_packed_attention
from distill.train.worker.kernels.compiled import compile_layers
from distill.train.worker.loss import ResponseLoss, row_tensors
from tests.fixtures.tiny_architectures import logits_of, tiny


def micro_batch(*lengths: int) -> dict[str, Any]:
    rows = [TrainRow("", "", list(range(length)), list(range(length))) for length in lengths]
    return row_tensors(rows, [""], 0, torch.device("cpu")).inputs


def test_compiled_layers_give_the_same_and_are_compiled_once_for_rows_of_any_number_and_length() -> None:
    model = tiny("llama", num_hidden_layers=2).train()
    packing = use_packed_attention(model)
    known = [float(loss_of(model, packing, *lengths)) for lengths in ((5, 9), (3, 3, 3), (20,), (7, 12, 2, 9))]
    compiler = CompileCounter()
    assert compile_layers(model, is_packed=True, backend=compiler) == ""
    assert float(loss_of(model, packing, 5, 9)) == pytest.approx(known[0], rel=1e-6)
    compiled = compiler.frame_count
    found = [float(loss_of(model, packing, *lengths)) for lengths in ((3, 3, 3), (20,), (7, 12, 2, 9))]
    assert found == pytest.approx(known[1:], rel=1e-6)
    assert compiler.frame_count == compiled > 0


def loss_of(model: Any, packing: Packing, *lengths: int) -> torch.Tensor:
    loss = ResponseLoss(model, packing=packing, is_fused=False, is_mixed=False)
    total: torch.Tensor = loss(**micro_batch(*lengths))[0]
    total.backward()
    loss._hook.remove()
    return total.detach()


def test_layers_that_cannot_be_compiled_stay_as_they_are_and_the_reason_is_told() -> None:
    model = tiny("llama", num_hidden_layers=1)
    before = logits_of(model)

    def failing(*_: Any) -> Any:
        raise RuntimeError("no C++ compiler")

    assert "failing" in compile_layers(model, is_packed=False, backend=failing)
    assert torch.equal(logits_of(model), before)
