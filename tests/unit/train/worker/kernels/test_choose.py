"""Which kernels are tried, and that what is not possible is told."""

import pytest

from distill.config.train import KernelChoice
from distill.train.layout import Device
from distill.train.worker.kernels import choose
from distill.train.worker.kernels.choose import resolve_kernels, use_kernels
from distill.train.worker.loss import ResponseLoss
from tests.fixtures.tiny_architectures import tiny

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("choice", "device", "has_liger", "expected"),
    [
        ("auto", "cpu", True, "cpu"),
        ("auto", "gpu", True, "liger"),
        ("auto", "gpu", False, "torch"),
        ("torch", "gpu", True, "torch"),
        ("compile", "gpu", True, "compile"),
        ("liger", "gpu", False, "liger"),
    ],
)
def test_an_open_choice_takes_what_is_at_hand_and_a_set_one_is_kept(
    choice: KernelChoice, device: Device, has_liger: bool, expected: str
) -> None:
    assert resolve_kernels(choice, device, has_liger=has_liger) == expected


@pytest.mark.parametrize(
    ("choice", "device", "told"),
    [
        ("auto", "cpu", "cpu (13 modules)"),
        ("torch", "cpu", "torch"),
        ("liger", "cpu", "torch (Liger's kernels need a GPU)"),
        ("liger", "gpu", "torch (liger-kernel is not installed)"),
    ],
)
def test_the_log_says_what_is_used_and_why_not_what_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, choice: KernelChoice, device: Device, told: str
) -> None:
    monkeypatch.setattr(choose, "has_liger", lambda: False)
    model = tiny("llama")
    computed = use_kernels(model, choice, device)
    loss = ResponseLoss(model, packing=computed.packing, kernels=computed.kernels, is_fused=True, is_mixed=False)
    assert computed.kernels == told
    assert loss.layout == f"packed rows (packed_rows), fused loss, kernels: {told}"


def test_kernels_that_fit_no_module_of_a_model_are_not_said_to_be_used() -> None:
    assert use_kernels(tiny("gpt2"), "auto", "cpu").kernels == "torch (no module computes as the cpu kernels do)"
