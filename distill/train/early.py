"""Training beside the teachers: the first steps of every cell, as soon as the first prompts are settled.

What it is trained on is in `distill.train.early_rows`; the train stage continues from the checkpoints.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from cluster.nodes import free_nodes
from cluster.placement import misfits
from distill.core.errors import DistillError
from distill.core.metrics import publish
from distill.core.progress_bars import Bars, bars
from distill.generate.survey import are_settled
from distill.run.context import Run
from distill.train.budget import early_steps
from distill.train.cell_queue import Progress, cell_jobs, train_all, train_values
from distill.train.cells import CellWork, cells
from distill.train.early_rows import EARLY, early_part
from distill.train.plan import mixed_data
from distill.train.stage import cell_key, planned
from distill.train.worker.checkpoint import Checkpoints

POLL_S = 5.0
SURVEY_SHARE = 0.05
"""Most of the time that may go into looking whether the first prompts are settled."""


@contextmanager
def early_training(current: Run) -> Iterator["EarlyTraining | None"]:
    """The first steps of the cells beside the block; none where the recipe does not ask for them."""
    num_prompts = current.recipe.train.early_prompts
    if num_prompts is None:
        yield None
        return
    early = EarlyTraining(current, num_prompts)
    try:
        yield early
    finally:
        early.finish()


class EarlyTraining:
    """The first steps of the cells, in a thread beside the teachers."""

    def __init__(self, current: Run, num_prompts: int) -> None:
        self.current, self.num_prompts = current, num_prompts
        self.is_over = threading.Event()
        """Set when the teachers are done: no further cell begins early."""
        self.latest: dict[str, Progress] = {}
        self.thread = threading.Thread(target=self._work, daemon=True)

    def show(self, shown: Bars) -> None:
        """Draw how far the cells are; begin the work at the first call: by then the cluster is connected."""
        if not self.thread.ident:
            self.thread.start()
        for progress in list(self.latest.values()):
            shown.update(f"{progress.cell}, early", progress.step, progress.num_steps or 1, progress.note)
            publish(self.current.recipe.name, train_values(progress))

    def finish(self) -> None:
        """Wait for the cells that have begun."""
        self.is_over.set()
        if not self.thread.is_alive():
            return
        with bars(self.current.console) as shown:
            while self.thread.is_alive():
                self.show(shown)
                self.thread.join(1.0)

    def _work(self) -> None:
        try:
            if self._wait_until_settled() and early_part(self.current):
                self._train()
        except (DistillError, OSError) as error:
            self.current.console.print(f"  training has not begun early: {error}", markup=False)

    def _wait_until_settled(self) -> bool:
        pause = POLL_S
        while not self.is_over.wait(pause):
            started = time.monotonic()
            if are_settled(self.current, self.num_prompts):
                return True
            pause = max(POLL_S, (time.monotonic() - started) / SURVEY_SHARE)
        return False

    def _train(self) -> None:
        current, device = self.current, self.current.session.device
        works = planned(current, list(self._open_works()), mixed_data(current.run_dir, EARLY))
        while works and not self.is_over.is_set():
            nodes = free_nodes()
            jobs = cell_jobs(works, run_dir=current.run_dir, device=device, nodes=nodes, at_once=len(works))
            too_large = {job.name for job in misfits(jobs, nodes)}
            if fitting := [work for work in works if work.cell.name not in too_large]:
                train_all(
                    fitting,
                    train=current.recipe.train,
                    run_dir=current.run_dir,
                    device=device,
                    report_progress=lambda cell: self.latest.update({cell.cell: cell}),
                    nodes=nodes,
                    goes_on=lambda: not self.is_over.is_set(),
                )
                works = [work for work in works if work not in fitting]
            else:
                self.is_over.wait(POLL_S)  # teachers hold every machine that would do

    def _open_works(self) -> Iterator[CellWork]:
        """The cells that have not taken all of their first steps."""
        current = self.current
        for cell in cells(current.recipe):
            shard = current.run_dir.path(EARLY, f"{cell.mix}.parquet")
            model = current.models[cell.student.model].place
            work = CellWork(cell, model, (shard,), cell_key(cell, current, EARLY), early_shards=(shard,), is_early=True)
            last = early_steps(current.recipe.train, current.run_dir.num_rows(EARLY, f"{cell.mix}.parquet"))
            if max(Checkpoints(current.run_dir, cell.name, work.key).complete_steps(), default=0) < last:
                yield work
