"""Rows end to end and the fused loss: the same loss and gradients as each row alone through the plain model."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import LlamaConfig, LlamaForCausalLM

from distill.models.chat_template import IGNORED
from distill.train.worker import loss as train_loss
from distill.train.worker.batches import TrainRow
from distill.train.worker.kernels.attention import ROWS as BY_ROW
from distill.train.worker.kernels.attention import Packing, keeps_rows_apart, use_packed_attention
from distill.train.worker.kernels.cpu import CPU, RmsNorm, SiluGate
from distill.train.worker.kernels.layers import use_layer_kernels
from distill.train.worker.loss import HeadLoss, MicroTensors, ResponseLoss, has_plain_head, row_tensors, sums_by
from tests.fixtures.tiny_architectures import tiny

SIZES = {"vocab_size": 97, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2}
HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2}


pytestmark = pytest.mark.usefixtures("one_thread")


def llama(**changes: Any) -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**SIZES, **HEADS, initializer_range=0.3, **changes))


def row(length: int, prompt: int, seed: int) -> TrainRow:
    ids = torch.randint(97, (length,), generator=torch.Generator().manual_seed(seed)).tolist()
    return TrainRow(str(seed), "pool", ids, [*[IGNORED] * prompt, *ids[prompt:]])


ROWS = [row(9, 4, 1), row(5, 1, 2), row(13, 0, 3)]


def plain_loss(model: torch.nn.Module, rows: list[TrainRow]) -> torch.Tensor:
    """Sum over the supervised tokens, each row alone, all logits."""
    losses = []
    for each in rows:
        logits = model(input_ids=torch.tensor([each.input_ids]), use_cache=False).logits[0, :-1]
        targets = torch.tensor(each.labels[1:])
        losses.append(functional.cross_entropy(logits, targets, ignore_index=IGNORED, reduction="sum"))
    return torch.stack(losses).sum()


def gradients(model: torch.nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}


def named(rows: list[TrainRow], pools: list[str]) -> list[TrainRow]:
    return [replace(one, pool=pool) for one, pool in zip(rows, pools, strict=True)]


def inputs(rows: list[TrainRow]) -> dict[str, Any]:
    return tensors(named(rows, ["0"] * len(rows))).inputs


def tensors(rows: list[TrainRow]) -> MicroTensors:
    return row_tensors(rows, ["0", "1"], 0, torch.device("cpu"))


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(train_loss, "LOGIT_BYTES", 1)
    yield


@pytest.mark.parametrize(("is_tied", "is_lean"), [(True, True), (True, False), (False, True)])
def test_packed_rows_have_the_loss_and_the_gradients_of_each_row_alone(
    small_blocks: None, is_tied: bool, is_lean: bool
) -> None:
    model = llama(tie_word_embeddings=is_tied)
    expected = plain_loss(model, ROWS)
    known = gradients(model, expected)
    assert use_packed_attention(model).attention and has_plain_head(model)
    # Two layers of two norms and a gated unit, and the last norm.
    assert not is_lean or use_layer_kernels(model, CPU) == 7
    loss = ResponseLoss(model, packing=Packing(BY_ROW, ""), is_fused=True, is_mixed=False)
    rows = named(ROWS, ["0", "1", "0"])
    total, losses = loss(**tensors(rows).inputs)
    assert float(total.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    found = gradients(model, total)
    assert found.keys() == known.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, known[name], rtol=1e-3, atol=1e-4)
    by_pool, by_row = sums_by(tensors(rows).pools, losses, 2), sums_by(tensors(rows).row_of, losses, 3)
    assert by_pool[:, 1].tolist() == [5 + 12, 4] and by_row[:, 1].tolist() == [5, 4, 12]
    model = loss.release()
    assert float(by_pool[1, 0]) == pytest.approx(float(plain_loss(model, ROWS[1:2]).detach()), rel=1e-5)
    for number, row in enumerate(ROWS):
        assert float(by_row[number, 0]) == pytest.approx(float(plain_loss(model, [row]).detach()), rel=1e-5)


def test_matrix_products_in_bf16_leave_the_loss_as_it_is_and_gradients_in_fp32() -> None:
    model = llama()
    expected = float(plain_loss(model, ROWS).detach())
    use_packed_attention(model)
    total, _ = ResponseLoss(model, packing=Packing(BY_ROW, ""), is_fused=True, is_mixed=True)(**inputs(ROWS))
    assert float(total.detach()) == pytest.approx(expected, rel=5e-3)
    assert all(gradient.dtype == torch.float32 for gradient in gradients(model, total).values())


def test_a_released_model_gives_every_logit_again() -> None:
    model = llama()
    ids = torch.tensor([ROWS[0].input_ids])
    before = model(input_ids=ids).logits
    use_packed_attention(model)
    loss = ResponseLoss(model, packing=Packing(BY_ROW, ""), is_fused=True, is_mixed=False)
    loss(**inputs(ROWS))
    assert torch.equal(loss.release()(input_ids=ids).logits, before)


def test_cpu_kernels_have_right_gradients() -> None:
    x, weight = torch.randn(5, 6, dtype=torch.double), torch.randn(6, dtype=torch.double)
    gate, up = torch.randn(2, 4, 6, dtype=torch.double)
    for tensor in (x, weight, gate, up):
        tensor.requires_grad_()
    assert torch.autograd.gradcheck(lambda x, weight: RmsNorm.apply(x, weight, 1e-3, torch.double), (x, weight))
    assert torch.autograd.gradcheck(SiluGate.apply, (gate, up))


def test_a_norm_with_another_formula_keeps_its_own() -> None:
    from transformers import GemmaConfig, GemmaForCausalLM

    model = GemmaForCausalLM(GemmaConfig(**SIZES, **HEADS, head_dim=8))
    torch.nn.init.normal_(model.model.norm.weight)
    assert use_layer_kernels(model, CPU) == 0


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation made."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for tensor in made if isinstance(made, tuple | list) else [made]:
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return made


@pytest.mark.parametrize("has_bias", [True, False])
def test_the_logits_of_a_large_vocabulary_never_exist_at_once(monkeypatch: pytest.MonkeyPatch, has_bias: bool) -> None:
    torch.manual_seed(0)
    hidden, weight, bias = torch.randn(300, 8), torch.randn(5000, 8), torch.randn(5000) if has_bias else None
    targets = torch.randint(5000, (300,))
    leaves = [tensor.requires_grad_() for tensor in (hidden, weight, bias) if tensor is not None]
    plain = functional.cross_entropy(functional.linear(hidden, weight, bias), targets, reduction="sum")
    known = torch.autograd.grad(2 * plain, leaves)
    monkeypatch.setattr(train_loss, "LOGIT_BYTES", 20 * 5000 * 4)
    with Largest() as largest:
        total, losses = HeadLoss.apply(hidden, weight, bias, targets)
        found = torch.autograd.grad(2 * total, leaves)
    assert largest.elements <= 20 * 5000 < 300 * 5000
    assert float(losses.sum()) == pytest.approx(float(plain.detach()), rel=1e-5)
    for one, other in zip(found, known, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("has_bias", [True, False])
def test_weights_of_one_are_no_weights_to_the_bit(small_blocks: None, has_bias: bool) -> None:
    """And both are what the loss was before there were weights, written out here."""
    torch.manual_seed(0)
    hidden, weight = torch.randn(40, 8, requires_grad=True), torch.randn(90, 8, requires_grad=True)
    bias = torch.randn(90, requires_grad=True) if has_bias else None
    targets, leaves = torch.randint(90, (40,)), [one for one in (hidden, weight, bias) if one is not None]
    known = [torch.zeros_like(leaf) for leaf in leaves]
    losses = []
    with torch.no_grad():
        for start in range(0, 40, 16):
            part = slice(start, start + 16)
            logits = functional.log_softmax(functional.linear(hidden[part], weight, bias).float(), dim=1)
            losses.append(-logits.gather(1, targets[part][:, None])[:, 0])
            gradient = logits.exp_()
            gradient[torch.arange(len(gradient)), targets[part]] -= 1
            known[0][part] = gradient @ weight
            known[1] += gradient.T @ hidden[part]
            if has_bias:
                known[2] += gradient.sum(dim=0)
    for token_weights in (None, torch.ones(40)):
        total, found = HeadLoss.apply(hidden, weight, bias, targets, token_weights)
        assert torch.equal(found, torch.cat(losses)) and torch.equal(total, torch.cat(losses).sum())
        gradients = torch.autograd.grad(total, leaves)
        assert all(torch.equal(one, other) for one, other in zip(gradients, known, strict=True))


@pytest.mark.parametrize("is_fused", [True, False])
def test_a_weighted_loss_has_the_gradients_that_autograd_finds(small_blocks: None, is_fused: bool) -> None:
    model = llama()
    ids = [torch.tensor([one.input_ids]) for one in ROWS]
    weights = torch.tensor([0.7, -1.3, 0.0])
    logits = [model(input_ids=one, use_cache=False).logits[0, :-1] for one in ids]
    each = [
        functional.cross_entropy(one, torch.tensor(row.labels[1:]), ignore_index=IGNORED, reduction="sum")
        for one, row in zip(logits, ROWS, strict=True)
    ]
    expected = (torch.stack(each) * weights).sum()
    known = gradients(model, expected)
    use_packed_attention(model)
    loss = ResponseLoss(model, packing=Packing(BY_ROW, ""), is_fused=is_fused, is_mixed=False)
    made = tensors(named(ROWS, ["0"] * 3))
    total, losses = loss(**made.inputs, weights=weights[made.row_of])
    assert float(total.detach()) == pytest.approx(float(expected.detach()), rel=1e-4)
    assert sums_by(made.row_of, losses, 3)[:, 0].tolist() == pytest.approx([float(one.detach()) for one in each])
    for name, gradient in gradients(model, total).items():
        torch.testing.assert_close(gradient, known[name], rtol=1e-3, atol=1e-4)


def test_a_frozen_output_layer_gets_no_gradient_buffer() -> None:
    hidden, weight = torch.randn(6, 8, requires_grad=True), torch.randn(50, 8)
    total, _ = HeadLoss.apply(hidden, weight, None, torch.arange(6))
    total.backward()
    assert hidden.grad is not None and weight.grad is None


def test_a_micro_batch_without_supervised_tokens_has_no_loss_and_no_gradient() -> None:
    model = llama()
    use_packed_attention(model)
    loss = ResponseLoss(model, packing=Packing(BY_ROW, ""), is_fused=True, is_mixed=False)
    total, losses = loss(**inputs([TrainRow("", "", [0, 0], [IGNORED, IGNORED])]))
    assert float(total.detach()) == 0 == len(losses)
    assert all(not gradient.any() for gradient in gradients(model, total).values())


def test_a_model_that_attends_across_packed_rows_is_detected() -> None:
    model = llama()
    assert not keeps_rows_apart_without_blocks(model)
    assert use_packed_attention(model).attention and keeps_rows_apart(model)


def keeps_rows_apart_without_blocks(model: LlamaForCausalLM) -> bool:
    """As if attention knew nothing of rows: one causal block over all of them."""
    from transformers import AttentionInterface, AttentionMaskInterface

    from distill.train.worker.kernels.attention import row_attention

    def one_block(*args: Any, **options: Any) -> tuple[torch.Tensor, None]:
        options.pop("rows", None)
        return row_attention(*args, **options)

    AttentionInterface.register("one_block", one_block)
    AttentionMaskInterface.register("one_block", lambda *_, **__: None)
    model.set_attn_implementation("one_block")
    return keeps_rows_apart(model)


def test_a_model_without_row_attention_is_trained_one_row_at_a_time() -> None:
    torch.manual_seed(0)
    model = tiny("lfm2")
    expected = plain_loss(model, ROWS[:1])
    packing = use_packed_attention(model)
    loss = ResponseLoss(model, packing=packing, is_fused=has_plain_head(model), is_mixed=False)
    assert not loss.packs and "one row per forward pass (it has layers of kind conv)" in loss.layout
    assert float(loss(**inputs(ROWS[:1]))[0].detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_logits_that_are_scaled_after_the_output_layer_are_not_fused() -> None:
    from transformers import CohereConfig, CohereForCausalLM

    model = CohereForCausalLM(CohereConfig(**SIZES, **HEADS, logit_scale=0.5))
    assert not has_plain_head(model)
    expected = plain_loss(model, ROWS[:1])
    loss = ResponseLoss(model, packing=use_packed_attention(model), is_fused=False, is_mixed=False)
    assert float(loss(**inputs(ROWS[:1]))[0].detach()) == pytest.approx(float(expected.detach()), rel=1e-5)


def test_a_model_with_an_adapter_is_packed_and_fused_as_well() -> None:
    from distill.config.students import LoraTune
    from distill.train.worker.student import add_adapter

    model = add_adapter(llama(), LoraTune(rank=2))
    expected = plain_loss(model, ROWS)
    assert use_packed_attention(model).attention and has_plain_head(model) and use_layer_kernels(model, CPU) == 7
    loss = ResponseLoss(model, packing=Packing(BY_ROW, ""), is_fused=True, is_mixed=False)
    total, _ = loss(**inputs(ROWS))
    assert float(total.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert all("lora" in name for name in gradients(model, total))
