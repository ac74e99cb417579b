"""The recipe of an existing run. Few imports: `distill status` and `distill report` read it."""

from pydantic import ValidationError

from distill.config.recipe import Recipe
from distill.core.errors import InputError
from distill.core.run_dir import RECIPE, RunDir


def load_run_recipe(run_dir: RunDir) -> Recipe:
    """The resolved recipe of an existing run.

    Raises:
        InputError: another version wrote it.
    """
    path = run_dir.path(*RECIPE)
    try:
        return Recipe.model_validate_json(run_dir.fs.cat_file(path))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(
            f"{path} was written by another version ({where}: {first['msg']}) -> start the run again with distill run"
        ) from error
