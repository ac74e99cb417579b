"""`distill doctor`, and the quick part of it that every run starts with."""

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from rich.console import Console
from rich.table import Table

from cluster.session import connect, is_joined
from distill.config.passes import base_model
from distill.config.recipe import Recipe
from distill.config.teachers import EndpointTeacher, VllmTeacher
from distill.core.errors import ConfigError, InputError
from distill.core.run_dir import RunDir
from distill.models.resolve import ResolvedModel, load_tokenizer
from distill.ops.doctor import probes
from distill.ops.doctor.conversations import asked_ways, template_findings
from distill.ops.doctor.data import data_findings
from distill.ops.doctor.eval_arms import arm_findings
from distill.ops.doctor.findings import (
    COLOURS,
    Finding,
    credential_finding,
    disk_finding,
    gpu_finding,
    import_findings,
    is_ready,
    node_findings,
    source_finding,
    version_findings,
)
from distill.ops.doctor.matching import match_findings
from distill.ops.doctor.templates import print_lines
from distill.ops.forecast.cell_plan import fetch_settings, plan_recipe
from distill.ops.forecast.power import NEEDS_PROBLEMS, Planned, planned_power, power_words
from distill.train.machines import machines_here

LARGE_DIFFERENCE = 0.15
"""Published mixes differ from pure arms by less: a run that shows only more than this is likely to show nothing."""


def quick_findings(recipe: Recipe, base: Path, run_dir: RunDir) -> Iterator[Finding]:
    """Quick checks: versions, keys, and whether the run directory can be written."""
    yield from version_findings(probes.requirements(), probes.installed_versions())
    yield from _credentials(recipe)
    yield _storage(run_dir)
    if run_dir.is_local:
        yield disk_finding("run directory", probes.free_gib(run_dir.local_path()), 0.0)


def refuse_unready(recipe: Recipe, base: Path, run_dir: RunDir) -> None:
    """The quick checks, before a run starts.

    Raises:
        InputError: something prevents the run; names everything found.
    """
    _refuse(quick_findings(recipe, base, run_dir), "distill doctor checks more")


def refuse_templates(recipe: Recipe, models: Mapping[str, ResolvedModel], console: Console) -> None:
    """Render every student, teacher and mode before anything is asked or trained, and tell what is found.

    Raises:
        InputError: a chat template cannot be used as the recipe asks for it, or a student cannot answer as an
            evaluation arm asks.
    """
    tokenizers = {name: load_tokenizer(str(model.folder)) for name, model in models.items()}
    found = [
        *template_findings(asked_ways(recipe), tokenizers),
        *arm_findings(recipe, tokenizers),
        *match_findings(recipe, tokenizers),
    ]
    print_lines([one for one in found if one.status != "problem"], console)
    _refuse(found, "nothing was asked or trained yet")


def _refuse(findings: Iterable[Finding], note: str) -> None:
    found = [finding for finding in findings if finding.status == "problem"]
    if found:
        lines = "\n".join(f"  {one.check}: {one.what}\n    -> {one.remedy}" for one in found)
        raise InputError(f"the run cannot start ({note}):\n{lines}")


def all_findings(recipe: Recipe, base: Path, run_dir: RunDir) -> Iterator[Finding]:
    """All checks, the slow ones too."""
    yield from quick_findings(recipe, base, run_dir)
    yield from import_findings(probes.import_errors())
    found, error = probes.gpus()
    yield gpu_finding("auto" if is_joined() else recipe.device, found, error)
    yield disk_finding("models", probes.free_gib(probes.models_folder()), 0.0)
    yield from _models(recipe)
    tokenizers = probes.tokenizers(recipe.models)
    yield from template_findings(asked_ways(recipe), tokenizers)
    yield from arm_findings(recipe, tokenizers)
    yield from match_findings(recipe, tokenizers)
    yield from data_findings(recipe, base)
    if is_joined():
        yield from _cluster(recipe, run_dir)
    yield _placement(recipe, base, run_dir)
    yield power_finding(planned_power(recipe, run_dir))


