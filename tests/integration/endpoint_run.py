"""The part of a recipe that runs on a tiny model with teachers at an address have in common."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any


def endpoint_run(model: Path, url: str, styles: Iterable[str]) -> dict[str, Any]:
    """Sections up to the teachers, one for each style and called so; problems are those of `prompts.jsonl`."""
    return {
        "device": "cpu",
        "models": {"tiny": {"sources": [str(model)]}},
        "prompts": {
            "sources": [{"kind": "file", "path": "prompts.jsonl", "answer_kind": "number"}],
            "near_duplicates": 0,
            "decontaminate_ngram": 0,
        },
        "teachers": [
            {"kind": "endpoint", "name": style, "style": style, "base_url": url, "remote_model": style}
            for style in styles
        ],
    }
