"""What the chat templates of a recipe's models do, as `distill plan` shows it."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from distill.config.recipe import Recipe
from distill.models.remembered import remembered
from distill.ops.doctor import probes
from distill.ops.doctor.conversations import Asked, asked_ways, template_findings
from distill.ops.doctor.findings import COLOURS, Finding


def show_templates(recipe: Recipe, console: Console) -> None:
    """What the chat templates of the models that are on this machine do."""
    asked, folders = asked_ways(recipe), probes.folders_here(recipe.models)
    inputs = {"asked": [_as_json(one) for one in asked], "files": {name: _stamps(one) for name, one in folders.items()}}
    found = remembered(
        "templates",
        inputs,
        lambda: [asdict(one) for one in template_findings(asked, probes.tokenizers(recipe.models))],
    )
    print_lines([Finding(**one) for one in found], console)


def _as_json(one: Asked) -> list[object]:
    return [one.who, one.model, one.chat.model_dump(mode="json"), sorted(one.styles), one.is_student, one.modes_of]


def _stamps(folder: Path) -> list[str]:
    """Name, size and time of every file: an edited template is looked at anew."""
    states = ((file, file.stat()) for file in sorted(folder.iterdir()))
    return [f"{file} {state.st_size} {state.st_mtime_ns}" for file, state in states]


def print_lines(findings: Iterable[Finding], console: Console) -> None:
    """A line per finding, without the name of the check."""
    for one in findings:
        colour, remedy = COLOURS[one.status], f" -> {one.remedy}" if one.remedy else ""
        console.print(f"  [{'dim' if one.status == 'ok' else colour}]{escape(one.what + remedy)}[/]")
