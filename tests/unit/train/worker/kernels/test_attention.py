"""Which models are trained on packed rows, and that packing changes nothing for them."""

import inspect
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch.nn.attention.varlen import varlen_attn

from distill.train.worker.batches import TrainRow
from distill.train.worker.kernels import attention
from distill.train.worker.kernels.attention import (
    ROWS,
    VARLEN,
    Choices,
    Packing,
    attention_choices,
    packed_rows,
    row_attention,
    use_packed_attention,
    varlen_attention,
)
from distill.train.worker.loss import ResponseLoss, row_tensors
from tests.fixtures import varlen_reference
from tests.fixtures.tiny_architectures import logits_of, tiny

pytestmark = pytest.mark.usefixtures("one_thread")

QWEN_WINDOWS: dict[str, Any] = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 2}
PACKED: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3": ("qwen3", {}),
    "qwen2, windows from layer 2 on": ("qwen2", QWEN_WINDOWS),
    "gemma3, windows and full": ("gemma3", {}),
    "gemma3 with vision": ("gemma3 with vision", {}),
    "smollm3, layers without positions": ("smollm3", {"no_rope_layers": [1, 1, 0, 1]}),
    "smollm3 with windows": ("smollm3", {"use_sliding_window": True, "sliding_window": 4,
        "layer_types": ["sliding_attention", "full_attention"] * 2}),
    "mistral, windows everywhere": ("mistral", {"sliding_window": 4}),
    "olmo2": ("olmo2", {}),
    "granite": ("granite", {}),
    "gpt2": ("gpt2", {}),
}  # fmt: skip
LENGTHS = (9, 3, 14)


def rows() -> list[TrainRow]:
    made = [torch.randint(97, (length,), generator=torch.Generator().manual_seed(length)) for length in LENGTHS]
    return [TrainRow(str(len(ids)), "", ids.tolist(), ids.tolist()) for ids in made]


