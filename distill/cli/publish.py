"""`distill publish`: a trained student as a folder or a repository of the model hub."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from distill.core.manifest import now
from distill.core.progress_bars import quiet
from distill.core.run_dir import RunDir, StageName, log_path
from distill.core.run_lock import run_lock
from distill.mix.export.write import refuse_existing
from distill.ops.publish.push import HUB, push, repository, staging
from distill.ops.publish.student import TrainedStudent, find_student
from distill.ops.publish.write import (
    check,
    folder_key,
    modelfiles,
    planned_files,
    show_files,
    warnings,
    write_folder,
)
from distill.report.build import build_report
from distill.report.stored import made_by
from distill.report.write import write_report
from distill.run.run_recipe import load_run_recipe


def publish(
    run_dir: RunDir, model: str, to: str, formats: Sequence[str], *, dry_run: bool, score: bool, calibrate: bool
) -> int:
    """Write the folder, or list its files; returns the exit code."""
    recipe = load_run_recipe(run_dir)
    student = find_student(recipe, run_dir, model)
    target = to or f"published/{student.name}"
    repo = repository(target) if target.startswith(HUB) else ""
    check(student, formats, is_scored=score and not dry_run)
    if not repo:
        refuse_existing(Path(target))
    shown = Console(highlight=False, soft_wrap=True)
    for line in warnings(student, modelfiles(student, formats), formats):
        shown.print(f"note: {line}", markup=False)
    if dry_run:
        show_files(planned_files(student, formats), shown)
        return 0
    how = {"score": score, "calibrate": calibrate}
    where = _push(student, repo, formats, **how) if repo else _write(student, Path(target), formats, **how)
    shown.print(where, markup=False)
    return 0


def _write(student: TrainedStudent, target: Path, formats: Sequence[str], *, score: bool, calibrate: bool) -> str:
    if not score:
        with quiet(log_path(student.run_dir)) as console:
            files = write_folder(student, formats, target, console, is_calibrated=calibrate)
        return f"{len(files)} files in {target}"
    with run_lock(student.run_dir), quiet(log_path(student.run_dir)) as console:
        files = write_folder(student, formats, target, console, is_scored=True, is_calibrated=calibrate)
        refresh_report(student)
    return f"{len(files)} files in {target}; what quantisation cost is in its card and in the run's report"


def _push(student: TrainedStudent, repo: str, formats: Sequence[str], *, score: bool, calibrate: bool) -> str:
    from huggingface_hub import HfApi  # start time: only a push needs it

    folder = staging(repo, folder_key(student, formats, is_scored=score, is_calibrated=calibrate))
    how = {"score": score, "calibrate": calibrate}
    return push(repo, folder, lambda target: _write(student, target, formats, **how), HfApi())


def refresh_report(student: TrainedStudent) -> None:
    """Write a finished run's report again, with what was scored since."""
    manifest = student.run_dir.read_manifest(StageName.REPORT)
    if manifest is None:
        return
    write_report(build_report(student.recipe, student.run_dir), student.run_dir)
    details = {**manifest.details, **made_by()}
    student.run_dir.write_manifest(replace(manifest, finished_at=now(), details=details), StageName.REPORT)
