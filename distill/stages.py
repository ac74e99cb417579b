"""What each stage does to a run directory: read what stages before it wrote, transform, write, account for rows."""

from collections.abc import Callable

from distill.core.run_dir import Manifest
from distill.evaluate.stage import evaluate_stage
from distill.generate.stage import generate_stage
from distill.prompts.stage import prompts_stage
from distill.report.stage import report_stage
from distill.run.context import Run
from distill.search.stage import search_and_mix
from distill.train.early import early_training
from distill.train.stage import train_stage
from distill.verify.stage import verify_stage


def generate_and_begin(current: Run) -> Manifest:
    """Ask the teachers; where the recipe wants it, train on their first prompts meanwhile."""
    with early_training(current) as early:
        return generate_stage(current, early.show) if early else generate_stage(current)


STEPS: dict[str, Callable[[Run], Manifest]] = {
    "prompts": prompts_stage,
    "generate": generate_and_begin,
    "verify": verify_stage,
    "mix": search_and_mix,
    "train": train_stage,
    "evaluate": evaluate_stage,
    "report": report_stage,
}
