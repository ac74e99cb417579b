"""The train stage of a recipe whose mixes are drawn, in a process of its own, to be disturbed: `... RECIPE RUN_DIR`."""

import sys
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from distill.config.recipe import Recipe
from distill.core.run_dir import RunDir
from distill.run.context import Run
from distill.train.stage import train_stage


def main(recipe: Path, run: str) -> None:
    """Every cell to its end. The recipe is JSON, as `Recipe.model_dump_json` gives it."""
    with ExitStack() as resources:
        run_dir, known = RunDir(run), Recipe.model_validate_json(recipe.read_text())
        current = Run(known, recipe.parent, run_dir, Console(quiet=True), resources)
        run_dir.write_manifest(train_stage(current), "train")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
