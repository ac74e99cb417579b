"""From a run directory to a `Report`, and from a `Report` to its three files."""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from distill.config.question import candidates
from distill.config.recipe import Recipe
from distill.core.run_dir import REPORT_JSON, REPORT_PAGE, REPORT_SCORES, RunDir, StageName
from distill.core.schema import seed_for
from distill.core.verifier_version import VERIFIER_VERSION
from distill.evaluate.read_scores import expected_models, read_scores
from distill.mix.auto_weights import with_found_weights
from distill.report.arms import arm_scores, build_arms, macro_scores
from distill.report.base_vs_instruct import gap_changes
from distill.report.budget_curves import budget_curves
from distill.report.comparisons import compare, detectable
from distill.report.data import Report
from distill.report.families import arm_families
from distill.report.html import render_page
from distill.report.model_scores import model_score
from distill.report.paper_metrics import benchmark_rows, costs, group_scores, sweeps
from distill.report.paper_numbers import paper_rows
from distill.report.pools import fit_rows, mix_rows, pool_rows, read_traces, teacher_sizes
from distill.report.provenance import package_versions, provenance
from distill.report.question import answer_question
from distill.report.run_history import cell_rows, funnel, num_common, read_manifests, stage_rows
from distill.report.samples import answer_samples, trace_samples
from distill.report.score_data import ModelScore
from distill.report.searches import search_rows
from distill.report.trace_costs import read_levels, trace_costs
from distill.report.unequal_steps import steps_changes
from distill.report.wording import caveats, findings, headline
from distill.run.context import read_benchmark


def build_report(recipe: Recipe, run_dir: RunDir) -> Report:
    """All numbers of a run, as far as it has got. Reads rows and manifests, writes nothing.

    Args:
        recipe: the resolved recipe of the run; files of other students, mixes or seeds are ignored.
        run_dir: a run directory, finished or not.
    """
    rng, manifests = np.random.default_rng(seed_for("report", recipe.seed)), read_manifests(run_dir)
    # What was asked before the search is answered, whatever weights it has found.
    asked = candidates(recipe.question, recipe.mixes, recipe.merges) if recipe.question else ()
    recipe = with_found_weights(recipe, manifests.get(StageName.SEARCH))
    traces, scores = read_traces(run_dir), read_scores(recipe, run_dir)
    models = [model_score(one) for one in scores]
    arms = build_arms(recipe, scores)
    comparisons = compare(recipe, arms, teacher_sizes(recipe, run_dir), rng)
    changes = gap_changes(recipe, arms, comparisons, rng)
    unequal = steps_changes(recipe, arms, comparisons, rng)
    lines, macros = arm_scores(arms, comparisons), macro_scores(arms, len(recipe.evaluate.benchmarks))
    cells, mixes = cell_rows(recipe, run_dir, manifests), mix_rows(recipe, run_dir, traces)
    source, limits = provenance(recipe, run_dir, manifests), detectable(comparisons)
    problems = {name: read_benchmark(run_dir, name) for name in recipe.evaluate.benchmarks}
    sizes = {model.name: model.num_parameters for model in source.models}
    return Report(
        name=recipe.name,
        description=recipe.description,
        question=answer_question(recipe, asked, comparisons),
        headline=headline(recipe, lines, macros, comparisons),
        findings=tuple(findings(comparisons, changes)),
        caveats=tuple(caveats(recipe, models, limits, cells)),
        benchmarks=tuple(recipe.evaluate.benchmarks),
        students=tuple(student.name for student in recipe.students),
        student_sizes={student.name: sizes.get(student.model) for student in recipe.students},
        mixes=tuple(dict.fromkeys(model.mix for model in expected_models(recipe) if model.mix)),
        models=tuple(models),
        arms=tuple(lines),
        macros=tuple(macros),
        comparisons=tuple(comparisons),
        gap_changes=tuple(changes),
        steps_changes=tuple(unequal),
        detectable=tuple(limits),
        benchmark_rows=tuple(
            benchmark_rows(recipe, {name: len(rows) for name, rows in problems.items()}, source.commits)
        ),
        sweeps=tuple(sweeps(recipe, lines, macros)),
        budget_curves=tuple(budget_curves(recipe, lines, macros, mixes, cells)),
        families=arm_families(recipe),
        groups=tuple(group_scores(arms, problems)),
        costs=tuple(costs(recipe, comparisons, cells, traces, num_common(manifests))) if lines else (),
        trace_costs=tuple(trace_costs(recipe, traces, read_levels(run_dir), manifests.get(StageName.GENERATE))),
        paper=tuple(paper_rows(recipe, lines, macros, comparisons)),
        pools=tuple(pool_rows(recipe, traces)),
        mix_rows=tuple(mixes),
        fits=tuple(fit_rows(manifests)),
        searches=tuple(search_rows(manifests)),
        cells=tuple(cells),
        stages=tuple(stage_rows(manifests)),
        funnel=tuple(funnel(recipe, manifests, traces, mixes)),
        answers=tuple(answer_samples(recipe, run_dir, arms, problems)),
        traces=tuple(trace_samples(recipe, run_dir)),
        provenance=source,
    )


