"""The README of an exported data set: what it is, how it was made, counts, and the terms of its sources."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from distill.config.recipe import Recipe
from distill.config.teachers import DatasetTeacher, RuleTeacher, TeacherConfig
from distill.core.manifest import Manifest
from distill.mix.export.formats import OPTIONS_FIELD, TABLE_FORMATS
from distill.mix.export.licence_ids import front_matter_fields
from distill.mix.export.licences import Source, teacher_name
from distill.mix.export.terms import carried_licence, obligations


def card(recipe: Recipe, mix: str, manifest: Manifest, found: Sequence[Source], num_rows: int) -> str:
    """Markdown, with the YAML front matter that the Hugging Face hub reads."""
    entry = manifest.details["mixes"][mix]
    parts = [
        front_matter(recipe, mix, found, num_rows),
        f"# {recipe.name}: {mix}\n\n{recipe.description}".rstrip(),
        "Reasoning traces of teachers, graded against reference answers and mixed for small students"
        " ([arXiv 2502.12143](https://arxiv.org/abs/2502.12143)).",
        "## Counts\n\n" + counts_table(entry),
        f"Of {manifest.rows_in} prompts {manifest.rows_out} were solved by every pool; every arm of the run teaches"
        f" these. Tokens are those that the student `{manifest.details['tokens_of']}` learns from a completion.",
        "## How it was made\n\n" + "\n".join(teacher_line(recipe, teacher) for teacher in recipe.teachers),
        f"* Policy `{entry['policy']}`, seed {recipe.seed}; {verifier_line(manifest)}\n"
        f"* Digest of the chosen traces: `{entry['digest']}`; written by version {manifest.code_version} on"
        f" {manifest.finished_at}",
        "The part of the recipe that chose the rows:\n\n```json\n" + recipe_part(recipe, mix) + "\n```",
        "## Sources and licences\n\n" + licence_table(found),
        licence_notes(found),
        "The terms of every source above apply to the use and redistribution of this data.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def front_matter(recipe: Recipe, mix: str, found: Sequence[Source], num_rows: int) -> str:
    """The YAML front matter. Strings are written as JSON, which is valid YAML, so that no name can break out of it."""
    lines = [
        *(f"{name}: {json.dumps(value)}" for name, value in front_matter_fields(carried_licence(found)).items()),
        f"pretty_name: {json.dumps(f'{recipe.name} {mix}')}",
        f"size_categories: [{size_category(num_rows)}]",
        "task_categories: [text-generation]",
        "tags: [reasoning, distillation, synthetic]",
        "configs:\n- config_name: default\n  data_files:\n  - split: train\n    path: data/train-*",
    ]
    return "---\n" + "\n".join(lines) + "\n---"


def size_category(num_rows: int) -> str:
    """The hub's name for a number of rows."""
    bounds = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
    return next((name for bound, name in bounds if num_rows < bound), "1M<n<10M")


def counts_table(entry: dict[str, Any]) -> str:
    """Rows and tokens per pool, requested and realised."""
    requested = {pool: "–" if share is None else f"{share:.1%}" for pool, share in entry["requested"].items()}
    tokens = entry["realised_tokens"]
    lines = [
        f"| {pool} | {requested.get(pool, '–')} | {entry['counts'][pool]} | {share:.1%} | {tokens[pool]:.1%} |"
        for pool, share in entry["realised_rows"].items()
    ]
    names = f"pool | requested (by {entry['requested_by']}) | rows | share of rows | share of tokens"
    head = f"| {names} |\n|---|---|---|---|---|\n"
    total = f"\n\n{entry['rows']} rows, {entry['tokens']} tokens, {entry['mean_tokens']:.1f} tokens per row."
    return head + "\n".join(lines) + total


def teacher_line(recipe: Recipe, teacher: TeacherConfig) -> str:
    """What a teacher is, its style and, unless its traces were imported, its sampling."""
    pool = f"* Pool `{teacher.name}` ({teacher.style.value} reasoning): `{teacher_name(recipe, teacher)}`"
    if isinstance(teacher, DatasetTeacher):
        return f"{pool}, an existing data set"
    if isinstance(teacher, RuleTeacher):
        return pool
    per = f"trace of the pool `{teacher.reads}` that it reads" if teacher.reads else "prompt"
    sampling = teacher.sampling
    drawn = "greedy" if sampling.temperature == 0 else f"temperature {sampling.temperature:g}, top_p {sampling.top_p:g}"
    return f"{pool}, up to {teacher.num_samples} per {per}, {drawn}, at most {sampling.max_tokens} tokens"


