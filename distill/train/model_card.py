"""The model card of a student: what it is, what it was trained on, by which run; with `mix.json` beside it."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from distill.config.objectives import Match, Prefer, Reinforce
from distill.config.recipe import Recipe
from distill.core.manifest import Manifest
from distill.core.run_dir import RunDir, Training
from distill.core.saved_files import ADAPTER, CARD, MIX, MODEL, SavedFiles, saved_of
from distill.mix.export.dataset_card import counts_table
from distill.mix.export.licences import is_hub_id
from distill.models.chat_template import example_turns
from distill.models.resolve import ResolvedModel
from distill.train.cells import Cell
from distill.train.merge_students import describe_merge


def write_cards(run_dir: RunDir, recipe: Recipe, cells: Sequence[Cell], models: Mapping[str, ResolvedModel]) -> None:
    """Write a card, and the mix manifest's entries of its arms, into the folder of every finished student."""
    entries = run_dir.arm_entries()
    for cell in cells:
        manifest = run_dir.read_manifest(*Training(cell.name).folder)
        if manifest is None:
            continue
        arms = {one.mix: entries[one.mix] for one in cell.lineage if one.mix in entries}
        card = student_card(recipe, cell, models[cell.student.model], manifest, arms)
        for kind, folder in ((MODEL, Training(cell.name).model), (ADAPTER, Training(cell.name).adapter)):
            if run_dir.exists(*folder):
                text = card + describe_files(saved_of(manifest, kind))
                run_dir.write_bytes(text.encode(), *folder, CARD)
                run_dir.write_bytes(json.dumps(arms, indent=1).encode(), *folder, MIX)


def student_card(
    recipe: Recipe, cell: Cell, model: ResolvedModel, manifest: Manifest, arms: dict[str, dict[str, Any]]
) -> str:
    """Markdown with the front matter that the Hugging Face hub reads; strings as JSON, which is valid YAML."""
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
        "## How it was made\n\n"
        + describe_training(manifest.details)
        + describe_preferences(cell, manifest.details)
        + describe_matching(cell, manifest.details)
        + describe_rewards(cell, manifest.details),
        *describe_lineage(cell),
        *(f"## What it was trained on: {arm}\n\n{describe_arm(entry)}" for arm, entry in arms.items()),
        "## How to prompt it\n\n" + describe_prompt(recipe),
        "Its scores, with their uncertainty and beside those of the other arms, are in the run's report.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def describe_training(details: Mapping[str, Any]) -> str:
    """Steps and tokens of the training, or the parents of a merge."""
    if "merged_from" in details:
        return f"Merged, without training: {describe_merge(details)}."
    return (
        f"{details['steps']} optimiser steps, {details['supervised_tokens']} supervised tokens, seed {details['seed']};"
        f" loss {details['first_loss']:.3f} at the first step, {details['last_loss']:.3f} at the last."
    )


def describe_preferences(cell: Cell, details: Mapping[str, Any]) -> str:
    """How a student learnt from pairs; empty where it imitates."""
    if not isinstance(cell.objective, Prefer) or "pairs" not in details:
        return ""
    how, found = cell.objective, details["pairs"]
    return (
        f" It learnt to prefer one trace of a pair (DPO, beta {how.beta:g}, eps {how.eps:g}, alpha {how.alpha:g}): in"
        f" the last steps the mean margin was {found['margin']:.2f} nats, and {found['positive']:.0%} were positive."
    )


def describe_matching(cell: Cell, details: Mapping[str, Any]) -> str:
    """How a student was matched with its teacher; empty where it was not."""
    if not isinstance(cell.objective, Match) or "match" not in details or "rollouts" not in details:
        return ""
    before, after = details["rollouts"], details["match"]
    return (
        f" It learnt from {before['answers']} answers of its own, by its teacher's log-probabilities (offline on-policy"
        f" distillation): the sampled reverse KL was {before['start_kl']:.3f} nats a token before the training and"
        f" {after['kl']:.3f} in the last steps."
    )


def describe_rewards(cell: Cell, details: Mapping[str, Any]) -> str:
    """How a student was rewarded for its own answers; empty where it was not."""
    if not isinstance(cell.objective, Reinforce) or "rewards" not in details:
        return ""
    how, found = cell.objective, details["rewards"]
    return (
        f" It was rewarded for right answers of its own, {how.samples} to a prompt, by the verifier: in the last steps"
        f" {found['right']:.0%} of them were right, and the mean reward was {found['reward']:.2f}."
    )


def describe_lineage(cell: Cell) -> Iterator[str]:
    """The cells that its training started from, the last one first; nothing where that is the untouched student."""
    if cell.parents and cell.merge is None:
        steps = [one.name if one.merge is None else f"{one.name} (merged)" for one in reversed(cell.lineage[:-1])]
        yield f"It was not trained from the untouched student but after {', after '.join(steps)}."


def describe_arm(entry: Mapping[str, Any]) -> str:
    """Rows and tokens of an arm by pool."""
    if "realised_rows" not in entry:
        return f"{entry.get('rows')} rows."
    return f"{counts_table(dict(entry))}\n\nDigest of the rows and their order: `{entry['digest']}`."


def describe_prompt(recipe: Recipe) -> str:
    """The format of its prompts in training and in evaluation."""
    chat = recipe.student_chat
    told = "empty" if chat.system == "" else f"`{chat.system}`"
    place = " and stands above the first user turn" if chat.system_as == "user" else ""
    system = "T" if chat.system is None else f"The system prompt is {told}{place}; t"
    words = f"{system}he problem goes into the template `{json.dumps(chat.template)}`."
    if chat.template_options:
        words += f" The chat template gets the variables `{json.dumps(chat.template_options)}`."
    if not chat.examples:
        return words
    turns = "\n".join(json.dumps(turn, ensure_ascii=False) for turn in example_turns(chat))
    return f"{words} Before it stand worked examples, as earlier turns:\n\n{fenced(turns)}"


def fenced(text: str, language: str = "") -> str:
    """A block of code, whatever backticks are in it."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text}\n{fence}"


def describe_files(saved: SavedFiles | None) -> str:
    """The files that were saved, as `sha256sum -c` reads them; empty where their hashes were not kept."""
    if not saved:
        return ""
    lines = "\n".join(f"{file['sha256']}  {name}" for name, file in sorted(saved.items()))
    return f"\n## Its files\n\nWhat was scored has these SHA-256 hashes:\n\n```\n{lines}\n```\n"
