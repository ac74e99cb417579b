"""What a run has counted of a recipe's prompts and problems, where it read them as the recipe says now.

The default run directory of a recipe may hold a run of the same recipe with other settings: its counts are not those of
the run that is planned.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from distill.config.identity import stage_parts
from distill.config.recipe import Recipe
from distill.core.manifest import Manifest
from distill.core.run_dir import RunDir, StageName

BENCHMARKS = "benchmarks"


def counted_prompts(recipe: Recipe, run_dir: RunDir | None) -> int | None:
    """Training prompts of the run; None where it has read none, or by other settings."""
    if (found := _read(recipe, run_dir)) is None:
        return None
    is_same = all(found.by.get(name) == value for name, value in found.asked.items() if name != BENCHMARKS)
    return found.manifest.rows_out if is_same else None


def counted_problems(recipe: Recipe, run_dir: RunDir | None) -> dict[str, int]:
    """Benchmark -> problems, of those that the run has read by these settings."""
    if (found := _read(recipe, run_dir)) is None:
        return {}
    same = [name for name, one in found.asked[BENCHMARKS].items() if found.by.get(BENCHMARKS, {}).get(name) == one]
    counts = found.manifest.details.get(BENCHMARKS, {})
    return {name: counts[name] for name in same if name in counts}


class _Read(NamedTuple):
    manifest: Manifest
    by: Mapping[str, Any]
    """Settings that the run read by."""
    asked: Mapping[str, Any]
    """Those of the recipe."""


def _read(recipe: Recipe, run_dir: RunDir | None) -> _Read | None:
    manifest = run_dir.read_manifest(StageName.PROMPTS) if run_dir else None
    if manifest is None:
        return None
    return _Read(manifest, manifest.details.get("config", {}), stage_parts(recipe)[StageName.PROMPTS])
