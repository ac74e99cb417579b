"""Which stages are stale, and why. One is when its part of the recipe, an input file, or a stage before it changed."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cluster.storage import IN_PACKAGE, package_path
from distill.config.identity import stage_parts
from distill.config.models import ModelConfig
from distill.config.objectives import Match, Reinforce
from distill.config.passes import base_model, passes
from distill.config.recipe import Recipe, benchmark_configs
from distill.config.sources import FileSource, GymSource, PromptSource, kind_of
from distill.config.teachers import DatasetTeacher, VllmTeacher
from distill.config.verify import judge_name
from distill.core.errors import InputError
from distill.core.manifest import Manifest
from distill.core.run_dir import RunDir, StageName, Training
from distill.core.schema import AnswerKind, content_hash
from distill.core.verifier_version import verifier_version
from distill.models.folder import content_digest
from distill.models.resolve import local_source
from distill.models.thinking import ENDS
from distill.run.source_files import source_files

LAYOUT_VERSION = 3
"""Raised when a stage's files change their meaning: older runs are then done again rather than misread."""
CLEANER_VERSION = 4
"""Raised when the same prompts and benchmarks lead to other drops."""
MIXER_VERSION = 4
"""Raised when the same recipe and traces lead to other arms."""
ASKING_VERSION = 3
"""Raised when models are asked benchmarks differently: their answers of before are not kept."""
LANGUAGES_VERSION = 1
"""Raised when languages of answers are told differently."""


@dataclass(frozen=True)
class StageState:
    """A stage's state before a run."""

    stage: StageName
    key: str
    config: Mapping[str, Any]
    """The stage's part of the recipe; its manifest keeps it, to name later what changed."""
    status: str
    """`done`, `new` or `changed`."""
    reason: str = ""
    """What changed, for people; empty unless `changed`."""
    is_redone: bool = False
    """Whether it was done for the present recipe, and what it is made of is gone."""


def stage_configs(recipe: Recipe, base: Path | None) -> dict[StageName, dict[str, Any]]:
    """Stage -> everything that decides its result. `base`: folder of relative paths; None leaves input files out."""
    parts, judge = stage_parts(recipe), recipe.verify.judge
    benchmarks = [benchmark.source for benchmark in benchmark_configs(recipe).values()]
    read, asked = [*recipe.prompts.sources, *benchmarks], recipe.prompts.sources
    own = [base_model(recipe, teacher.model) for teacher in recipe.teachers if isinstance(teacher, VllmTeacher)]
    imported = [teacher.source for teacher in recipe.teachers if isinstance(teacher, DatasetTeacher)]
    further: dict[StageName, dict[str, Any]] = {
        StageName.PROMPTS: {
            "cleaner": CLEANER_VERSION,
            "verifier": verifier_version(_kinds(read)),  # prompts that it cannot grade are dropped
            "files": _file_stamps(read, base),
        },
        StageName.GENERATE: {"files": _file_stamps(imported, base) | _model_stamps(recipe, own, base)},
        StageName.VERIFY: {
            "verifier": verifier_version(_kinds(asked)),
            "judge": judge_name(judge) if judge else None,
        },
        StageName.MIX: {"mixer": MIXER_VERSION, **_own_reasoning_end(recipe)},
        StageName.TRAIN: _own_answers(recipe),
        StageName.EVALUATE: {"asking": ASKING_VERSION, "languages": LANGUAGES_VERSION},
    }
    if students := _model_stamps(recipe, [student.model for student in recipe.students], base):
        further[StageName.MIX]["files"] = students
    return {stage: {**parts[stage], **further.get(stage, {})} for stage in StageName}


def _kinds(sources: Sequence[PromptSource]) -> Iterator[AnswerKind]:
    """The kinds of answers that sources may have: all, where each row names its own."""
    for source in sources:
        if not isinstance(source, GymSource) and source.columns.answer_kind:
            yield from AnswerKind
        else:
            yield kind_of(source)


def _own_reasoning_end(recipe: Recipe) -> dict[str, str]:
    """The end of the reasoning that rows are searched for, where it is none of those that they are always searched
    for."""
    end = recipe.evaluate.reasoning_end
    return {} if end in {"", *ENDS} else {"reasoning_end": end}


def _own_answers(recipe: Recipe) -> dict[str, Any]:
    """What of other sections decides how students write, and what they are rewarded for, within their training."""
    objectives = [mix.objective for mix in recipe.mixes]
    found: dict[str, Any] = {}
    if any(isinstance(one, Match | Reinforce) for one in objectives):
        found["own_answers_engine"] = recipe.serve.engine.limits
    if any(isinstance(one, Reinforce) for one in objectives):
        found["rewarded_reasoning_end"] = recipe.evaluate.reasoning_end
    return found


