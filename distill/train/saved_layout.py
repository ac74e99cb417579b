"""Layouts on disk: checkpoints can only be continued with the layout that wrote them."""

from __future__ import annotations

import json
from dataclasses import asdict, replace

from distill.core.run_dir import RunDir, Training
from distill.train.cells import CellWork
from distill.train.layout import Layout
from distill.train.worker.checkpoint import Checkpoints

SAVED_LAYOUT = "layout.json"


def has_checkpoint(work: CellWork, run_dir: RunDir) -> bool:
    """Whether the cell would continue rather than start from the beginning."""
    return bool(Checkpoints(run_dir, work.cell.name, work.key).complete_steps())


def save_layout(work: CellWork, run_dir: RunDir) -> None:
    """Write down how a cell is laid out, for the attempt that continues it."""
    record = {"layout": asdict(work.resolved_layout), "num_workers": work.resolved_workers}
    run_dir.write_bytes(json.dumps(record).encode(), *Training(work.cell.name).file(SAVED_LAYOUT))


def with_saved_layout(work: CellWork, run_dir: RunDir) -> CellWork:
    """The cell with the layout of the attempt whose checkpoints it continues, if there is one."""
    data = run_dir.read_bytes(*Training(work.cell.name).file(SAVED_LAYOUT))
    if not has_checkpoint(work, run_dir) or data is None:
        return work
    record = json.loads(data)
    return replace(work, layout=Layout(**record["layout"]), num_workers=record["num_workers"])
