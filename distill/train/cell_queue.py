"""The queue of cells: several are trained or merged at once, each from when its whole placement group fits.

A cell that starts from another's weights waits until that one is done; the others go on. Which cell starts next is
scheduled anew whenever one ends (`cluster.schedule`). A cell's failure, retry or lack of memory only affects those that
start from it; failures are reported together at the end.

A cell that starts while no other waits may borrow free workers. Ray Train's own elastic groups are not used for that:
they take what is free without this queue, and ZeRO's checkpoints can only be read by as many workers as wrote them.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from cluster.autoscaling import Demand
from cluster.nodes import nodes_by_id
from cluster.placement import (
    Job,
    Placement,
    Resources,
    Running,
    admit,
    find_placement,
    free_resources,
    infeasible_jobs,
    placeable_jobs,
    ready_jobs,
)
from cluster.schedule import best_order, with_chains
from cluster.session import is_joined
from cluster.storage import local_folder
from cluster.vllm_args import weight_bytes
from distill.core.errors import DistillError, StageError
from distill.core.events import log_event
from distill.core.manifest import Manifest
from distill.core.metrics import Value
from distill.core.run_dir import RunDir, StageName, Training
from distill.train.cells import CellWork, num_at_once
from distill.train.layout import Device, threads_per_worker, worker_resources
from distill.train.merge_students import merge_cell
from distill.train.saved_layout import has_checkpoint, with_saved_layout
from distill.train.train_cell import train_cell
from distill.train.worker.metrics import read_metrics

if TYPE_CHECKING:
    from distill.config.train import TrainConfig

POLL_S = 1.0


@dataclass(frozen=True)
class Progress:
    """Progress of a cell. `phase`: waiting for nodes, starting, training, saving, done, failed."""

    cell: str
    phase: str
    step: int = 0
    num_steps: int = 0
    loss: float | None = None
    tokens_per_s: float | None = None

    @property
    def message(self) -> str:
        """Text beside a progress bar."""
        parts = [self.phase]
        parts += [f"loss {self.loss:.3f}"] if self.loss is not None else []
        parts += [f"{self.tokens_per_s:,.0f} tokens/s"] if self.tokens_per_s is not None else []
        return ", ".join(parts)


def train_all(
    works: Sequence[CellWork],
    *,
    train: TrainConfig,
    run_dir: RunDir,
    device: Device,
    report_progress: Callable[[Progress], None] = lambda progress: None,
    nodes: Sequence[Resources] | None = None,
    deadline_s: float = 0.0,
) -> list[Manifest]:
    """Train or merge all cells, as many at once as fit, parents first; their manifests, one for each cell.

    A cell whose node has left waits for another one: as long as others run, and then up to the deadline.

    Args:
        works: the cells.
        train: the recipe's section.
        run_dir: where they are written.
        device: what they are trained on.
        report_progress: called when a cell has advanced.
        nodes: the nodes to fill; the connected cluster's by default.
        deadline_s: how long cells that fit no node are waited for while nothing runs, seconds. Only a cluster that was
            joined can get other nodes.

    Raises:
        StageError: Some cells failed, or no node came that holds them; raised after all others have finished, naming
            each with its cause and log.
    """
    known = nodes_by_id() if nodes is None else {str(index): node for index, node in enumerate(nodes)}
    _set_ray_train_defaults(len(known))
    queue = _CellQueue(works, train=train, run_dir=run_dir, device=device, nodes=known)
    queue.refuse_unplaceable()
    demand, may_grow, idle_since = Demand(), nodes is None and is_joined(), time.monotonic()
    wait_s = deadline_s if may_grow else 0.0
    while queue.start_next() or queue.waiting:
        if queue.running:
            idle_since = time.monotonic()
        elif time.monotonic() - idle_since >= wait_s:
            queue.give_up_waiting(wait_s)
        queue.wait()
        if may_grow:
            queue.update_nodes(nodes_by_id())
            demand.request_for(queue.next_job)
        for progress in queue.progress():
            report_progress(progress)
    queue.raise_failures()
    return [queue.finished[work.cell.name] for work in works]


MERGE = Resources(1.0)
"""What merging students takes: it goes tensor by tensor."""


def cell_jobs(
    works: Sequence[CellWork], *, run_dir: RunDir, device: Device, nodes: Sequence[Resources], at_once: int
) -> list[Job]:
    """Resources and cost of each cell, and what it waits for. Cells that share CPUs get equally many threads."""
    jobs = []
    for work in works:
        parents = tuple(parent.name for parent in work.cell.parents)
        if work.cell.merge:
            jobs.append(Job(work.cell.name, MERGE, priority=work.cell.student.priority, waits_for=parents))
            continue
        memory = _counted_memory(work, device, nodes)
        threads = threads_per_worker(work.resolved_workers, at_once, nodes, memory)
        worker = worker_resources(device, threads, work.cell.student.gpu)._replace(memory_gib=memory)
        cost = (_bytes(work, run_dir) if work.cost is None else work.cost) / work.resolved_workers
        jobs.append(Job(work.cell.name, worker, work.resolved_workers, cost, work.cell.student.priority, parents))
    return with_chains(jobs)


def _counted_memory(work: CellWork, device: Device, nodes: Sequence[Resources]) -> float:
    """GiB of one worker; 0 on GPUs and where a node's memory is not known."""
    is_known = device == "cpu" and all(node.memory_gib for node in nodes)
    return work.resolved_layout.memory_gib if is_known else 0.0


