"""What a run has counted of a recipe's prompts and problems, where it read them as the recipe says now.

The default run directory of a recipe may hold a run of the same recipe with other settings: its counts are not those of
the run that is planned.
"""

from __future__ import annotations

from distill.config.identity import stage_parts
from distill.config.recipe import Recipe
from distill.core.run_dir import RunDir, StageName

BENCHMARKS = "benchmarks"


def counted_prompts(recipe: Recipe, run_dir: RunDir | None) -> int | None:
    """Training prompts of the run; None where it has read none, or by other settings."""
    manifest = run_dir.read_manifest(StageName.PROMPTS) if run_dir else None
    if manifest is None:
        return None
    read, asked = manifest.details.get("config", {}), stage_parts(recipe)[StageName.PROMPTS]
    is_same = all(read.get(name) == value for name, value in asked.items() if name != BENCHMARKS)
    return manifest.rows_out if is_same else None


def counted_problems(recipe: Recipe, run_dir: RunDir | None) -> dict[str, int]:
    """Benchmark -> problems, of those that the run has read by these settings."""
    manifest = run_dir.read_manifest(StageName.PROMPTS) if run_dir else None
    if manifest is None:
        return {}
    read, asked = manifest.details.get("config", {}), stage_parts(recipe)[StageName.PROMPTS]
    same = [name for name, one in asked[BENCHMARKS].items() if read.get(BENCHMARKS, {}).get(name) == one]
    counts = manifest.details.get(BENCHMARKS, {})
    return {name: counts[name] for name in same if name in counts}
