"""Writes a student as a folder for a model hub: complete under its name, or not there at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from distill.core.errors import InputError
from distill.core.run_dir import Training
from distill.core.schema import content_hash
from distill.evaluate.read_scores import models_by_itself
from distill.mix.export.terms import obligations, refuse_forbidden
from distill.mix.export.write import atomic_folder, refuse_existing
from distill.models.chat_template import end_of_turn
from distill.models.folder import TEMPLATE, content_digest, is_usable, notice_files
from distill.models.resolve import unchanged_tokenizer
from distill.ops.publish.calibration import Calibration, calibration_rows
from distill.ops.publish.card import MODELFILE, megabytes, mix_json, publish_card, sizes
from distill.ops.publish.formats import SAFETENSORS, gguf_types
from distill.ops.publish.gguf import PACKAGES as CONVERTERS
from distill.ops.publish.gguf import (
    GgufFile,
    calibration_words,
    gguf_name,
    kept_words,
    require_packages,
    write_gguf,
)
from distill.ops.publish.llama_server import PACKAGES as RUNTIME
from distill.ops.publish.modelfile import Modelfile, modelfile
from distill.ops.publish.score import score_quantised
from distill.ops.publish.student import TrainedStudent

CARD, MIX, GENERATION_CONFIG = "README.md", "mix.json", "generation_config.json"


class PlannedFile(NamedTuple):
    """A file of a folder that is to be written."""

    name: str
    size: float
    """Bytes; estimated from the number of weights where the file is yet to be made."""
    is_estimated: bool = False


def check(student: TrainedStudent, formats: Sequence[str], *, is_scored: bool) -> None:
    """That a student may be published in these formats, and can be here.

    Raises:
        InputError: a licence forbids it, its weights are gone, or a package is missing.
    """
    refuse_forbidden(student.sources)
    if "config.json" not in student.files:
        where = student.run_dir.path(*Training(student.cell.name).model)
        raise InputError(f"{student.cell.name}: {where} holds no model -> train it again with distill run")
    kinds = gguf_types(tuple(formats))
    if is_scored and not kinds:
        raise InputError("--score asks GGUF files, and --formats names none -> add gguf-q4_k_m, or leave --score out")
    if is_scored and not models_by_itself(student.recipe, student.cell.name).keys() >= student.asked_modes.keys():
        name = f"{student.cell.student.name}@{student.cell.mix}"
        raise InputError(
            f"--score: {student.cell.name} writes its mode itself, and its full weights were not scored so: its GGUF"
            f' files would be compared with nothing -> add {{ of = "{name}", mode = "auto" }} to evaluate.arms and run'
            " distill run, or leave --score out"
        )
    if kinds:
        require_packages((*CONVERTERS, *(RUNTIME if is_scored else ())))


def planned_files(student: TrainedStudent, formats: Sequence[str]) -> list[PlannedFile]:
    """The files that `write_folder` would write, with their sizes."""
    fs, files = student.run_dir.fs, student.files
    kept = files if SAFETENSORS in formats else {}
    found = [PlannedFile(name, float(fs.info(path)["size"])) for name, path in sorted(kept.items())]
    found += [PlannedFile(file.name, float(file.stat().st_size)) for file in base_notices(student)]
    weights = sum(float(fs.info(path)["size"]) for name, path in files.items() if name.endswith(".safetensors"))
    made = modelfiles(student, formats)
    for kind in gguf_types(tuple(formats)):
        # Two bytes a weight: students are stored in bf16; the tokenizer and rows of other types are not counted.
        found.append(PlannedFile(gguf_name(student.name, kind), weights / 2 * kind.bits / 8, is_estimated=True))
    found += [PlannedFile(name, len(one.text.encode())) for name, one in made.items()]
    found.append(PlannedFile(MIX, len(mix_json(student.arms).encode())))
    lost = {name: one.lost for name, one in made.items()}
    card = publish_card(student, {one.name: int(one.size) for one in found}, (), lost)
    return [*found, PlannedFile(CARD, len(card.encode()), is_estimated=True)]


def write_folder(
    student: TrainedStudent,
    formats: Sequence[str],
    target: Path,
    console: Console,
    *,
    is_scored: bool = False,
    is_calibrated: bool = False,
) -> dict[str, int]:
    """Write the folder; returns the sizes of its files.

    Args:
        student: what is published.
        formats: of its weights.
        target: the folder, which is new.
        console: for what is told on the way.
        is_scored: its GGUF files are asked the run's benchmarks.
        is_calibrated: those below eight bits are calibrated on the traces of its arms, where the run has them.

    Raises:
        InputError: the folder exists, cannot be written, or a format cannot be made of the student.
    """
    refuse_existing(target)
    with atomic_folder(target) as folder:
        kept = folder if SAFETENSORS in formats else folder / ".model"
        copy_model(student, kept)
        for notice in base_notices(student):
            shutil.copyfile(notice, folder / notice.name)
        ggufs = _write_ggufs(student, formats, kept, folder, console, is_calibrated=is_calibrated)
        if is_scored:
            for file in ggufs:
                score_quantised(student, file, console)
        shutil.rmtree(folder / ".model", ignore_errors=True)
        made = modelfiles(student, formats)
        for name, one in made.items():
            (folder / name).write_text(one.text, encoding="utf-8")
        (folder / MIX).write_text(mix_json(student.arms), encoding="utf-8")
        lost = {name: one.lost for name, one in made.items()}
        (folder / CARD).write_text(publish_card(student, sizes(folder), ggufs, lost), encoding="utf-8")
        return sizes(folder)


def folder_key(student: TrainedStudent, formats: Sequence[str], *, is_scored: bool, is_calibrated: bool = False) -> str:
    """Hash of all that decides what `write_folder` writes, but for the scores that it asks for itself."""
    notices = [(file.name, content_digest(file)) for file in base_notices(student)]
    made_by = [student.recipe.model_dump(mode="json"), asdict(student.manifest), student.cell.name, student.arms]
    how = (list(formats), is_scored, is_calibrated)
    return content_hash("publish", made_by, student.scores(), student.sources, notices, *how)


def copy_model(student: TrainedStudent, folder: Path) -> None:
    """Copy the merged student. Its chat template writes the date that it was trained with, where it writes one."""
    folder.mkdir(exist_ok=True)
    for name, path in student.files.items():
        student.run_dir.fs.get_file(path, str(folder / name))
    template = student.tokenizer.chat_template
    if template != unchanged_tokenizer(str(folder)).chat_template:
        (folder / TEMPLATE).write_text(template, encoding="utf-8")
    set_ends(folder / GENERATION_CONFIG, end_of_turn(student.tokenizer)[-1])


def base_folder(student: TrainedStudent) -> Path | None:
    """The base model's folder, if it is on this machine and whole."""
    known = student.model_folders.get(student.cell.student.model)
    return Path(known) if known and is_usable(Path(known)) else None


