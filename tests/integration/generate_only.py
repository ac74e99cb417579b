"""The first two stages of a recipe in a process of their own, to be killed: `python -m ... RECIPE RUN_DIR`."""

import sys
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console

from distill.config.load import load_recipe
from distill.core.run_dir import RunDir
from distill.generate.stage import generate_stage
from distill.prompts.stage import prompts_stage
from distill.run.context import Run


def main(recipe: Path, run: str) -> None:
    """Prompts once, then generate."""
    with ExitStack() as resources:
        run_dir = RunDir(run)
        current = Run(load_recipe(recipe), recipe.parent, run_dir, Console(quiet=True), resources)
        if run_dir.read_manifest("prompts") is None:
            run_dir.write_manifest(prompts_stage(current), "prompts")
        run_dir.write_manifest(generate_stage(current), "generate")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
