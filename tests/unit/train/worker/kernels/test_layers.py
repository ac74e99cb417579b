"""Where the kernels for CPUs are used, and that they change nothing."""

import pytest
import torch

from distill.train.worker.kernels import layers
from distill.train.worker.kernels.cpu import CPU
from distill.train.worker.kernels.layers import remove_layer_kernels, use_layer_kernels
from tests.fixtures.tiny_architectures import logits_of, tiny

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("name", "changed"), [("qwen3.5", 4), ("qwen3-next", 4), ("granite hybrid", 9), ("bamba", 13), ("llama", 13)]
)
def test_models_with_gated_norms_are_trained_with_the_kernels_that_fit_them(name: str, changed: int) -> None:
    model = tiny(name)
    before = logits_of(model)
    assert use_layer_kernels(model, CPU) == changed
    torch.testing.assert_close(logits_of(model), before, rtol=1e-4, atol=1e-4)
    ids = torch.arange(12)[None]
    model.train()
    model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    assert all(torch.isfinite(weight.grad).all() for weight in model.parameters() if weight.grad is not None)


class TwoInputs(torch.nn.Module):
    """A norm that takes a gate as well; without it, the plain norm."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.variance_epsilon = torch.nn.Parameter(torch.ones(32)), 1e-6

    def forward(self, x: torch.Tensor, gate: torch.Tensor | None = None) -> torch.Tensor:
        normal = self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
        return normal if gate is None else normal * torch.nn.functional.silu(gate)


def test_a_module_that_takes_more_than_its_input_keeps_its_forward() -> None:
    model = tiny("llama")
    model.model.norm = TwoInputs()
    assert use_layer_kernels(model, CPU) == 12
    assert "forward" not in vars(model.model.norm)


def test_a_unit_with_dropout_keeps_its_forward() -> None:
    model = tiny("llama")
    model.model.layers[0].mlp.dropout = torch.nn.Dropout(0.1)
    assert use_layer_kernels(model, CPU) == 12


def test_a_model_that_gives_other_logits_with_the_kernels_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("llama")
    before = logits_of(model)
    # As if a kernel passed its own comparison and yet were wrong in the place where it is used.
    wrong = CPU._replace(gates=(lambda unit, x: 1.5 * CPU.gates[0](unit, x),))
    monkeypatch.setattr(layers, "_is_same", lambda module, kernel, errors: True)
    assert use_layer_kernels(model, wrong) == 0
    assert torch.equal(logits_of(model), before)


def test_only_these_kernels_are_removed() -> None:
    model = tiny("llama")
    own = model.model.layers[0].mlp
    use_layer_kernels(model, CPU)
    own.forward = lambda x: x  # someone else's
    remove_layer_kernels(model)
    assert [module for module in model.modules() if "forward" in vars(module)] == [own]
