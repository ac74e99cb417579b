"""Identities and stage parts of a recipe, computed from what its fields declare (`distill.config.decides`)."""

import json
from collections.abc import Iterable, Mapping
from typing import Any

from distill.config.decides import identity, stage_part
from distill.config.models import ModelConfig
from distill.config.passes import base_model
from distill.config.recipe import Recipe, benchmark_configs
from distill.config.search import SearchConfig
from distill.config.teachers import DatasetTeacher, EndpointTeacher, RuleTeacher, TeacherConfig, VllmTeacher
from distill.core.run_dir import StageName
from distill.core.schema import content_hash


def fingerprint(teacher: TeacherConfig, source: str, parent: str | None = None) -> str:
    """Everything that decides what a teacher writes: a changed teacher is a new pool, never merged with the old one.

    Args:
        teacher: the teacher.
        source: identity of what is behind it: content hash of the weights, or `source_identity`.
        parent: fingerprint of the pool that it reads; None where it reads none.
    """
    return content_hash("teacher", source, identity(teacher), *([parent] if parent else []))


def source_identity(teacher: EndpointTeacher | DatasetTeacher | RuleTeacher) -> str:
    """What stands for the weights of a teacher that is not ours: its address and name, or its data set."""
    if isinstance(teacher, EndpointTeacher):
        return f"{teacher.base_url} {teacher.remote_model}"
    if isinstance(teacher, RuleTeacher):
        return "rule"
    return json.dumps(identity(teacher.source), separators=(",", ":"), ensure_ascii=False)


def stage_parts(recipe: Recipe) -> dict[StageName, dict[str, Any]]:
    """Stage -> the part of the recipe that decides its result, beside the stages before it."""
    parts = {stage: stage_part(recipe, stage, StageName.PROMPTS) for stage in StageName}
    for stage in (StageName.PROMPTS, StageName.EVALUATE):
        benchmarks = benchmark_configs(recipe).items()
        parts[stage]["benchmarks"] = {name: stage_part(one, stage, StageName.PROMPTS) for name, one in benchmarks}
    teachers = [base_model(recipe, teacher.model) for teacher in recipe.teachers if isinstance(teacher, VllmTeacher)]
    parts[StageName.GENERATE]["models"] = _models(recipe.models, teachers)
    parts[StageName.MIX] |= (students := _student_models(recipe))
    if recipe.search:
        parts[StageName.SEARCH]["trials"] = _trials(recipe, recipe.search) | students
    return parts


def _student_models(recipe: Recipe) -> dict[str, Any]:
    """Whose tokenizers count a trace's tokens: the first student's in the manifests, all students' in the filters."""
    order = [{"name": student.name, "model": student.model} for student in recipe.students]
    return {"models": _models(recipe.models, [one["model"] for one in order]), "student_models": order}


def _models(models: Mapping[str, ModelConfig], used: Iterable[str]) -> dict[str, Any]:
    return {name: identity(models[name]) for name in sorted(set(used))}


AS_TRIED = {"num_steps": None, "after": None, "total_steps": None, "objective": None}
"""What the full training of an arm has of its own, and the short runs of a search have not."""


def _trials(recipe: Recipe, search: SearchConfig) -> dict[str, Any]:
    """What decides the short runs of a weight search beside the models: mixes, training without its budget, scoring."""
    asked = {"filters": recipe.filters, "student_chat": recipe.student_chat, "train": recipe.train.without_budget}
    scored = {"evaluate": recipe.evaluate, "serve": recipe.serve}
    found: dict[str, Any] = {name: identity(section) for name, section in {**asked, **scored}.items()}
    return found | {
        "mixes": [identity(mix.model_copy(update=AS_TRIED)) for mix in recipe.mixes],
        "tuned": [identity(student) for student in recipe.students],
        "template": benchmark_configs(recipe)[search.benchmark].template,
    }
