"""The context of one execution: recipe, run directory, cluster, models and pools, each opened at first use."""

import dataclasses
import itertools
import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Console

from cluster.session import Session, connect
from distill.config.asking_order import asking_order
from distill.config.identity import fingerprint, source_identity
from distill.config.models import ModelConfig
from distill.config.passes import base_model, passes, teaching_cell
from distill.config.recipe import Recipe
from distill.config.teachers import EndpointTeacher, TeacherConfig, VllmTeacher, engine_key, read_pool
from distill.core.errors import InputError
from distill.core.run_dir import PROMPTS, Parts, RunDir, Training, benchmark_problems, finished_pass, model_record
from distill.core.saved_files import FILES, MODEL, SavedFiles, saved_files, trained_address, weight_hashes
from distill.core.schema import Prompt, content_hash
from distill.models.resolve import ResolvedModel, model_identity, publish, resolve_model
from distill.run.pools import Pool


@dataclass
class RunContext:
    """One execution. Only a stage's entry takes it; the functions below get the values that they need."""

    recipe: Recipe
    base: Path
    """Folder that the recipe's relative paths are relative to."""
    run_dir: RunDir
    console: Console
    resources: ExitStack
    """Closes what the run opened."""

    def of_pass(self, recipe: Recipe) -> "RunContext":
        """The same run in another pass, with the same cluster where it is connected."""
        inner = dataclasses.replace(self, recipe=recipe)
        inner.__dict__.update({name: value for name, value in self.__dict__.items() if name == "session"})
        return inner

    def nested(self, recipe: Recipe, folder: Parts) -> "RunContext":
        """A small run inside this one, with the same cluster, models, pools and traces."""
        _ = self.session, self.models, self.pools
        inner = dataclasses.replace(self, recipe=recipe, run_dir=self.run_dir.nested(*folder))
        shared = {"session", "models", "pools"}
        inner.__dict__.update({name: value for name, value in self.__dict__.items() if name in shared})
        return inner

    @cached_property
    def session(self) -> Session:
        """The Ray cluster, joined or started at first use."""
        self.console.print("  [dim]starting Ray ...[/]")
        try:
            return self.resources.enter_context(connect(self.recipe.device))
        except ValueError as error:
            raise InputError(str(error)) from error

    @property
    def is_connected(self) -> bool:
        """Whether the cluster was used so far."""
        return "session" in vars(self)

    @cached_property
    def models(self) -> Mapping[str, ResolvedModel]:
        """The models in use. A resumed run keeps those that it began with, as long as they exist."""
        asked = {teacher.model for teacher in self.recipe.teachers if isinstance(teacher, VllmTeacher)}
        used = {base_model(self.recipe, model) for model in asked} | {one.model for one in self.recipe.students}
        found = {name: self._recorded(name) or self._resolve(name) for name in sorted(used)}
        return found | {model: self._trained(model, found) for model in sorted(asked - used)}

    def _recorded(self, name: str) -> ResolvedModel | None:
        found = self.run_dir.read_bytes(*model_record(name))
        if found is None:
            return None
        record = json.loads(found)
        config = self.recipe.models[name]
        model = ResolvedModel(**{**record["model"], "skipped": tuple(record["model"]["skipped"])})
        is_same = record["config"] == config.model_dump(mode="json") and _is_unchanged(model, config)
        if Path(model.path).is_dir():
            return model if is_same else None
        return dataclasses.replace(model, path=model.published) if is_same and model.published else None

    def _resolve(self, name: str) -> ResolvedModel:
        config = self.recipe.models[name]
        model = resolve_model(name, config, lambda text: self.console.print(f"  [dim]{name}: {text}[/]"))
        model = publish(model, self.run_dir)
        record: dict[str, Any] = {"config": config.model_dump(mode="json"), "model": dataclasses.asdict(model)}
        if any(student.model == name for student in self.recipe.students):
            record[FILES] = self._files_of(model)
        self.run_dir.write_bytes(json.dumps(record, indent=1).encode(), *model_record(name))
        return model

    def _trained(self, name: str, bases: Mapping[str, ResolvedModel]) -> ResolvedModel:
        """A student of this run that is a teacher, as an earlier pass has trained it."""
        cell, number = teaching_cell(self.recipe, name), len(passes(self.recipe)) - 1
        done = self.run_dir.read_manifest(*finished_pass(number))
        key = done.details["cells"].get(cell) if done else None
        if key is None:
            raise InputError(
                f"{self.run_dir.uri}: {cell} is not trained yet, and writes traces -> distill run trains it"
            )
        manifest = self.run_dir.read_manifest(*Training(cell).folder)
        address = trained_address(self.run_dir, cell, MODEL, manifest)
        return dataclasses.replace(
            bases[base_model(self.recipe, name)],
            name=name,
            path=address,
            source=cell,
            identity=content_hash("student", key),
            skipped=(),
            published="" if self.run_dir.is_local else address,
        )

    def _files_of(self, model: ResolvedModel) -> SavedFiles:
        """The files of a student's base model. Fetched or converted again to other weights, it has those that it had:
        they are what the run's students were trained from and scored beside."""
        files = saved_files(model.folder)
        earlier = json.loads(self.run_dir.read_bytes(*model_record(model.name)) or b"{}")
        if earlier.get(FILES) and earlier["model"]["identity"] == model.identity:
            is_same = weight_hashes(earlier[FILES]) == weight_hashes(files)
            return files if is_same else dict(earlier[FILES])
        return files

    @cached_property
    def pools(self) -> tuple[Pool, ...]:
        """The teachers' pools, in the recipe's order."""
        teachers = {teacher.name: teacher for teacher in self.recipe.teachers}
        order = asking_order(self.recipe.teachers, {name: engine_key(one) for name, one in teachers.items()})
        made: dict[str, Pool] = {}
        for name in itertools.chain.from_iterable(order):  # what is read comes first
            made[name] = self._pool(teachers[name], made)
        return tuple(made[name] for name in teachers)

    def _pool(self, teacher: TeacherConfig, before: Mapping[str, Pool]) -> Pool:
        reads = read_pool(teacher)
        parent = before[reads].fingerprint if reads else None
        if isinstance(teacher, VllmTeacher):
            model = self.models[teacher.model]
            return Pool(teacher, model.address, fingerprint(teacher, model.identity, parent))
        # Lengths of what no model of ours writes are counted by the first student's tokenizer.
        first_student = self.recipe.students[0].model
        source = teacher.base_url if isinstance(teacher, EndpointTeacher) else self.models[first_student].address
        return Pool(teacher, source, fingerprint(teacher, source_identity(teacher), parent))


def _is_unchanged(model: ResolvedModel, config: ModelConfig) -> bool:
    """Whether a model's source has the content that it had; also where that cannot be seen from this machine."""
    try:
        return model_identity(model.source, config) == model.identity
    except FileNotFoundError:
        return True


def read_prompt_ids(run_dir: RunDir) -> pa.ChunkedArray:
    """Identities of the training prompts."""
    return run_dir.read_table(*PROMPTS, row_type=Prompt, columns=("prompt_id",)).column(0)


def read_prompts(run_dir: RunDir) -> dict[str, Prompt]:
    """The training prompts by identity, in their order."""
    rows = run_dir.read_table(*PROMPTS, row_type=Prompt).to_pylist()
    return {row["prompt_id"]: Prompt(**row) for row in rows}


def read_benchmark(run_dir: RunDir, name: str) -> dict[str, Prompt]:
    """The problems of a benchmark by identity, in their order; empty where the run does not keep them."""
    rows = run_dir.read_table(*benchmark_problems(name), row_type=Prompt).to_pylist()
    return {row["prompt_id"]: Prompt(**row) for row in rows}
