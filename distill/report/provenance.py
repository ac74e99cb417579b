"""Where the numbers come from: recipe, weights, code, machine and packages."""

import os
import platform
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any

from cluster.units import GIB
from distill.config.recipe import Recipe
from distill.core.manifest import now
from distill.core.run_dir import RunDir, score_item
from distill.core.versions import package_versions
from distill.evaluate.read_scores import expected_models
from distill.report.data import ModelSource, Provenance
from distill.report.formats import MISSING
from distill.report.run_history import Manifests
from distill.report.stored import PACKAGES


def provenance(recipe: Recipe, run_dir: RunDir, manifests: Manifests) -> Provenance:
    """Read from the manifests; machine and packages are those of the process that writes the report."""
    versions = dict.fromkeys(one.code_version for one in manifests.values() if one.code_version)
    return Provenance(
        recipe_json=recipe.model_dump_json(indent=2, exclude_defaults=True),
        models=model_sources(manifests),
        commits=read_commits(manifests),
        sampling=read_sampling(recipe, run_dir),
        code_versions=tuple(versions),
        written_at=now(),
        machine=machine(),
        packages=package_versions(PACKAGES),
        run_uri=run_dir.uri,
    )


def model_sources(manifests: Manifests) -> tuple[ModelSource, ...]:
    """The source that each model was loaded from, as the train stage recorded it."""
    recorded: Mapping[str, Any] = manifests["train"].details.get("models", {}) if "train" in manifests else {}
    return tuple(
        ModelSource(
            name=name,
            source=str(one.get("source", MISSING)),
            num_parameters=one.get("num_parameters"),
            skipped=tuple(one.get("skipped", ())),
        )
        for name, one in recorded.items()
    )


def read_commits(manifests: Manifests) -> dict[str, str]:
    """The commits of the hub's data sets that were read, as the prompts stage recorded them."""
    return dict(manifests["prompts"].details.get("commits", {})) if "prompts" in manifests else {}


def read_sampling(recipe: Recipe, run_dir: RunDir) -> dict[str, str]:
    """What applied to the answers, as every score recorded it, and to which scores."""
    found: dict[str, list[str]] = {}
    for model, benchmark in product(expected_models(recipe), recipe.evaluate.benchmarks):
        manifest = run_dir.read_manifest(*score_item(model.name, benchmark))
        if manifest is not None:
            words = sampling_words(manifest.details.get("sampling", {}))
            found.setdefault(words, []).append(f"{model.name} on {benchmark}")
    return {words: "all scores" if len(found) == 1 else ", ".join(scores) for words, scores in found.items()}


def sampling_words(sampling: Mapping[str, Any]) -> str:
    """Sampling parameters in a line."""
    return ", ".join(f"{name} {value}" for name, value in sampling.items()) or MISSING


def machine() -> dict[str, str]:
    """Cores, memory, GPUs and system of this machine, from the kernel's own files."""
    return {
        "system": f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "memory": _memory(),
        "GPU": _gpus(),
    }


def _memory() -> str:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return "not recorded"
    return f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / GIB:.0f} GiB"


def _gpus() -> str:
    names = []
    for information in sorted(Path("/proc/driver/nvidia/gpus").glob("*/information")):
        names += [line.split(":", 1)[1].strip() for line in information.read_text().splitlines() if "Model" in line]
    return f"{len(names)} x {names[0]}" if names else "none"
