"""Models by reference."""

from collections.abc import Mapping
from typing import Any

from pydantic import Field

from distill.config.base import Section


class ModelConfig(Section):
    """A model by reference."""

    sources: tuple[str, ...] = Field(min_length=1)
    """Where the weights are, tried in order: a hub id, a local folder, a `.gguf` file, any fsspec URI of a folder, or
    `package://NAME` for an installed package that carries one GGUF file."""
    revision: str = "main"
    """Hub revision (branch, tag or commit)."""
    keep_layers: int | None = Field(default=None, ge=1)
    """Cut the model to this many decoder layers, evenly spaced, first and last kept. Absent: the model as it is."""
    context_tokens: int | None = Field(default=None, ge=1)
    """Longest prompt plus completion of the model, tokens. Absent: as in its config.json."""
    chat_template: str | None = None
    """Jinja chat template for a model that has none."""


TEXT_PARTS = ("text_config", "llm_config", "language_config", "thinker_config")
"""Where models that also see or hear keep the settings of their language model, in config.json."""


def text_settings(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings of the language model in a config.json: its own, or those nested in one of `TEXT_PARTS`."""
    for name in TEXT_PARTS:
        if isinstance(nested := settings.get(name), Mapping):
            return text_settings(nested)
    return settings