def write_report(report: Report, run_dir: RunDir) -> str:
    """Write report.html, report.json and scores.parquet; returns the path of the page. The manifest is the caller's."""
    run_dir.write_table(scores_table(report.models), *REPORT_SCORES)
    run_dir.write_bytes(report_json(report), *REPORT_JSON)
    run_dir.write_bytes(render_page(report).encode(), *REPORT_PAGE)
    return run_dir.path(*REPORT_PAGE)


def report_json(report: Report) -> bytes:
    """The same numbers as the page, for programs."""
    return json.dumps(_finite(dataclasses.asdict(report)), indent=1, ensure_ascii=False, allow_nan=False).encode()


def scores_json(models: tuple[ModelScore, ...], settings: Mapping[str, Any]) -> bytes:
    """Scores without a run: the numbers, what was asked, and what graded it."""
    found = {"scores": [dataclasses.asdict(one) for one in models], "settings": settings, "verifier": VERIFIER_VERSION}
    return json.dumps(_finite({**found, "packages": package_versions()}), indent=1, ensure_ascii=False).encode()


def _finite(value: Any) -> Any:
    # A diverged training writes NaN losses, and JSON has no word for them.
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


SCORE_FIELDS: dict[str, pa.DataType] = {
    "model": pa.string(),
    "student": pa.string(),
    "mix": pa.string(),
    "seed": pa.int64(),
    "benchmark": pa.string(),
    "accuracy": pa.float64(),
    "interval_low": pa.float64(),
    "interval_high": pa.float64(),
    "num_prompts": pa.int64(),
    "num_graded": pa.int64(),
    "correct": pa.int64(),
    "incorrect": pa.int64(),
    "no_answer": pa.int64(),
    "errors": pa.int64(),
    "mean_tokens": pa.float64(),
    "p95_tokens": pa.float64(),
    "truncated": pa.int64(),
    "looping": pa.int64(),
    "string_match": pa.float64(),
    "num_samples": pa.int64(),
    "pass_at": pa.list_(
        pa.struct([("k", pa.int64()), ("value", pa.float64()), ("low", pa.float64()), ("high", pa.float64())])
    ),
}


def scores_table(models: tuple[ModelScore, ...]) -> pa.Table:
    """One row per model and benchmark."""
    rows = []
    for one in models:
        row = dataclasses.asdict(one)
        interval = row.pop("interval")
        rates = [{"k": rate["k"], "value": rate["value"], **rate["interval"]} for rate in row["pass_at"]]
        rows.append(row | {"interval_low": interval["low"], "interval_high": interval["high"], "pass_at": rates})
    return pa.Table.from_pylist(rows, schema=pa.schema(list(SCORE_FIELDS.items())))
