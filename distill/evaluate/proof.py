"""That what is scored or served is what was saved and measured, before an engine starts."""

from collections.abc import Iterator, Sequence

from rich.console import Console

from distill.config.recipe import Recipe
from distill.core.run_dir import RunDir
from distill.core.saved_files import ADAPTER, MODEL
from distill.evaluate.models import EvaluatedModel
from distill.train.cells import all_cells
from distill.train.saved_weights import WeightsFolder, base_folder, cell_folder, require_unchanged, source_fault


def check_weights(recipe: Recipe, run_dir: RunDir, models: Sequence[EvaluatedModel], console: Console) -> None:
    """Compare the files of all models with those that were saved; says of which no hashes were kept.

    Raises:
        InputError: a file is cut, gone, added or changed; with the remedy.
    """
    folders = list({folder.address: folder for folder in weights_folders(recipe, run_dir, models)}.values())
    bases = dict.fromkeys(name for model in models if (name := base_of(recipe, model)))
    faults = [f"models.{name}: {fault}" for name in bases if (fault := source_fault(run_dir, name))]
    require_unchanged(folders, faults)
    if unknown := [folder.whose for folder in folders if folder.saved is None]:
        names = ", ".join(unknown)
        console.print(f"  [dim]no hashes were kept of {names}: only lengths were compared[/]", highlight=False)


def weights_folders(recipe: Recipe, run_dir: RunDir, models: Sequence[EvaluatedModel]) -> Iterator[WeightsFolder]:
    """The folders that the engines of some models load."""
    cells = {cell.name for cell in all_cells(recipe)}
    for model in models:
        if model.served_name in cells:
            yield cell_folder(run_dir, model.served_name, ADAPTER if model.adapter else MODEL)
        if (base := base_of(recipe, model)) and (folder := base_folder(run_dir, base)):
            yield folder


def base_of(recipe: Recipe, model: EvaluatedModel) -> str:
    """The recipe's model whose untouched weights an engine loads for another model; empty where it loads none."""
    student = model.served_name.partition("@")[0]
    is_whole = "@" in model.served_name and not model.adapter
    return "" if is_whole else next((one.model for one in recipe.students if one.name == student), "")
