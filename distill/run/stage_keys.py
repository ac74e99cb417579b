"""Which stage depends on what: a stage is stale when its part of the recipe, or a stage before it, has changed."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.storage import open_storage
from distill.config.benchmarks import BenchmarkConfig
from distill.config.identity import student_identity, train_identity
from distill.config.recipe import Recipe, benchmark_configs
from distill.config.sources import FileSource, PromptSource, source_pattern
from distill.config.teachers import DatasetTeacher, VllmTeacher
from distill.core.run_dir import STAGES, RunDir
from distill.core.schema import content_hash
from distill.grading import VERIFIER_VERSION
from distill.verify.judge import judge_name

LAYOUT_VERSION = 2
"""Raised when a stage's files change their meaning, so that older runs are redone rather than misread."""
CLEANER_VERSION = 2
"""Raised when the same prompts and benchmarks give other drops, so that runs with older prompts are redone."""
MIXER_VERSION = 2
"""Raised when the same recipe and traces give other arms, so that older mixes, and no stage before them, are redone."""


@dataclass(frozen=True)
class StageState:
    """Where a stage stands before a run."""

    stage: str
    key: str
    config: Mapping[str, Any]
    """The stage's part of the recipe, kept in its manifest to tell later what changed."""
    status: str
    """`done`, `new` or `changed`."""
    reason: str = ""


def stage_configs(recipe: Recipe, base: Path | None) -> dict[str, dict[str, Any]]:
    """stage -> the part of the recipe that decides its result. `base`: of relative paths; None: files are left out."""
    dump = recipe.model_dump(mode="json")
    benchmarks = benchmark_configs(recipe)
    sources = [*recipe.prompts.sources, *(benchmark.source for benchmark in benchmarks.values())]
    teachers = {teacher.model for teacher in recipe.teachers if isinstance(teacher, VllmTeacher)}
    imported = [teacher.source for teacher in recipe.teachers if isinstance(teacher, DatasetTeacher)]
    students = {student.model for student in recipe.students}
    return {
        "prompts": {
            "cleaner": CLEANER_VERSION,
            "prompts": dump["prompts"],
            "benchmarks": {
                name: benchmark.model_dump(mode="json", exclude={"template"}) for name, benchmark in benchmarks.items()
            },
            "seed": recipe.seed,
            "files": {name: stamp for source in sources for name, stamp in _file_stamps(source, base)},
        },
        "generate": {
            "teachers": dump["teachers"],
            "generate": {name: dump["generate"][name] for name in ("stop_early", "enough_prompts")},
            "models": {name: dump["models"][name] for name in sorted(teachers)},
            "files": {name: stamp for source in imported for name, stamp in _file_stamps(source, base)},
        },
        "verify": {"verifier": VERIFIER_VERSION, **_judge_config(recipe)},
        "mix": {
            "mixer": MIXER_VERSION,
            "mixes": dump["mixes"],
            "filters": dump["filters"],
            "train.max_length": recipe.train.max_length,
            **({"train.held_out_prompts": held_out} if (held_out := recipe.train.held_out_prompts) else {}),
            "student_chat": dump["student_chat"],
            **(_search_config(recipe, dump) if recipe.search else {}),
            "models": {name: dump["models"][name] for name in sorted(students)},
        },
        "train": {
            "train": train_identity(recipe.train),
            "students": [student_identity(student) for student in recipe.students],
            **({"merges": dump["merges"]} if recipe.merges else {}),
            "models": {name: dump["models"][name] for name in sorted(students)},
        },
        "evaluate": {
            "evaluate": dump["evaluate"],
            "serve.engine": dump["serve"]["engine"],
            **_templates(benchmarks),
        },
        "report": {"name": recipe.name, "description": recipe.description, **_bases(recipe)},
    }


def _search_config(recipe: Recipe, dump: Mapping[str, Any]) -> dict[str, Any]:
    """What decides the weights that are searched, beside what decides every mix."""
    return {
        "search": dump["search"],
        "train": train_identity(recipe.train),
        "students": [student_identity(student) for student in recipe.students],
        "evaluate.sampling": dump["evaluate"]["sampling"],
        "serve.engine": dump["serve"]["engine"],
    }


def _bases(recipe: Recipe) -> dict[str, Any]:
    found = {student.name: student.base_of for student in recipe.students if student.base_of}
    return {"base_of": found} if found else {}


def _templates(benchmarks: Mapping[str, BenchmarkConfig]) -> dict[str, Any]:
    found = {name: benchmark.template for name, benchmark in benchmarks.items() if benchmark.template}
    return {"templates": found} if found else {}


def _judge_config(recipe: Recipe) -> dict[str, Any]:
    """What decides a judge's word. No key at all without one, so that runs made before there were judges stay done."""
    judge = recipe.verify.judge
    return {"judge": {"name": judge_name(judge), "base_url": judge.base_url}} if judge else {}


def _file_stamps(source: PromptSource, base: Path | None) -> Iterator[tuple[str, str]]:
    """Size and time of local input files: an edited file makes the prompts stale."""
    if isinstance(source, FileSource) and base is not None:
        fs, pattern = open_storage(source_pattern(source, base))
        for path in fs.glob(pattern):
            info = fs.info(path)
            yield str(path), f"{info.get('size')} {info.get('mtime') or info.get('LastModified') or info.get('ETag')}"


def stage_states(recipe: Recipe, base: Path | None, run_dir: RunDir) -> dict[str, StageState]:
    """Every stage's key and whether it is done, new or changed (and by what).

    `base`: of the recipe's relative paths; None where it is not known: input files are taken to be as they were.
    """
    states: dict[str, StageState] = {}
    key = content_hash(LAYOUT_VERSION)
    for stage, config in stage_configs(recipe, base).items():
        if base is None and "files" in config:
            config["files"] = _files_read(run_dir, stage)
        key = content_hash(stage, key, config)
        states[stage] = _state(stage, key, config, run_dir, states)
    assert tuple(states) == STAGES
    return states


def _files_read(run_dir: RunDir, stage: str) -> dict[str, str]:
    manifest = run_dir.read_manifest(stage)
    return dict(manifest.details.get("config", {}).get("files", {})) if manifest else {}


def _state(
    stage: str, key: str, config: Mapping[str, Any], run_dir: RunDir, before: Mapping[str, StageState]
) -> StageState:
    manifest = run_dir.read_manifest(stage)
    if manifest is None:
        return StageState(stage, key, config, "new")
    if manifest.key == key:
        return StageState(stage, key, config, "done")
    changes = list(changed_keys(manifest.details.get("config", {}), config))
    upstream = [state.stage for state in before.values() if state.status != "done"]
    reason = ", ".join(changes) or f"{upstream[0]} before it" if upstream or changes else "an older version wrote it"
    return StageState(stage, key, config, "changed", reason)


def changed_keys(old: Any, new: Any, prefix: str = "") -> Iterator[str]:
    """Dotted names of what differs between two nested configurations; list items by their `name`."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in sorted({*old, *new}):
            yield from changed_keys(old.get(name), new.get(name), f"{prefix}.{name}" if prefix else name)
    elif _is_named(old) and _is_named(new):
        old_items, new_items = ({item["name"]: item for item in items} for items in (old, new))
        for name in sorted({*old_items, *new_items}):
            yield from changed_keys(old_items.get(name), new_items.get(name), f"{prefix}[{name}]")
    elif old != new:
        yield prefix


def _is_named(items: Any) -> bool:
    return isinstance(items, list) and all(isinstance(item, dict) and "name" in item for item in items)
