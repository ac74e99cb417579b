"""The rows that every cell takes first where the recipe lets training begin early (`train.early_prompts`).

    first prompts, settled -> their verdicts -> their arms: early/MIX.parquet

Which rows these are, and that every cell takes them first, follows from the recipe and the traces alone. A cell that
begins late, or only after generation, takes the same rows in the same order: the clock changes no student.
"""

import json

from distill.core.errors import StageError
from distill.core.run_dir import Manifest, RunDir, now
from distill.core.schema import IndexRow, content_hash
from distill.generate.traces import read_index
from distill.mix.stage import choose_arms
from distill.mix.trace_fates import Whereabouts
from distill.mix.write_arms import write_arms
from distill.run.context import Run
from distill.run.stage_keys import stage_states
from distill.train.cells import Cell
from distill.train.worker.checkpoint import Checkpoints

EARLY = "early"


def early_part(current: Run) -> Manifest | None:
    """The arms of the first prompts, written unless they are there; None if the recipe wants none or they have no row.

    Their prompts must be settled.
    """
    num_prompts = current.recipe.train.early_prompts
    if num_prompts is None:
        return None
    states = stage_states(current.recipe, current.base, current.run_dir)
    key = content_hash(EARLY, states["mix"].key, num_prompts)
    manifest = current.run_dir.read_manifest(EARLY)
    if manifest is None or manifest.key != key:
        manifest = _write_part(current, key, num_prompts)
    return manifest if manifest.rows_out else None


def _write_part(current: Run, key: str, num_prompts: int) -> Manifest:
    run_dir = current.run_dir
    ids = {prompt.prompt_id for prompt in current.prompts()[:num_prompts]}
    rows = [
        row
        for pool in current.pools
        for row in read_index(run_dir, pool)
        if row.prompt_id in ids and row.sample_index < pool.teacher.num_samples
    ]
    run_dir.write_rows(rows, IndexRow, EARLY, "verdicts.parquet")
    try:
        chosen = choose_arms(current, (EARLY, "verdicts.parquet"))
    except StageError as error:
        manifest = Manifest(EARLY, key, rows_in=len(ids), drops={"no arm": len(ids)}, details={"why": str(error)})
    else:
        folders = [pool.folder for pool in current.pools]
        write_arms(run_dir, folders, chosen.arms, current.recipe.student_chat, Whereabouts(), EARLY)
        common = len(chosen.arms.candidates)
        details = {"mixes": chosen.details(current.recipe.mixes)}
        drops = {"not common to all pools": len(ids) - common}
        manifest = Manifest(EARLY, key, len(ids), common, drops, finished_at=now(), details=details)
    run_dir.write_manifest(manifest, EARLY)
    return manifest


def take_over(run_dir: RunDir, cell: Cell, *, key: str, early_key: str) -> None:
    """Let a cell continue from the checkpoints of its first steps."""
    path = run_dir.path("train", cell.name, "key.json")
    if run_dir.fs.exists(path) and json.loads(run_dir.fs.cat_file(path)) == early_key:
        Checkpoints(run_dir, cell.name, key).adopt(early_key)
        run_dir.write_bytes(json.dumps(key).encode(), "train", cell.name, "key.json")