@pytest.fixture(params=[ROWS, VARLEN])
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each in turn; in place of the GPU kernel one of the same calling convention."""
    monkeypatch.setattr(attention, "varlen_attn", varlen_reference.varlen_attn)
    monkeypatch.setattr(attention, "attention_choices", lambda *_: Choices((request.param,)))
    return str(request.param)


def loss_and_gradients(model: Any, packing: Packing, batches: Sequence[list[TrainRow]]) -> tuple[float, list[Any]]:
    loss = ResponseLoss(model, packing=packing, is_fused=False, is_mixed=False)
    model.zero_grad()
    total = 0.0
    for batch in batches:
        value, _ = loss(**row_tensors(batch, [""], 0, torch.device("cpu")).inputs)
        value.backward()
        total += float(value.detach())
    loss.release()
    return total, [weight.grad.clone() for weight in model.parameters() if weight.grad is not None]


@pytest.mark.parametrize("name", PACKED)
def test_packed_rows_have_the_loss_and_gradients_of_each_row_in_the_models_own_attention(
    name: str, implementation: str
) -> None:
    architecture, changes = PACKED[name]
    model = tiny(architecture, **changes)
    known, own = loss_and_gradients(model, Packing("", ""), [[row] for row in rows()])
    packing = use_packed_attention(model)
    assert packing == Packing(implementation, "", packing.own)
    found, gradients = loss_and_gradients(model, packing, [rows()])
    assert found == pytest.approx(known, rel=1e-5)
    for one, other in zip(gradients, own, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=2e-5 * float(other.abs().max()))


@pytest.mark.parametrize(
    ("name", "reason"),
    [("lfm2", "layers of kind conv"), ("qwen3.5", "layers of kind linear_attention"),
     ("granite hybrid", "layers of kind linear_attention"), ("bamba", "layers of kind linear_attention"),
     ("gemma2", "attention scores are capped")],
)  # fmt: skip
def test_models_whose_layers_carry_more_than_attention_keep_one_row_per_pass_and_say_why(
    name: str, reason: str
) -> None:
    model = tiny(name)
    before = logits_of(model, 40)
    packing = use_packed_attention(model)
    assert not packing.attention and reason in packing.reason
    assert torch.equal(logits_of(model, 40), before)


def test_a_row_longer_than_its_window_and_than_a_block_is_attended_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention, "WINDOW_BLOCK", 5)
    torch.manual_seed(0)
    query, key, value = (torch.randn(1, heads, 23, 8, dtype=torch.double) for heads in (4, 2, 2))
    options: dict[str, Any] = {"rows": packed_rows([16, 2, 5]), "sliding_window": 3, "scaling": 0.4}
    found, _ = row_attention(torch.nn.Identity(), query, key, value, 3, **options)
    monkeypatch.setattr(attention, "varlen_attn", varlen_reference.varlen_attn)
    known, _ = varlen_attention(torch.nn.Identity(), query, key, value, 3, **options)
    torch.testing.assert_close(found, known)


def test_the_reference_takes_what_torchs_kernel_takes() -> None:
    known = inspect.signature(varlen_attn).parameters
    reference = inspect.signature(varlen_reference.varlen_attn).parameters
    assert all(known[name].kind == taken.kind for name, taken in reference.items())


@pytest.mark.parametrize(
    ("capability", "dtype", "width", "expected"),
    [
        (None, torch.float32, 64, (ROWS,)),
        ((9, 0), torch.bfloat16, 64, (VARLEN, ROWS)),
        ((9, 0), torch.bfloat16, 256, (VARLEN, ROWS)),
        ((8, 6), torch.bfloat16, 256, (ROWS,)),
        ((8, 6), torch.bfloat16, 128, (VARLEN, ROWS)),
        ((9, 0), torch.bfloat16, 60, (ROWS,)),
        ((9, 0), torch.float32, 64, (ROWS,)),
        ((7, 5), torch.float16, 64, (ROWS,)),
    ],
)
def test_the_gpu_kernel_is_tried_where_it_can_run(
    capability: tuple[int, int] | None, dtype: torch.dtype, width: int, expected: tuple[str, ...]
) -> None:
    names, reason = attention_choices(capability, dtype, width)
    assert names == expected
    assert bool(reason) == (VARLEN not in names and capability is not None), "what is not used on a GPU is explained"


def test_a_kernel_that_fails_on_this_model_leaves_it_to_the_next_with_the_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def failing(*_: Any, **__: Any) -> torch.Tensor:
        raise RuntimeError("FlashAttention only supports something else\nwith details")

    monkeypatch.setattr(attention, "varlen_attn", failing)
    monkeypatch.setattr(attention, "attention_choices", lambda *_: Choices((VARLEN, ROWS)))
    packing = use_packed_attention(tiny("qwen3"))
    assert packing.attention == ROWS
    assert packing.reason == f"{VARLEN}: FlashAttention only supports something else"


@pytest.mark.parametrize("name", ["softcap", "s_aux"])
def test_a_layer_that_asks_for_other_scores_is_refused(name: str) -> None:
    states = torch.randn(1, 2, 5, 8)
    with pytest.raises(ValueError, match=name):
        row_attention(torch.nn.Identity(), states, states, states, None, **{name: 4.0})


def test_a_window_that_only_the_mask_knows_is_found() -> None:
    model = tiny("gemma3")
    for layer in model.model.layers:
        layer.self_attn.sliding_window = None
    packing = use_packed_attention(model)
    assert not packing.attention and "its mask one of 4" in packing.reason
    assert model.config._attn_implementation == packing.own


def test_other_scores_than_those_of_plain_attention_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a model whose attention changes the scores by itself, without saying so in its config."""
    model = tiny("qwen3")

    def doubled(*args: Any, **options: Any) -> tuple[torch.Tensor, None]:
        return row_attention(*args, **{**options, "scaling": 2 * options["scaling"]})

    monkeypatch.setitem(attention.IMPLEMENTATIONS, ROWS, doubled)
    assert use_packed_attention(model).reason == f"{ROWS}: the model gives other outputs with it"


def test_rows_are_never_given_with_a_cache() -> None:
    """Transformers 5 takes positions that begin again for packed rows only where no cache is made."""
    model = tiny("llama")
    seen: list[Any] = []
    model.register_forward_pre_hook(lambda _module, _args, kwargs: seen.append(kwargs["use_cache"]), with_kwargs=True)
    packing = use_packed_attention(model)
    loss = ResponseLoss(model, packing=packing, is_fused=False, is_mixed=False)
    loss(**row_tensors(rows(), [""], 0, torch.device("cpu")).inputs)
    assert packing.attention and len(seen) > 4 and not any(seen)