def base_notices(student: TrainedStudent) -> list[Path]:
    """The files with the base model's licence, where they are on this machine; without its card."""
    folder = student.model_folders.get(student.cell.student.model)
    if folder is None or not Path(folder).is_dir():
        return []
    return [file for file in notice_files(Path(folder)) if file.name != CARD]


def set_ends(path: Path, end: int) -> None:
    """Have generation end where the student was taught to end, before any other end that the file names."""
    settings = json.loads(path.read_text()) if path.is_file() else {}
    known = settings.get("eos_token_id")
    ends = [] if known is None else [known] if isinstance(known, int) else list(known)
    if ends[:1] != [end]:
        settings["eos_token_id"] = [end, *(one for one in ends if one != end)]
        path.write_text(json.dumps(settings, indent=2))


def _write_ggufs(
    student: TrainedStudent,
    formats: Sequence[str],
    model: Path,
    target: Path,
    console: Console,
    *,
    is_calibrated: bool,
) -> list[GgufFile]:
    kinds = gguf_types(tuple(formats))
    if not kinds:
        return []
    coarse = [kind.name for kind in kinds if kind.is_coarse]
    calibration = calibration_of(student) if coarse and is_calibrated else None
    if calibration:
        console.print(f"  [dim]calibrating {', '.join(coarse)} on {calibration.words} ...[/]", highlight=False)
    elif coarse and is_calibrated:
        arms = ", ".join(one.mix for one in student.cell.lineage)
        console.print(f"  note: {', '.join(coarse)} not calibrated: the run has no traces of {arms}", markup=False)
    console.print(f"  [dim]converting to GGUF: {', '.join(kind.name for kind in kinds)} ...[/]")
    files = write_gguf(
        *(model, student.tokenizer, student.name),
        kinds=kinds,
        target=target,
        base=base_folder(student),
        calibration=calibration,
    )
    for file in files:
        if file.is_base:
            console.print(f"  warning: {file.path.name} {kept_words(file)}", highlight=False, markup=False)
        if file.uncalibrated:
            console.print(f"  note: {file.path.name} {calibration_words(file)}", highlight=False, markup=False)
    return files


def calibration_of(student: TrainedStudent) -> Calibration | None:
    """Rows of the arms that the student was trained on; None where the run's folder has none."""
    recipe, cell = student.recipe, student.cell
    arms = tuple(dict.fromkeys(one.mix for one in cell.lineage))
    how = {"max_length": recipe.train.max_length, "seed": cell.seed}
    return calibration_rows(student.run_dir, arms, student.tokenizer, **how)


def modelfiles(student: TrainedStudent, formats: Sequence[str]) -> Mapping[str, Modelfile]:
    """Name -> Modelfile, one per mode, the default's first; none without a GGUF file. They name the first of these."""
    kinds = gguf_types(tuple(formats))
    if not kinds:
        return {}
    tokenizer, gguf = student.tokenizer, gguf_name(student.name, kinds[0])
    sampling, longest = student.recipe.evaluate.sampling, student.recipe.serve.engine.max_model_len
    return {
        MODELFILE + (f".{mode}" if number else ""): modelfile(tokenizer, gguf, chat, sampling, longest, mode)
        for number, (mode, chat) in enumerate(student.modes.items())
    }


def warnings(student: TrainedStudent, made: Mapping[str, Modelfile], formats: Sequence[str] = ()) -> list[str]:
    """What whoever publishes has to know. `made`: the Modelfiles; `formats`: those that are written."""
    base = student.sources[0]
    found = [f"{name} cannot say: {what}" for name, one in made.items() for what in one.lost]
    if not base.licences:
        found.append(
            f"the licence of the base model {base.name} is not recorded: read it first, and state it in"
            f" `models.{student.cell.student.model}.licence` of the recipe"
        )
    few_bits = [kind.name for kind in gguf_types(tuple(formats)) if kind.is_coarse]
    if few_bits and student.base_file:
        found.append(
            f"{', '.join(few_bits)}: the base model's weights come from a quantised file ({student.base_file}), and"
            " rounding to as few bits again may lose all that training changed: --score tells"
        )
    return [*found, *obligations(student.sources)]


def show_files(files: Sequence[PlannedFile], console: Console) -> None:
    """Print the list of files."""
    width = max(len(one.name) for one in files)
    for one in files:
        about = "about " if one.is_estimated else ""
        console.print(f"  {one.name:<{width}}  {about}{megabytes(one.size)}", highlight=False, markup=False)
    total = megabytes(sum(one.size for one in files))
    console.print(f"{len(files)} files, about {total}", highlight=False)
