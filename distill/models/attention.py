"""What a model's config says of its attention: whether rows can share a forward pass, how wide its heads are."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BY_TOKEN = ("full_attention", "sliding_attention")
"""Kinds of layers in which a token depends on others by attention alone, so that a mask keeps rows apart."""


def one_row_reason(model: PreTrainedModel) -> str:
    """Why the rows of this model are trained in one forward pass each; empty where its config has no reason for it.

    A layer with a state (recurrent, convolutional) would carry one row's state into the next. A model on the meta
    device will do: only its config and class are looked at.
    """
    config = model.config.get_text_config()
    others = [kind for kind in dict.fromkeys(layer_kinds(config)) if kind not in BY_TOKEN]
    if others:
        return f"it has layers of kind {', '.join(others)}"
    if getattr(model, "_is_stateful", False):
        return "its layers have a state"
    if getattr(config, "attn_logit_softcapping", None):
        return "its attention scores are capped"
    return ""


def layer_kinds(config: Any) -> tuple[str, ...]:
    """Kind of every layer of a text model, as transformers names them; empty where its config does not say."""
    return tuple(map(str, getattr(config, "layer_types", None) or ()))


def head_width(config: Any) -> int:
    """Width of one query head. `config`: of the text model."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
