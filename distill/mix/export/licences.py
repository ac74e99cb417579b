"""Under which licence each source of a run is, as far as the run can know it without asking anyone."""

import re
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import NamedTuple

from distill.config.recipe import Recipe
from distill.config.sources import FileSource, GymSource, PromptSource
from distill.config.teachers import DatasetTeacher, EndpointTeacher, TeacherConfig, VllmTeacher
from distill.prompts.load import source_name

UNKNOWN = "not recorded here"
KNOWN_DATASETS = {"openai/gsm8k": "mit"}
"""Licences of data sets as their own cards state them."""


class Source(NamedTuple):
    """One thing that a data set was made from."""

    role: str
    name: str
    licence: str
    """An SPDX-like identifier, or UNKNOWN."""
    where: str
    """Where its terms can be read."""


def sources(recipe: Recipe, model_folders: dict[str, str]) -> Iterator[Source]:
    """The prompts' sources and the teachers' models. `model_folders`: model -> local folder, where it is there."""
    for prompt_source in recipe.prompts.sources:
        yield prompts_source(prompt_source)
    for teacher in recipe.teachers:
        yield teacher_source(recipe, teacher, model_folders)


def teacher_source(recipe: Recipe, teacher: TeacherConfig, model_folders: Mapping[str, str]) -> Source:
    """What wrote a pool's traces, and its licence."""
    role, name = f"teacher {teacher.name}", teacher_name(recipe, teacher)
    if isinstance(teacher, DatasetTeacher):
        return prompts_source(teacher.source)._replace(role=role)
    if isinstance(teacher, EndpointTeacher):
        return Source(role, name, UNKNOWN, "the terms of the endpoint")
    references = recipe.models[teacher.model].sources
    return Source(role, name, model_licence(model_folders.get(teacher.model, ""), references), _hub_page(references[0]))


def teacher_name(recipe: Recipe, teacher: TeacherConfig) -> str:
    """The model or the data set behind a pool, as the recipe names it; no machine path, no address."""
    match teacher:
        case VllmTeacher():
            reference = recipe.models[teacher.model].sources[0]
            return Path(reference).name if reference.startswith(("/", ".", "~")) else reference
        case EndpointTeacher():
            return teacher.remote_model
        case DatasetTeacher():
            return source_name(teacher.source)


def prompts_source(source: PromptSource) -> Source:
    """Where prompts come from and their licence."""
    if isinstance(source, GymSource):
        return Source("prompts", f"reasoning-gym task {source.task}", package_licence("reasoning-gym"), "reasoning-gym")
    if isinstance(source, FileSource):
        return Source("prompts", Path(source.path).name, UNKNOWN, "the owner of the file")
    page = f"https://huggingface.co/datasets/{source.dataset}"
    return Source("prompts", f"{source.dataset} ({source.split})", KNOWN_DATASETS.get(source.dataset, UNKNOWN), page)


def model_licence(folder: str, references: tuple[str, ...]) -> str:
    """What the model card in its folder says, else what the package that carries it says."""
    card = Path(folder) / "README.md"
    if folder and card.is_file():
        found = front_matter_licence(card.read_text(encoding="utf-8", errors="replace"))
        if found:
            return found
    packages = [reference.removeprefix("package://") for reference in references if reference.startswith("package://")]
    return package_licence(packages[0]) if packages else UNKNOWN


def front_matter_licence(card: str) -> str:
    """`license:` of a card's front matter, with its name where it is `other`; empty where there is none."""
    head = re.match(r"---\n(.*?)\n---", card, re.DOTALL)
    fields: dict[str, str] = (
        dict(re.findall(r"^(license|license_name):\s*(\S+)\s*$", head.group(1), re.MULTILINE)) if head else {}
    )
    licence = fields.get("license", "")
    return fields.get("license_name", licence) if licence == "other" else licence


def package_licence(name: str) -> str:
    """What an installed package says of itself."""
    try:
        found = metadata(name)
    except PackageNotFoundError:
        return UNKNOWN
    stated = [str(found[field]) for field in ("License-Expression", "License") if field in found]
    short = stated[0].strip().split("\n")[0] if stated else ""
    return short if 0 < len(short) <= 60 else UNKNOWN


def is_hub_id(reference: str) -> bool:
    """Whether it has the form OWNER/NAME."""
    return re.fullmatch(r"\w[\w.-]*/[\w.-]+", reference) is not None


def _hub_page(reference: str) -> str:
    return f"https://huggingface.co/{reference}" if is_hub_id(reference) else "the owner of the model"
