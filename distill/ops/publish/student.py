"""A trained student of a run as it is to be published: which one, its files, how it is asked, what it scored."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cluster.storage import IN_PACKAGE
from distill.config.base import one_of
from distill.config.mix import Mode
from distill.config.recipe import Recipe
from distill.config.students import StudentConfig
from distill.config.teachers import ChatFormat
from distill.core.errors import InputError
from distill.core.manifest import Manifest
from distill.core.run_dir import RunDir, Training, model_record
from distill.core.saved_files import MODEL, trained_address
from distill.core.schema import Style
from distill.evaluate.read_scores import ScoredModel, expected_models, models_by_itself, read_scored
from distill.mix.export.licences import Source, base_source, sources
from distill.mix.export.write import model_folders
from distill.models.chat_template import with_mode
from distill.models.resolve import load_tokenizer
from distill.report.model_scores import model_score
from distill.report.quantised import quantised_scores
from distill.report.score_data import ModelScore, QuantisedScore
from distill.train.cells import Cell, all_cells

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class TrainedStudent:
    """One cell of a run, trained or merged."""

    recipe: Recipe
    run_dir: RunDir
    cell: Cell
    manifest: Manifest

    @property
    def name(self) -> str:
        """Name of its files: that of the cell, with characters that every hub and file system takes."""
        return self.cell.name.replace("@", "-")

    @property
    def files(self) -> Mapping[str, str]:
        """Name -> path of the files of its folder, in the terms of the run's file system; without the run's card."""
        paths = self.run_dir.matching(*Training(self.cell.name).any_model_file)
        return {name: path for path in paths if (name := path.rsplit("/", 1)[1]) not in ("README.md", "mix.json")}

    @property
    def asked_modes(self) -> Mapping[str, Mode | None]:
        """The modes that a prompt can ask for, the default first; one without a name where its mix has none, or where
        the student writes its mode itself: what serves files cannot begin its answer."""
        asked = next((mix.modes for mix in self.recipe.mixes if mix.name == self.cell.mix and not mix.modes_in), {})
        return {str(style): mode for style, mode in asked.items()} or {"": None}

    @property
    def modes(self) -> Mapping[str, ChatFormat]:
        """Of `asked_modes`: how it is asked in each."""
        return {style: with_mode(self.recipe.student_chat, mode) for style, mode in self.asked_modes.items()}

    @property
    def openings(self) -> Mapping[Style, str]:
        """Mode -> how the student begins an answer in it, where it writes its mode itself."""
        return next((mix.openings for mix in self.recipe.mixes if mix.name == self.cell.mix), {})

    @cached_property
    def model_folders(self) -> dict[str, str]:
        """Model of the recipe -> its folder on this machine."""
        return model_folders(self.run_dir)

    @cached_property
    def base_file(self) -> str:
        """Where the weights of its base model were read from, if from a quantised file; else empty."""
        record = self.run_dir.read_bytes(*model_record(self.cell.student.model))
        source = str(json.loads(record)["model"]["source"]) if record else ""
        return source.partition("#")[0] if source.endswith(".gguf") or source.startswith(IN_PACKAGE) else ""

    @cached_property
    def sources(self) -> list[Source]:
        """What it was made from, with licences: the base model first."""
        return chain(self.recipe, self.cell.student, self.model_folders)

    @cached_property
    def arms(self) -> dict[str, dict[str, Any]]:
        """The mix manifest's entries of the arms that it was trained on."""
        entries = self.run_dir.arm_entries()
        return {one.mix: entries[one.mix] for one in self.cell.lineage if one.mix in entries}

    @property
    def tokenizer(self) -> PreTrainedTokenizerBase:
        """Its tokenizer, whose chat template writes a fixed date."""
        loaded: PreTrainedTokenizerBase = load_tokenizer(
            trained_address(self.run_dir, self.cell.name, MODEL, self.manifest)
        )
        return loaded

    def scores(self) -> list[ModelScore]:
        """What it scored by itself, in every mode and left to choose, then what the untouched student did."""
        known = expected_models(self.recipe)
        untouched = [model for model in known if not model.mix and model.student == self.cell.student.name]
        return list(self._scored([*models_by_itself(self.recipe, self.cell.name).values(), *untouched]))

    def _scored(self, models: list[ScoredModel]) -> Iterator[ModelScore]:
        for model in models:
            for benchmark in self.recipe.evaluate.benchmarks:
                scored = read_scored(self.run_dir, model, benchmark)
                if len(scored.prompt_ids):
                    yield model_score(scored)

    def quantised(self) -> list[QuantisedScore]:
        """What its quantised files scored, of those that were asked."""
        full = {model.name for model in models_by_itself(self.recipe, self.cell.name).values()}
        return [one for one in quantised_scores(self.recipe, self.run_dir) if one.full in full]


def find_student(recipe: Recipe, run_dir: RunDir, name: str) -> TrainedStudent:
    """The trained student of a name.

    Raises:
        InputError: the run has none of this name, or it is not trained yet.
    """
    cells = {cell.name: cell for cell in all_cells(recipe)}
    trained = {one: found for one in cells if (found := run_dir.read_manifest(*Training(one).folder)) is not None}
    if name in trained:
        return TrainedStudent(recipe, run_dir, cells[name], trained[name])
    if name in cells:
        raise InputError(f"{name} is not trained yet -> distill run first; trained: {', '.join(trained) or 'none'}")
    raise InputError(f"{run_dir.uri} has no trained student {name!r} -> {one_of(name, trained)}")


def chain(recipe: Recipe, student: StudentConfig, model_folders: Mapping[str, str]) -> list[Source]:
    """Everything that the student was made from: its base model, then prompts and teachers. Each once."""
    base = base_source(recipe, student.model, model_folders)
    return list(dict.fromkeys([base, *sources(recipe, dict(model_folders))]))