def _credentials(recipe: Recipe) -> Iterator[Finding]:
    for teacher in recipe.teachers:
        if isinstance(teacher, EndpointTeacher) and teacher.api_key_env:
            is_set = bool(os.environ.get(teacher.api_key_env))
            yield credential_finding(teacher.api_key_env, f"teachers[{teacher.name}].api_key_env", is_set=is_set)
    for section, judge in (("verify", recipe.verify.judge), ("evaluate", recipe.evaluate.judge)):
        if judge is not None and judge.api_key_env:
            is_set = bool(os.environ.get(judge.api_key_env))
            yield credential_finding(judge.api_key_env, f"{section}.judge.api_key_env", is_set=is_set)


def _storage(run_dir: RunDir) -> Finding:
    error = probes.storage_error(run_dir)
    if error:
        return Finding("storage", "problem", f"{run_dir.uri}: {error}", "set a --run-dir that can be written")
    return Finding("storage", "ok", f"{run_dir.uri} can be written")


def _models(recipe: Recipe) -> Iterator[Finding]:
    ours = [base_model(recipe, teacher.model) for teacher in recipe.teachers if isinstance(teacher, VllmTeacher)]
    for name in dict.fromkeys([*ours, *(student.model for student in recipe.students)]):
        yield source_finding("models", name, probes.model_states(recipe.models[name]))


def _cluster(recipe: Recipe, run_dir: RunDir) -> Iterator[Finding]:
    try:
        with connect(recipe.device):
            versions = {
                name: version for name, version in probes.installed_versions().items() if name in probes.LIBRARIES
            }
            yield from node_findings(probes.probe_nodes(run_dir), versions)
    except (ConnectionError, RuntimeError, ValueError) as error:
        address = os.environ["RAY_ADDRESS"]
        yield Finding("cluster", "problem", f"{address}: {error}", "correct RAY_ADDRESS, or start the cluster")


def _placement(recipe: Recipe, base: Path, run_dir: RunDir) -> Finding:
    try:
        plan = plan_recipe(recipe, base, run_dir, machines_here(recipe))
    except (ConfigError, InputError) as error:
        return Finding("placement", "problem", str(error), "distill plan RECIPE --cluster 1x8x80 shows what would fit")
    return Finding("placement", "ok", f"all {len(plan.cells)} cells fit")


def power_finding(planned: Planned | None) -> Finding:
    """Whether the run is large enough for its report to show a difference that mixes may well make."""
    if planned is None:
        return Finding("power", "ok", NEEDS_PROBLEMS)
    words = power_words(planned)
    if planned.difference <= LARGE_DIFFERENCE:
        return Finding("power", "ok", words)
    return Finding(
        "power", "warning", words, "more training seeds or benchmark problems, or fewer arms in the question"
    )


def doctor(recipe: Recipe, base: Path, run_dir: RunDir, console: Console) -> int:
    """`distill doctor`: prints all findings; exit code 0, or 1 where something prevents a run."""
    with suppress(InputError):  # placement will say so
        fetch_settings(recipe, console)
    findings = list(all_findings(recipe, base, run_dir))
    show(findings, console)
    return 0 if is_ready(findings) else 1


def show(findings: Sequence[Finding], console: Console) -> None:
    """Print a line per finding, with its remedy below."""
    table = Table("check", "", "found", box=None)
    for one in findings:
        remedy = f"\n-> {one.remedy}" if one.remedy else ""
        table.add_row(one.check, f"[{COLOURS[one.status]}]{one.status}[/]", f"{one.what}{remedy}".replace("[", "\\["))
    console.print(table)
    problems = sum(one.status == "problem" for one in findings)
    console.print("ready" if not problems else f"{problems} of {len(findings)} checks failed")
