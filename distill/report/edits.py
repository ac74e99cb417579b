"""What became of the edits of every teacher that reads, from the manifests of the stages that counted them."""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from distill.config.recipe import Recipe
from distill.config.teachers import read_pool
from distill.core.manifest import Manifest
from distill.core.run_dir import StageName
from distill.evaluate.statistics import wilson_interval
from distill.generate.edits import KEPT
from distill.report.data import EditRow


def edit_rows(recipe: Recipe, manifests: Mapping[str, Manifest]) -> Iterator[EditRow]:
    """One row per teacher that reads, as soon as its edits were counted."""
    verified = _pools(manifests, StageName.VERIFY)
    written = _pools(manifests, StageName.GENERATE)
    for teacher in recipe.teachers:
        source, found = read_pool(teacher), verified.get(teacher.name, {})
        if source is not None and "edits" in found:
            yield _edit_row(teacher.name, source, found, written.get(teacher.name, {}).get("failed", {}))


def _pools(manifests: Mapping[str, Manifest], stage: StageName) -> Mapping[str, Any]:
    found: Mapping[str, Any] = manifests[stage].details.get("pools", {}) if stage in manifests else {}
    return found


def _edit_row(pool: str, reads: str, found: Mapping[str, Any], failed: Mapping[str, int]) -> EditRow:
    edits, changes = found["edits"], found["changes"]
    drops = Counter({reason: number for reason, number in edits.items() if reason != KEPT})
    drops.update(failed)
    return EditRow(
        pool=pool,
        reads=reads,
        asked=sum(edits.values()) + sum(failed.values()),
        kept=edits.get(KEPT, 0),
        drops=dict(drops.most_common()),
        source_tokens=changes["source_tokens"],
        tokens=changes["tokens"],
        growth=changes["growth"],
        of_wrong=changes["of_wrong"],
        wrong_end_right=changes["wrong_end_right"],
        wrong_interval=wilson_interval(changes["wrong_end_right"], changes["of_wrong"]),
        of_correct=changes["of_correct"],
        correct_end_right=changes["correct_end_right"],
        correct_interval=wilson_interval(changes["correct_end_right"], changes["of_correct"]),
    )
