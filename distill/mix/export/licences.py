"""The licence of each source of a run, as far as it is known without a network request."""

import re
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path
from typing import NamedTuple

import yaml

from cluster.storage import IN_PACKAGE
from distill.config.models import ModelConfig
from distill.config.pass_order import trained_student
from distill.config.passes import base_model
from distill.config.presets import known_licences
from distill.config.recipe import Recipe
from distill.config.sources import FileSource, GymSource, PromptSource
from distill.config.teachers import DatasetTeacher, EndpointTeacher, RuleTeacher, TeacherConfig, VllmTeacher
from distill.mix.export.licence_ids import OTHER, UNCLEAR_IDS, licence_ids
from distill.models.folder import CARD_FILE, read_text
from distill.prompts.load import source_name

UNKNOWN = "not recorded here"
KNOWN_DATASETS = dict(known_licences())
"""Licences of data sets as their own cards state them."""


class Source(NamedTuple):
    """Something that a data set was made from."""

    role: str
    name: str
    licences: tuple[str, ...]
    """Identifiers as of `licence_ids`; none where it is not known."""
    terms: str
    """Where its terms can be read."""

    @property
    def licence(self) -> str:
        """The licences in words."""
        return " and ".join(self.licences) or UNKNOWN


def sources(recipe: Recipe, model_folders: dict[str, str]) -> Iterator[Source]:
    """The sources of the prompts, and the teachers. `model_folders`: model -> local folder, where there is one."""
    for prompt_source in recipe.prompts.sources:
        yield prompts_source(prompt_source)
    for teacher in recipe.teachers:
        yield teacher_source(recipe, teacher, model_folders)


def teacher_source(recipe: Recipe, teacher: TeacherConfig, model_folders: Mapping[str, str]) -> Source:
    """What a pool's traces come from, and its licence."""
    role, name = f"teacher {teacher.name}", teacher_name(recipe, teacher)
    if isinstance(teacher, DatasetTeacher):
        return prompts_source(teacher.source)._replace(role=role)
    if isinstance(teacher, RuleTeacher):  # nothing but what it reads
        source = next(one for one in recipe.teachers if one.name == teacher.reads)
        return teacher_source(recipe, source, model_folders)._replace(role=role)
    if isinstance(teacher, EndpointTeacher):
        return Source(role, name, (), "the terms of the endpoint")
    base = base_model(recipe, teacher.model)
    model = recipe.models[base]
    licences = model_licences(model_folders.get(base, ""), model)
    return Source(role, name, licences, _hub_page(model.sources[0]))


def base_source(recipe: Recipe, model: str, model_folders: Mapping[str, str]) -> Source:
    """A model that students are trained from."""
    config = recipe.models[model]
    licences = model_licences(model_folders.get(model, ""), config)
    return Source("base model", source_label(config), licences, _hub_page(config.sources[0]))


def source_label(model: ModelConfig) -> str:
    """A model as the recipe names it, without a local path."""
    reference = model.sources[0]
    return Path(reference).name if reference.startswith(("/", ".", "~")) else reference


def teacher_name(recipe: Recipe, teacher: TeacherConfig) -> str:
    """The model or data set behind a pool, as the recipe names it, without local paths and addresses."""
    match teacher:
        case VllmTeacher():
            label = source_label(recipe.models[base_model(recipe, teacher.model)])
            return f"{label}, trained in this run ({teacher.model})" if trained_student(teacher.model) else label
        case EndpointTeacher():
            return teacher.remote_model
        case DatasetTeacher():
            return source_name(teacher.source)
        case RuleTeacher():
            return f"rules over the pool {teacher.reads}"


def prompts_source(source: PromptSource) -> Source:
    """A source of prompts or traces, and its licence."""
    if isinstance(source, GymSource):
        return Source(
            "prompts", f"reasoning-gym task {source.task}", package_licences("reasoning-gym"), "reasoning-gym"
        )
    if isinstance(source, FileSource):
        return Source("prompts", Path(source.path).name, licence_ids(source.licence), "the owner of the file")
    page = f"https://huggingface.co/datasets/{source.dataset}"
    licences = licence_ids(source.licence) or KNOWN_DATASETS.get(source.dataset, ())
    return Source("prompts", f"{source.dataset} ({source.split})", licences, page)


def model_licences(folder: str, model: ModelConfig) -> tuple[str, ...]:
    """The licences in the folder's model card, as the recipe says, or of the package it comes from: the first that says
    which, else what the card has."""
    card = read_text(folder, CARD_FILE) if folder else None
    stated = front_matter_licences(card or "")
    if stated and not UNCLEAR_IDS & set(stated):
        return stated
    packages = [source.removeprefix(IN_PACKAGE) for source in model.sources if source.startswith(IN_PACKAGE)]
    return licence_ids(model.licence) or stated or (package_licences(packages[0]) if packages else ())


def front_matter_licences(card: str) -> tuple[str, ...]:
    """`license:` of a card's front matter, or `license_name:` where that is `other`; none where nothing is stated, or
    the front matter is no YAML."""
    head = re.match(r"\ufeff?\s*---[ \t]*\r?\n(.*?)^---[ \t]*$", card.replace("\r\n", "\n"), re.DOTALL | re.MULTILINE)
    try:
        fields = yaml.safe_load(head[1]) if head else None
    except yaml.YAMLError:
        return ()
    if not isinstance(fields, dict):
        return ()
    stated = fields.get("license")
    found = [one for part in (stated if isinstance(stated, list) else [stated]) for one in _read(part)]
    name = _read(fields.get("license_name"))
    return tuple(dict.fromkeys(name if name and found == [OTHER] else found))


def _read(stated: object) -> tuple[str, ...]:
    return licence_ids(stated) if isinstance(stated, str) else ()


def package_licences(name: str) -> tuple[str, ...]:
    """The licences in an installed package's metadata."""
    try:
        found = metadata(name)
    except PackageNotFoundError:
        return ()
    stated = [str(found[field]) for field in ("License-Expression", "License") if field in found]
    short = stated[0].strip().split("\n")[0] if stated else ""
    return licence_ids(short) if len(short) <= 60 else ()


def is_hub_id(reference: str) -> bool:
    """Whether it has the form OWNER/NAME."""
    return re.fullmatch(r"\w[\w.-]*/[\w.-]+", reference) is not None


def _hub_page(reference: str) -> str:
    return f"https://huggingface.co/{reference}" if is_hub_id(reference) else "the owner of the model"