def _file_stamps(sources: Sequence[PromptSource], base: Path | None) -> dict[str, str]:
    """Path -> size and modification time of every input file: an edited one makes its stage stale."""
    files = [source for source in sources if isinstance(source, FileSource)] if base is not None else []
    return {path: stamp for source in files for path, stamp in _stamps(source, base or Path())}


def _model_stamps(recipe: Recipe, names: Sequence[str], base: Path | None) -> dict[str, str]:
    """Source -> content hash, of the models that lie on this machine: edited ones make the stage stale."""
    found: dict[str, str] = {}
    for name in sorted(set(names)) if base is not None else ():
        found |= dict(_local_stamps(recipe.models[name]))
    return found


def _local_stamps(config: ModelConfig) -> Iterator[tuple[str, str]]:
    for source in config.sources:
        try:
            local = local_source(source)
        except FileNotFoundError:  # another machine's; the run keeps a copy, or takes the next source
            continue
        if local is not None:
            yield source, content_digest(local)


def _stamps(source: FileSource, base: Path) -> Iterator[tuple[str, str]]:
    if source.path.startswith(IN_PACKAGE):  # it was installed at another time and place on every machine
        yield source.path, content_digest(Path(package_path(source.path)))
        return
    fs, paths = source_files(source, base)
    for path in paths:
        info = fs.info(path)
        yield path, f"{info.get('size')} {info.get('mtime') or info.get('LastModified') or info.get('ETag')}"


def stage_states(recipe: Recipe, base: Path | None, run_dir: RunDir) -> dict[StageName, StageState]:
    """Every stage's key and status; of the last pass where the run has several.

    `base`: folder of the recipe's relative paths; None where it is not known, and input files count as unchanged.
    """
    states: dict[StageName, StageState] = {}
    key = content_hash(LAYOUT_VERSION)
    earlier = passes(recipe)[:-1]
    for stage, config in stage_configs(recipe, base).items():
        if stage == StageName.GENERATE and earlier:  # whose students write
            config["earlier_pass"] = stage_states(earlier[-1], base, run_dir)[StageName.TRAIN].key
        if base is None:
            config |= _as_run(run_dir, stage)
        key = content_hash(stage, key, config)
        states[stage] = _state(stage, key, config, run_dir, states)
    return states


def _as_run(run_dir: RunDir, stage: StageName) -> dict[str, Any]:
    """What a finished stage found of the input files, directly or in an earlier pass: it counts as unchanged."""
    manifest = run_dir.read_manifest(stage)
    config = manifest.details.get("config", {}) if manifest else {}
    return {name: config[name] for name in ("files", "earlier_pass") if config.get(name)}


def _state(
    stage: StageName, key: str, config: Mapping[str, Any], run_dir: RunDir, before: Mapping[StageName, StageState]
) -> StageState:
    manifest = run_dir.read_manifest(stage)
    if manifest is None:
        return StageState(stage, key, config, "new")
    if manifest.key == key:
        reason = _lost(stage, manifest, run_dir, before)
        return StageState(stage, key, config, "changed" if reason else "done", reason, is_redone=bool(reason))
    changes = list(changed_keys(manifest.details.get("config", {}), config))
    upstream = [state.stage for state in before.values() if state.status != "done"]
    reason = ", ".join(changes) or f"{upstream[0]} before it" if upstream or changes else "the version that wrote it"
    return StageState(stage, key, config, "changed", reason)


def _lost(stage: StageName, manifest: Manifest, run_dir: RunDir, before: Mapping[StageName, StageState]) -> str:
    """What a stage that was done for this recipe no longer has: a cell whose folder was deleted, to be trained again.
    Its weights may come out otherwise, so that what comes after is done again too."""
    if stage == StageName.TRAIN:
        cells = [cell for cell in manifest.details.get("cells", {}) if not run_dir.has_manifest(*Training(cell).folder)]
        return "/".join(Training(cells[0]).folder) if cells else ""
    return next((f"{state.stage} before it" for state in before.values() if state.is_redone), "")


def stages_to_run(
    reads: Mapping[StageName, Sequence[StageName]],
    states: Mapping[StageName, StageState],
    *,
    until: StageName | None = None,
    only: StageName | None = None,
) -> list[StageName]:
    """The stages that are not done, in order; up to `until`, or `only` one.

    `reads`: stage -> the stages whose files it reads, in order.

    Raises:
        InputError: `only` names a stage that reads from one that is not done.
    """
    names = list(reads)
    asked = [only] if only else names[: names.index(until) + 1] if until else names
    waits_for = [name for name in reads[only] if states[name].status != "done"] if only else []
    if waits_for:
        raise InputError(f"--only {only}: {', '.join(waits_for)} must be done first -> run with --until {only} instead")
    return [name for name in asked if states[name].status != "done"]


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
