"""One execution: the recipe, where it is written and what it runs on, each connected or resolved when first needed."""

import dataclasses
import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa
from rich.console import Console

from cluster.session import Session, connect
from distill.config.identity import fingerprint, source_identity
from distill.config.recipe import Recipe
from distill.config.teachers import EndpointTeacher, TeacherConfig, VllmTeacher
from distill.core.errors import InputError
from distill.core.run_dir import RunDir
from distill.core.schema import Prompt
from distill.models.resolve import ResolvedModel, publish, resolve_model
from distill.run.pools import Pool


@dataclass
class Run:
    """One execution: the recipe, where it is written, what it runs on (connected when first needed)."""

    recipe: Recipe
    base: Path
    """Folder that the recipe's relative paths are relative to."""
    run_dir: RunDir
    console: Console
    resources: ExitStack

    def on(self, recipe: Recipe, run_dir: RunDir) -> "Run":
        """The same execution with another recipe and place: what is connected and resolved now stays so."""
        other = dataclasses.replace(self, recipe=recipe, run_dir=run_dir)
        kept = {"session", "models", "pools"}
        other.__dict__.update({name: value for name, value in self.__dict__.items() if name in kept})
        return other

    @cached_property
    def session(self) -> Session:
        """The Ray cluster, joined or started at first use."""
        self.console.print("  [dim]starting Ray ...[/]")
        try:
            return self.resources.enter_context(connect(self.recipe.device))
        except ValueError as error:
            raise InputError(str(error)) from error

    @cached_property
    def models(self) -> Mapping[str, ResolvedModel]:
        """The models in use. A resumed run takes the very ones it began with, where they are still there."""
        resolved = {}
        ours = [teacher for teacher in self.recipe.teachers if isinstance(teacher, VllmTeacher)]
        used = {*(teacher.model for teacher in ours), *(student.model for student in self.recipe.students)}
        for name in sorted(used):
            resolved[name] = self._recorded(name) or self._resolve(name)
        return resolved

    def _recorded(self, name: str) -> ResolvedModel | None:
        path = self.run_dir.path("models", f"{name}.json")
        if not self.run_dir.fs.exists(path):
            return None
        record = json.loads(self.run_dir.fs.cat_file(path))
        is_same = record["config"] == self.recipe.models[name].model_dump(mode="json")
        model = ResolvedModel(**{**record["model"], "skipped": tuple(record["model"]["skipped"])})
        if Path(model.path).is_dir():
            return model if is_same else None
        return dataclasses.replace(model, path=model.published) if is_same and model.published else None

    def _resolve(self, name: str) -> ResolvedModel:
        config = self.recipe.models[name]
        model = resolve_model(name, config, lambda text: self.console.print(f"  [dim]{name}: {text}[/]"))
        model = publish(model, self.run_dir)
        record = {"config": config.model_dump(mode="json"), "model": dataclasses.asdict(model)}
        self.run_dir.write_bytes(json.dumps(record, indent=1).encode(), "models", f"{name}.json")
        return model

    @cached_property
    def pools(self) -> tuple[Pool, ...]:
        """The teachers' pools."""
        return tuple(self._pool(teacher) for teacher in self.recipe.teachers)

    def _pool(self, teacher: TeacherConfig) -> Pool:
        if isinstance(teacher, VllmTeacher):
            model = self.models[teacher.model]
            return Pool(teacher, model.place, fingerprint(teacher, model.identity))
        # A data set's lengths are counted by the first student's tokenizer.
        source = teacher.base_url if isinstance(teacher, EndpointTeacher) else self._student_path
        return Pool(teacher, source, fingerprint(teacher, source_identity(teacher)))

    @property
    def _student_path(self) -> str:
        return self.models[self.recipe.students[0].model].place

    def prompt_ids(self) -> pa.ChunkedArray:
        """Identities of the training prompts."""
        return self.run_dir.read_table("prompts", "prompts.parquet", row_type=Prompt, columns=("prompt_id",)).column(0)

    @cached_property
    def prompts_by_id(self) -> Mapping[str, Prompt]:
        """The training prompts by identity."""
        return {prompt.prompt_id: prompt for prompt in self.prompts()}

    def prompts(self) -> list[Prompt]:
        """The training prompts."""
        return [
            Prompt(**row) for row in self.run_dir.read_table("prompts", "prompts.parquet", row_type=Prompt).to_pylist()
        ]


def load_run_recipe(run_dir: RunDir) -> Recipe:
    """The resolved recipe of an existing run."""
    return Recipe.model_validate_json(run_dir.fs.cat_file(run_dir.path("recipe.json")))
