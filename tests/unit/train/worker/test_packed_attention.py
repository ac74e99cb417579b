"""Which models are trained on packed rows."""

from typing import Any

import pytest
import torch

from distill.train.worker.batches import TrainRow, flatten
from distill.train.worker.loss import ResponseLoss
from distill.train.worker.packed_attention import ATTENTION, packed_attention, use_packed_attention
from tests.fixtures.tiny_architectures import logits_of, tiny

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.mark.parametrize(
    ("name", "packs"),
    [("qwen3", True), ("smollm3", True), ("olmo2", True), ("granite", True), ("gemma2", False), ("gemma3", False),
     ("gemma3 with vision", False), ("lfm2", False), ("qwen3.5", False)],
)  # fmt: skip
def test_only_models_with_full_attention_in_every_layer_are_packed(name: str, packs: bool) -> None:
    model = tiny(name)
    before = logits_of(model, 40)
    assert use_packed_attention(model) == packs
    found = logits_of(model, 40)
    assert float((found - before).abs().max() / before.abs().max()) < 1e-3, "a row alone is what it was"


@pytest.mark.parametrize("name", ["sliding_window", "softcap", "s_aux"])
def test_a_layer_that_asks_for_more_than_full_attention_is_refused(name: str) -> None:
    states = torch.randn(1, 2, 5, 8)
    with pytest.raises(ValueError, match=name):
        packed_attention(torch.nn.Identity(), states, states, states, None, **{name: 4.0})


def test_a_window_that_only_the_mask_knows_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny("gemma3")
    for layer in model.model.layers:
        layer.self_attn.sliding_window = None
    monkeypatch.setattr("distill.train.worker.packed_attention.has_plain_attention", lambda config: True)
    assert not use_packed_attention(model)
    assert model.config._attn_implementation != ATTENTION


def test_other_scores_than_those_of_plain_attention_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a model whose attention changes the scores by itself, without saying so in its config."""
    model = tiny("qwen3")

    def doubled(*args: Any, **options: Any) -> tuple[torch.Tensor, None]:
        return packed_attention(*args, **{**options, "scaling": 2 * options["scaling"]})

    monkeypatch.setattr("distill.train.worker.packed_attention.packed_attention", doubled)
    assert not use_packed_attention(model)


def test_rows_are_never_given_with_a_cache() -> None:
    """Transformers 5 takes positions that begin again for packed rows only where no cache is made."""
    model = tiny("llama")
    seen: list[Any] = []
    model.register_forward_pre_hook(lambda _module, _args, kwargs: seen.append(kwargs["use_cache"]), with_kwargs=True)
    packs = use_packed_attention(model)
    loss = ResponseLoss(model, 1, packs=packs, is_fused=False, is_mixed=False)
    rows = [TrainRow(str(seed), "", [seed, 5, 6, 7], [-100, 5, 6, 7]) for seed in (1, 2)]
    columns = flatten(rows)._asdict()
    lengths = columns.pop("row_lengths")
    tensors = {name: torch.tensor([values]) for name, values in columns.items()}
    loss(**tensors, pools=torch.zeros(1, 8, dtype=torch.long), row_lengths=lengths)
    assert packs and len(seen) > 4 and not any(seen)