GONE = Resources(0.0)
"""In the place of a node that has left the cluster."""


class _CellQueue:
    """Waiting, running and finished cells. Each runs in a thread of its own, which only waits for Ray."""

    def __init__(
        self, works: Sequence[CellWork], *, train: TrainConfig, run_dir: RunDir, device: Device,
        nodes: Mapping[str, Resources],
    ) -> None:  # fmt: skip
        self.train, self.run_dir, self.device = train, run_dir, device
        self._nodes = dict(nodes)
        self.works = {work.cell.name: with_saved_layout(work, run_dir) for work in works}
        self.at_once = num_at_once([work.cell for work in works], train.max_parallel_cells)
        jobs = cell_jobs(
            list(self.works.values()), run_dir=run_dir, device=device, nodes=self.nodes, at_once=self.at_once
        )
        self.waiting = {job.name: job for job in jobs}
        self.running: dict[str, tuple[Placement, Future[Manifest]]] = {}
        self.finished: dict[str, Manifest] = {}
        self.failed: dict[str, DistillError | OSError] = {}
        self._reported: dict[str, Progress] = {}
        self._has_changed = True

    @property
    def nodes(self) -> tuple[Resources, ...]:
        """The nodes to fill. One that has left stays, empty: placements refer to nodes by their index."""
        return tuple(self._nodes.values())

    @property
    def next_job(self) -> Job | None:
        """The first cell that waits for a node: what another one would be used for."""
        return next(iter(self._ready()), None)

    def _ready(self) -> list[Job]:
        """The waiting cells whose parents are done."""
        return ready_jobs(list(self.waiting.values()), [placement for placement, _ in self.running.values()])

    def update_nodes(self, nodes: Mapping[str, Resources]) -> None:
        """Take over the cluster's present nodes. Ray Train itself moves the cells of lost ones."""
        found = {**dict.fromkeys(self._nodes, GONE), **nodes}
        if found != self._nodes:
            self._nodes, self._has_changed = found, True

    def refuse_unplaceable(self) -> None:
        """Raise where a cell could not start even on an idle cluster."""
        found = infeasible_jobs(self.waiting.values(), self.nodes)
        if found:
            needs = "; ".join(f"{job.name} needs {_need(job)}" for job in found)
            remedies = ", and ".join(dict.fromkeys(self._remedy(job) for job in found))
            raise StageError(f"these cells do not fit the cluster ({self._has}): {needs} -> {remedies}")

    def _remedy(self, job: Job) -> str:
        """What lets a cell run on the nodes that are there. A checkpoint can only be read by as many workers as wrote
        it."""
        work, lower = self.works[job.name], "lower students.num_workers"
        if work.cell.merge or not has_checkpoint(work, self.run_dir):
            return lower
        folder = self.run_dir.path(*Training(job.name).checkpoints)
        own = work.cell.student.num_workers
        fewer = f"the {own} of students.num_workers" if own < job.num_workers else "fewer"
        further = "" if own < job.num_workers else f", and {lower}"
        return f"delete {folder}, which {job.num_workers} workers wrote, to have it trained anew by {fewer}{further}"

    @property
    def _has(self) -> str:
        """The nodes that are there, in words."""
        return ", ".join(str(node) for node in self.nodes if node != GONE) or "no nodes"

    def give_up_waiting(self, waited_s: float) -> None:
        """Fail the waiting cells: nothing runs, and no node holds any that could start."""
        for job in list(self._ready()):
            why = f"needs {_need(job)}, and after {waited_s:g} s without a running cell the cluster has {self._has}"
            remedy = f"bring nodes that hold it, raise generate.startup_deadline_s, or {self._remedy(job)}"
            del self.waiting[job.name]
            self._fail(job.name, StageError(f"{job.name}: {why} -> {remedy}"))

    def start_next(self) -> bool:
        """Start what fits, if a cell has ended or the nodes have changed since; whether anything runs."""
        if self._has_changed:
            self._has_changed = False
            placements = self._admitted()
            for placement in self._with_borrowed_workers(placements):
                name = placement.job.name
                del self.waiting[name]
                self._log("cell begins", name, workers=placement.job.num_workers, worker=str(placement.job.worker))
                self.running[name] = (placement, _in_background(partial(self._run, name, placement)))
        return bool(self.running)

    def _admitted(self) -> Sequence[Placement]:
        busy = [Running(placement, self._remaining(placement.job)) for placement, _ in self.running.values()]
        most = self.train.max_parallel_cells
        order = best_order(placeable_jobs(list(self.waiting.values()), self.nodes), busy, self.nodes, most)
        return admit(order, busy, self.nodes, most)

    def _remaining(self, job: Job) -> float:
        """The part of a running cell's cost that is left, by its steps."""
        lines = read_metrics(self.run_dir, job.name)
        return job.cost * (1 - lines[-1].step / lines[-1].num_steps) if lines else job.cost

    def _with_borrowed_workers(self, placements: Sequence[Placement]) -> list[Placement]:
        """The same, with more workers where no other cell waits for them and the student may have them."""
        widened = list(placements)
        if len(placements) < len(self._ready()):
            return widened
        running = [placement for placement, _ in self.running.values()]
        for index, placement in enumerate(placements):
            others = [*running, *widened[:index], *widened[index + 1 :]]
            widened[index] = self._widened(placement, free_resources(self.nodes, others))
        return widened

    def _widened(self, placement: Placement, free: Sequence[Resources]) -> Placement:
        job = placement.job
        max_workers = self.works[job.name].cell.student.max_workers or 0
        if self.works[job.name].cell.merge or has_checkpoint(self.works[job.name], self.run_dir):
            return placement  # its optimiser's state is partitioned over the workers that wrote it
        for count in range(max_workers, job.num_workers, -1):
            wider = find_placement(job._replace(num_workers=count), free)
            if wider is not None and self.train.batch_size % count == 0:
                return wider
        return placement

    def _run(self, name: str, placement: Placement) -> Manifest:
        if self.works[name].cell.merge:
            return merge_cell(self.works[name], train=self.train, run_dir=self.run_dir)
        work = replace(self.works[name], num_workers=placement.job.num_workers)
        memory = _counted_memory(work, self.device, self.nodes)
        threads = threads_per_worker(work.resolved_workers, self.at_once, self.nodes, memory)
        train = work.cell.budget(self.train)
        return train_cell(work, train=train, run_dir=self.run_dir, device=self.device, threads=threads)

    def wait(self) -> None:
        """Wait until a cell ends, or for one polling interval."""
        if not self.running and self.waiting:
            time.sleep(POLL_S)
        wait([future for _, future in self.running.values()], timeout=POLL_S, return_when=FIRST_COMPLETED)

    def progress(self) -> list[Progress]:
        """Progress that is new since the last call. Ended cells are removed from the running ones."""
        current = [self._progress_of(name, future) for name, (_, future) in list(self.running.items())]
        if not self.running:
            current += [Progress(job.name, "waiting for nodes") for job in infeasible_jobs(self._ready(), self.nodes)]
        fresh = [progress for progress in current if self._reported.get(progress.cell) != progress]
        self._reported.update({progress.cell: progress for progress in fresh})
        return fresh

    def _progress_of(self, name: str, future: Future[Manifest]) -> Progress:
        lines = read_metrics(self.run_dir, name)
        phase = "starting" if not lines else "saving" if lines[-1].step == lines[-1].num_steps else "training"
        if future.done():
            phase = self._end(name, future)
        if not lines:
            return Progress(name, phase)
        recent = lines[-10:]
        speed = sum(line.tokens for line in recent) / max(1e-9, sum(line.seconds for line in recent))
        return Progress(name, phase, lines[-1].step, lines[-1].num_steps, lines[-1].loss, round(speed))

    def _end(self, name: str, future: Future[Manifest]) -> str:
        del self.running[name]
        self._has_changed = True
        try:
            self.finished[name] = future.result()
        except (DistillError, OSError) as error:
            self._fail(name, error)
            return "failed"
        self._log("cell ends", name, wall_s=self.finished[name].wall_s)
        return "done"

    def _fail(self, name: str, error: DistillError | OSError) -> None:
        """Record a failed cell; those that wait for it can never start."""
        self.failed[name] = error
        self._log("cell fails", name, error=str(error))
        for job in [job for job in self.waiting.values() if name in job.waits_for]:
            if self.waiting.pop(job.name, None):
                self._fail(job.name, StageError(f"{job.name}: starts from {name}, which failed"))

    def _log(self, event: str, cell: str, **about: Any) -> None:
        log_event(event, run=self.run_dir.address, stage=StageName.TRAIN, cell=cell, **about)

    def raise_failures(self) -> None:
        """One error for all failed cells."""
        if self.failed:
            causes = "\n".join(f"  {_with_name(name, self.failed[name])}" for name in self.works if name in self.failed)
            raise StageError(
                f"{len(self.failed)} of {len(self.works)} cells failed; the others are finished and on disk. "
                f"The same command retries the failed ones from their last checkpoints.\n{causes}"
            )


