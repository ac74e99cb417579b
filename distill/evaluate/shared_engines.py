"""Which models take turns in one engine: full weights of the same shapes, since an exchange of weights takes a second
and an engine's start a minute."""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from distill.config.serve import ServeSection
from distill.core.schema import content_hash
from distill.evaluate.models import EvaluatedModel
from distill.models.folder import CONFIG, TEMPLATE, TOKENIZER_CONFIG, parse_settings, read_text, tensor_shapes

FIXED_WEIGHTS = ("quantization", "load_format", "speculative_config", "worker_extension_cls")
"""Engine arguments with which weights that are loaded once cannot be exchanged, not alone, or not by us."""

IRRELEVANT = (
    "_name_or_path",
    "dtype",
    "rope_scaling",
    "rope_theta",
    "torch_dtype",
    "transformers_version",
    "use_cache",
)
"""Settings of a config.json that say nothing of the shapes, or that transformers 4 and 5 spell differently."""

SPECIAL_TOKENS = ("bos_token", "eos_token")


def share_engines(
    models: Sequence[EvaluatedModel],
    section: ServeSection,
    max_engines: int,
    *,
    key_of: Callable[[str], str] | None = None,
    alone: Collection[str] = (),
) -> list[EvaluatedModel]:
    """The models, with a label on those that take turns.

    Args:
        models: all that will be asked.
        section: how they are served.
        max_engines: engines that run at the same time; sources beyond that share. 1 on a CPU, whose cores all engines
            would share.
        key_of: folder -> what must be equal in one engine, `exchange_key`; empty for a folder that cannot take turns.
        alone: served names that need an engine of their own: those that write one answer together.
    """
    if not may_share(section):
        return list(models)
    adapted = {model.source for model in models if model.adapter}
    apart = adapted | {model.source for model in models if model.served_name in alone}
    free = dict.fromkeys(model.source for model in models if model.source not in apart)
    keys = {source: (key_of or exchange_key)(source) for source in free}
    classes: dict[str, list[str]] = defaultdict(list)
    for source, key in keys.items():
        classes[key or source].append(source)
    counts = engines_per_class([len(group) for group in classes.values()], max_engines - len(apart))
    labels = {
        source: f"{key}/{index % count}"
        for (key, group), count in zip(classes.items(), counts, strict=True)
        for index, source in enumerate(group)
    }
    shared = Counter(labels.values())
    return [
        replace(model, shared_engine=label) if shared[label := labels.get(model.source, "")] > 1 else model
        for model in models
    ]


def engines_per_class(sizes: Sequence[int], max_engines: int) -> list[int]:
    """Engines for each class of equal shapes: one per model where they fit, else fewer, at least one per class.

    Taken away where the turns stay shortest.
    """
    counts = list(sizes)
    while sum(counts) > max_engines and any(count > 1 for count in counts):
        where = min(
            (index for index, count in enumerate(counts) if count > 1),
            key=lambda index: sizes[index] / (counts[index] - 1),
        )
        counts[where] -= 1
    return counts


def may_share(section: ServeSection) -> bool:
    """Whether the recipe wants it, and no engine argument forbids an exchange of weights."""
    return section.share_engines and not any(section.engine.kwargs.get(name) for name in FIXED_WEIGHTS)


def exchange_key(address: str) -> str:
    """What must be equal for two folders to take turns in one engine: shapes, settings, tokenizer, chat template.

    Empty for a folder without a config.json or a tokenizer.json.
    """
    config, tokenizer = _json(address, CONFIG), _json(address, "tokenizer.json")
    if config is None or tokenizer is None:
        return ""
    settings = _json(address, TOKENIZER_CONFIG) or {}
    precision = config.get("dtype") or config.get("torch_dtype")
    shape = {name: value for name, value in config.items() if name not in IRRELEVANT}
    special = {name: _content(settings.get(name)) for name in SPECIAL_TOKENS}
    template = read_text(address, TEMPLATE) or settings.get("chat_template")
    return content_hash(shape, str(precision), sorted(tensor_shapes(address).items()), tokenizer, special, template)


def _content(token: Any) -> Any:
    return token.get("content") if isinstance(token, Mapping) else token


def _json(address: str, name: str) -> Any:
    text = read_text(address, name)
    return None if text is None else parse_settings(text) if name == CONFIG else json.loads(text)