def verifier_line(manifest: Manifest) -> str:
    """How many traces the verifier accepted, and which of them the filters left out."""
    lost: dict[str, int] = {}
    for counts in manifest.details["traces"].values():
        for reason, count in counts.items():
            lost[reason] = lost.get(reason, 0) + count
    usable = lost.pop("usable", 0)
    reasons = ", ".join(f"{count} {reason}" for reason, count in lost.items())
    return f"the verifier accepted {usable + sum(lost.values())} traces; left out by the filters: {reasons or 'none'}"


def recipe_part(recipe: Recipe, mix: str) -> str:
    """The recipe's mix and filters as JSON."""
    chosen = next(one for one in recipe.mixes if one.name == mix)
    part = {"mix": chosen.model_dump(mode="json"), "filters": recipe.filters.model_dump(mode="json")}
    return json.dumps(part, indent=1)


def licence_table(found: Sequence[Source]) -> str:
    """A table of all sources with their licences and terms."""
    lines = [f"| {one.role} | {one.name} | {one.licence} | {one.terms} |" for one in dict.fromkeys(found)]
    return "| role | source | licence | terms |\n|---|---|---|---|\n" + "\n".join(lines)


def licence_notes(found: Sequence[Source]) -> str:
    """What the licences ask for, as a list; empty where they ask for nothing."""
    lines = [f"* {line}" for line in obligations(found)]
    intro = "What these licences ask for, by their names alone; their texts decide, and this is no legal advice:"
    return "\n".join([intro, "", *lines]) if lines else ""


# Use


OWN_PRESETS = {
    "dataset": "own-dataset",
    "open_r1": "own-open-r1",
    "messages": "own-messages",
    "prompt_completion": "own-prompt-completion",
    "sharegpt": "own-sharegpt",
}
"""Format -> the preset that reads it back."""


def usage(recipe: Recipe, mix: str, kind: str, left_out: Mapping[str, int], *, sets_options: bool = False) -> str:
    """How a format is used: what LLaMA-Factory needs to know, what other trainers would learn, how it is read back.

    Args:
        recipe: whose arm it is.
        mix: name of the arm.
        kind: the format.
        left_out: rows that the student cannot be taught, by reason.
        sets_options: rows set variables of the chat template, and the format has a column with them.
    """
    notes = [
        *llama_factory_note(f"{recipe.name}-{mix}", kind),
        *training_notes(recipe, kind, sets_options=sets_options),
    ]
    if left_out:
        reasons = ", ".join(f"{count} {reason}" for reason, count in left_out.items())
        notes.append(f"Rows that the student cannot be taught are left out: {reasons}.")
    if kind in OWN_PRESETS:
        notes.append(f'A recipe reads it with `preset = "{OWN_PRESETS[kind]}"` and `path`.')
    return "\n## Use\n\n" + "\n\n".join(notes) + "\n"


def llama_factory_note(name: str, kind: str) -> list[str]:
    """The entry of `dataset_info.json` that LLaMA-Factory needs."""
    columns = {"sharegpt": {"messages": "conversations", "system": "system"}, "messages": {"messages": "messages"}}
    if kind not in columns:
        return []
    entry: dict[str, Any] = {"file_name": "train.jsonl", "formatting": "sharegpt", "columns": columns[kind]}
    if kind == "messages":
        roles = {f"{role}_tag": role for role in ("user", "assistant", "system")}
        entry["tags"] = {"role_tag": "role", "content_tag": "content", **roles}
    return ["For LLaMA-Factory, in `dataset_info.json`:\n\n```json\n" + json.dumps({name: entry}, indent=1) + "\n```"]


def training_notes(recipe: Recipe, kind: str, *, sets_options: bool) -> Iterator[str]:
    """What a trainer does with the turns that differs from how our students are taught."""
    if kind in ("messages", "prompt_completion", "sharegpt"):
        yield (
            "A trainer applies its model's chat template to these turns. Templates that strip think blocks lose the"
            " reasoning of every row: for such a model export the format `text`, which is rendered already."
        )
    if sets_options:
        field = "template_options" if kind in TABLE_FORMATS else OPTIONS_FIELD
        yield (
            f"`{field}` holds the variables of the chat template that a row is asked with (`enable_thinking`). TRL"
            f" reads them from a column `{OPTIONS_FIELD}` by itself; in another trainer set them for each row: rows of"
            " two modes may differ in nothing else. In a recipe,"
            f' `where = {{ "{field}.enable_thinking" = false }}` takes the rows of one mode.'
        )
    if kind in ("messages", "sharegpt") and recipe.student_chat.examples:
        yield (
            f"The last turn is what is to be learnt. The {len(recipe.student_chat.examples)} worked examples before it"
            " are turns of the assistant too: switch their loss off (LLaMA-Factory: `mask_history`)."
        )
    if kind == "text":
        yield "`prompt` and `completion` are whole: a trainer must add no special tokens and no template."