def _need(job: Job) -> str:
    return f"{job.num_workers} x ({job.worker})"


def _with_name(name: str, error: DistillError | OSError) -> str:
    text = str(error)
    return text if text.startswith(name) else f"{name}: {text}"


def _bytes(work: CellWork, run_dir: RunDir) -> float:
    """Bytes of weights times bytes of rows: enough to order cells by their cost."""
    rows = sum(float(run_dir.fs.size(shard)) for shard in work.shards)
    return weight_bytes(local_folder(work.model_path)) * rows


def _in_background(call: Callable[[], Manifest]) -> Future[Manifest]:
    """Like an executor's submit, but Ctrl-C does not wait for the thread."""
    future: Future[Manifest] = Future()

    def run() -> None:
        try:
            future.set_result(call())
        except BaseException as error:  # noqa: BLE001 - not swallowed: result() raises it in the main thread
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def _set_ray_train_defaults(num_nodes: int) -> None:
    """Set Ray Train up for small cells, unless the user has: its defaults poll workers every 2 s, and start a process
    per cell that watches for preempted nodes."""
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.25")
    if num_nodes == 1:
        os.environ.setdefault("RAY_TRAIN_ENABLE_PREEMPTION_WATCHER", "0")


def train_values(progress: Progress) -> Iterator[Value]:
    """A cell's progress as metrics."""
    labels = {"cell": progress.cell}
    yield Value("distill_cell_step", progress.step, labels)
    yield Value("distill_cell_num_steps", progress.num_steps, labels)
    if progress.loss is not None:
        yield Value("distill_cell_loss", progress.loss, labels)
    if progress.tokens_per_s is not None:
        yield Value("distill_cell_tokens_per_second", progress.tokens_per_s, labels)
