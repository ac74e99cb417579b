"""From a run directory to a `Report`."""

import numpy as np

from distill.config.question import candidates
from distill.config.recipe import Recipe
from distill.core.run_dir import RunDir, StageName
from distill.core.schema import seed_for
from distill.evaluate.read_scores import expected_models, read_scores
from distill.mix.auto_weights import with_found_weights
from distill.report.answering import answering_curves, answering_families
from distill.report.arms import arm_scores, build_arms, macro_scores
from distill.report.base_vs_instruct import gap_changes
from distill.report.budget_curves import budget_curves
from distill.report.comparisons import compare, detectable
from distill.report.data import Report
from distill.report.edits import edit_rows
from distill.report.groups import group_scores
from distill.report.languages import language_scores, level_scores
from distill.report.mode_choices import mode_choices
from distill.report.model_scores import model_score
from distill.report.paper_metrics import benchmark_rows, costs, sweeps
from distill.report.paper_numbers import paper_rows
from distill.report.pools import fit_rows, mix_rows, pool_rows, read_traces, teacher_sizes
from distill.report.provenance import provenance
from distill.report.quantised import quantised_scores
from distill.report.question import answer_question
from distill.report.regressions import regression_words, regressions, without_regressions
from distill.report.run_history import cell_rows, funnel, num_common, read_manifests, stage_rows
from distill.report.samples import answer_samples, trace_samples
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
    whole = with_found_weights(recipe, manifests.get(StageName.SEARCH))
    recipe = without_regressions(whole)
    traces, all_scores = read_traces(run_dir), read_scores(whole, run_dir)
    models = [model_score(one) for one in all_scores]
    scores = [one for one in all_scores if one.benchmark in recipe.evaluate.benchmarks]
    broken = regressions(whole, all_scores, np.random.default_rng(seed_for("regression", recipe.seed)))
    arms = build_arms(recipe, scores)
    comparisons = compare(recipe, arms, teacher_sizes(recipe, run_dir), rng)
    changes = gap_changes(recipe, arms, comparisons, rng)
    unequal = steps_changes(recipe, arms, comparisons, rng)
    lines, macros = arm_scores(arms, comparisons), macro_scores(arms, len(recipe.evaluate.benchmarks))
    cells, mixes = cell_rows(recipe, run_dir, manifests), mix_rows(recipe, run_dir, traces)
    source = provenance(whole, run_dir, manifests)
    limits = detectable([*comparisons, *(one.change for one in broken if one.change.purpose == "regression")])
    problems = {name: read_benchmark(run_dir, name) for name in whole.evaluate.benchmarks}
    sizes = {model.name: model.num_parameters for model in source.models}
    return Report(
        name=recipe.name,
        description=recipe.description,
        question=answer_question(recipe, asked, comparisons),
        headline=headline(recipe, lines, macros, comparisons),
        findings=(*findings(comparisons, changes), *regression_words(broken)),
        caveats=tuple(caveats(whole, models, limits, cells)),
        benchmarks=tuple(recipe.evaluate.benchmarks),
        students=tuple(student.name for student in recipe.students),
        student_sizes={student.name: sizes.get(student.model) for student in recipe.students},
        mixes=tuple(dict.fromkeys(model.mix for model in expected_models(recipe) if model.mix)),
        models=tuple(models),
        arms=tuple(lines),
        macros=tuple(macros),
        comparisons=tuple(comparisons),
        regressions=tuple(broken),
        gap_changes=tuple(changes),
        steps_changes=tuple(unequal),
        detectable=tuple(limits),
        benchmark_rows=tuple(
            benchmark_rows(whole, {name: len(rows) for name, rows in problems.items()}, source.commits)
        ),
        sweeps=tuple(sweeps(recipe, lines, macros)),
        budget_curves=tuple(budget_curves(recipe, lines, macros, mixes, cells)),
        answering=tuple(answering_curves(recipe, arms, comparisons)),
        quantised=tuple(quantised_scores(recipe, run_dir)),
        families=answering_families(recipe),
        groups=tuple(group_scores(arms, problems)),
        languages=tuple(language_scores(run_dir, arms, problems)),
        levels=tuple(level_scores(arms, problems)),
        mode_choices=tuple(mode_choices(whole, run_dir, problems)),
        costs=tuple(costs(recipe, comparisons, cells, traces, num_common(manifests))) if lines else (),
        trace_costs=tuple(trace_costs(recipe, traces, read_levels(run_dir), manifests.get(StageName.GENERATE))),
        paper=tuple(paper_rows(recipe, lines, macros, comparisons)),
        pools=tuple(pool_rows(recipe, traces)),
        edits=tuple(edit_rows(recipe, manifests)),
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
