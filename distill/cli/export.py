"""`distill export`: an arm's examples as a folder, or as a data set of the model hub."""

from pathlib import Path

from distill.config.recipe import Recipe
from distill.core.run_dir import RunDir, StageName
from distill.mix.auto_weights import with_found_weights
from distill.mix.export.licences import sources
from distill.mix.export.terms import refuse_forbidden
from distill.mix.export.write import export, export_key, model_folders, require_arm
from distill.ops.publish.push import push, repository, staging
from distill.run.run_recipe import load_run_recipe


def export_arm(run_dir: RunDir, mix: str, kind: str, *, student: str, to: str, repo: str) -> int:
    """Write the folder, or push it; returns the exit code.

    Args:
        run_dir: of the run.
        mix: the arm.
        kind: the format.
        student: whose chat template renders the format `text`; empty: the first student's.
        to: the folder; empty: exports/RUN-MIX-FORMAT.
        repo: hf://OWNER/NAME to push it to; empty: none.

    Raises:
        InputError: as of `export` and `push`, or a licence forbids to pass the data on.
    """
    recipe = with_found_weights(load_run_recipe(run_dir), run_dir.read_manifest(StageName.SEARCH))
    if repo:
        print(push_arm(run_dir, recipe, mix, kind, student=student, repo=repository(repo, "--push")))
        return 0
    target = Path(to or f"exports/{recipe.name}-{mix}-{kind}")
    num_rows = export(run_dir, recipe, mix, kind=kind, target=target, student=student)
    print(f"{num_rows} rows in {target}")
    return 0


def push_arm(run_dir: RunDir, recipe: Recipe, mix: str, kind: str, *, student: str, repo: str) -> str:
    """Push an arm; returns the address of the data set."""
    from huggingface_hub import HfApi  # start time: only a push needs it

    manifest = require_arm(run_dir, mix)  # told before a repository is made
    found = list(sources(recipe, model_folders(run_dir)))
    refuse_forbidden(found)
    folder = staging(repo, export_key(recipe, manifest, mix, kind, student, found), "dataset")

    def write(target: Path) -> None:
        export(run_dir, recipe, mix, kind=kind, target=target, student=student)

    return push(repo, folder, write, HfApi(), "dataset")
