"""Stage 7, evaluate: trained and untouched students answer the benchmarks through Ray Serve, and the verifier that
graded the traces grades their answers.

    students, untouched students -> endpoints, in waves -> answers -> verifier -> evaluate/MODEL/BENCHMARK.parquet

A score is kept per model and benchmark under a content key, so a finished one is never computed again.
"""

from distill.core.manifest import Manifest
from distill.core.run_dir import StageName
from distill.evaluate.arms import arm_models
from distill.evaluate.judge_refusals import judge_refusals
from distill.evaluate.models import evaluated_models
from distill.evaluate.score_models import score_models
from distill.mix.reasoning_marks import check_marks
from distill.run.context import RunContext


def evaluate_stage(run: RunContext) -> Manifest:
    """Score every model on every benchmark that has no score yet."""
    recipe, run_dir = run.recipe, run.run_dir
    check_marks(recipe, run_dir.arm_entries(), run.models)
    plain = evaluated_models(recipe, run.models, run_dir)
    evaluated = [*plain, *arm_models(recipe, plain)]
    items, times = score_models(recipe, run_dir, lambda: run.session, run.console, evaluated=evaluated, plain=plain)
    judge = recipe.evaluate.judge
    judged = judge_refusals(run_dir, items, judge, recipe.evaluate.reasoning_end) if judge else {}
    scores = [run_dir.read_manifest(*item.folder) for item in items]
    counted = [manifest for manifest in scores if manifest is not None]
    errors = sum(manifest.drops.get("error", 0) for manifest in counted)
    rows_in = sum(manifest.rows_in for manifest in counted)
    return Manifest(
        stage=StageName.EVALUATE,
        key="",
        rows_in=rows_in,
        rows_out=rows_in - errors,
        drops={"error": errors} if errors else {},
        details={"scores": len(counted), "this_session": times} | ({"judge": judged} if judged else {}),
    )
