"""The model card of a trained or merged student: what it is, what it was taught, by which run. Beside it `mix.json`."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from distill.config.recipe import Recipe
from distill.core.run_dir import Manifest, RunDir
from distill.mix.export.dataset_card import counts_table
from distill.mix.export.licences import is_hub_id
from distill.models.resolve import ResolvedModel
from distill.train.cells import Cell
from distill.train.merge_students import merged_from

CARD, MIX = "README.md", "mix.json"


def write_cards(run_dir: RunDir, recipe: Recipe, cells: Sequence[Cell], models: Mapping[str, ResolvedModel]) -> None:
    """A card into the folder of every finished student, and the mix manifest's entry of its arm."""
    mix = run_dir.read_manifest("mix")
    entries = mix.details.get("mixes", {}) if mix else {}
    for cell in cells:
        made = run_dir.read_manifest("train", cell.name)
        if made is None:
            continue
        taught = {arm: entries[arm] for arm in (cell.merge.of if cell.merge else (cell.mix,)) if arm in entries}
        card = student_card(recipe, cell, models[cell.student.model], made, taught)
        for folder in ("model", "adapter"):
            if run_dir.fs.exists(run_dir.path("train", cell.name, folder)):
                run_dir.write_bytes(card.encode(), "train", cell.name, folder, CARD)
                run_dir.write_bytes(json.dumps(taught, indent=1).encode(), "train", cell.name, folder, MIX)


def student_card(
    recipe: Recipe, cell: Cell, model: ResolvedModel, made: Manifest, taught: dict[str, dict[str, Any]]
) -> str:
    """Markdown with the front matter that the Hugging Face hub reads; strings as JSON, which YAML reads."""
    front = [
        *([f"base_model: {json.dumps(model.source)}"] if is_hub_id(model.source) else []),
        "library_name: transformers",
        "pipeline_tag: text-generation",
        "tags: [reasoning, distillation]",
    ]
    parts = [
        "---\n" + "\n".join(front) + "\n---",
        f"# {cell.name}",
        recipe.description,
        f"A student of mix distillation ([arXiv 2502.12143](https://arxiv.org/abs/2502.12143)), from `{model.source}`"
        f" ({model.identity}), by the recipe `{recipe.name}`.",
        "## How it was made\n\n" + how_made(made.details),
        *(f"## What it was taught: {arm}\n\n{_taught(entry)}" for arm, entry in taught.items()),
        "## How to ask it\n\n" + how_to_ask(recipe),
        "Its scores, beside the other arms' and with their uncertainty, are in the run's report.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def how_made(details: Mapping[str, Any]) -> str:
    """Steps and tokens of the training, or the parents of a merge."""
    if "merged_from" in details:
        return f"Merged, without training: {merged_from(details)}."
    return (
        f"{details['steps']} optimiser steps, {details['supervised_tokens']} tokens learnt, seed {details['seed']};"
        f" loss {details['first_loss']:.3f} at first, {details['last_loss']:.3f} at last."
    )


def _taught(entry: dict[str, Any]) -> str:
    if "realised_rows" not in entry:
        return f"{entry.get('rows')} rows."
    return f"{counts_table(entry)}\n\nDigest of the rows and their order: `{entry['digest']}`."


def how_to_ask(recipe: Recipe) -> str:
    """The format of its questions in training and in evaluation."""
    chat = recipe.student_chat
    system = f"With the system line `{chat.system}`, t" if chat.system else "T"
    return f"{system}he problem as `{json.dumps(chat.template)}`."
