"""The queue of cells: order, refusals, borrowed workers, without Ray."""

import threading
from collections.abc import Callable
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from cluster.placement import Job, Resources
from distill.config.load import parse_recipe
from distill.config.mix import MergeConfig
from distill.config.students import StudentConfig
from distill.config.train import TrainConfig
from distill.core.errors import StageError
from distill.core.manifest import Manifest
from distill.core.run_dir import RunDir
from distill.train import cell_queue, stage
from distill.train.cell_queue import Progress, train_all
from distill.train.cells import Cell, CellWork
from distill.train.layout import Layout, threads_per_worker
from distill.train.saved_layout import save_layout, with_saved_layout
from distill.train.train_cell import train_cell
from distill.train.worker.checkpoint import Checkpoints
from tests.fixtures.recipes import GOOD


def works(run_dir: RunDir, *names: str, **student: Any) -> list[CellWork]:
    run_dir.write_bytes(b"rows", "rows.parquet")
    config = StudentConfig(name="s", model="m", **student)
    return [
        CellWork(Cell(name, config, "mix", 0), "nowhere", (run_dir.path("rows.parquet"),), key=name) for name in names
    ]


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replaces training by a record of its order; a cell named `bad...` fails."""
    order: list[str] = []

    def fake(work: CellWork, **_: Any) -> Manifest:
        order.append(work.cell.name)
        if work.cell.name.startswith("bad"):
            raise StageError(f"{work.cell.name}: no luck; log: somewhere")
        return Manifest(stage="train", key=work.key)

    monkeypatch.setattr(cell_queue, "train_cell", fake)
    return order


def train_on_cpus(run_dir: RunDir, items: list[CellWork], report: Callable[[Progress], None] = print) -> list[Manifest]:
    nodes = (Resources(cpus=2),)
    return train_all(items, train=TrainConfig(), run_dir=run_dir, device="cpu", report_progress=report, nodes=nodes)


def test_manifests_come_back_in_the_order_of_the_cells(run_dir: RunDir, trained: list[str]) -> None:
    assert [manifest.key for manifest in train_on_cpus(run_dir, works(run_dir, "c", "a", "b"))] == ["c", "a", "b"]
    assert sorted(trained) == ["a", "b", "c"]


def test_failed_cells_are_named_together_after_the_others_have_finished(run_dir: RunDir, trained: list[str]) -> None:
    seen: list[Progress] = []
    with pytest.raises(StageError, match=r"2 of 4 cells failed.*\n  bad1: no luck.*\n  bad2: no luck"):
        train_on_cpus(run_dir, works(run_dir, "bad1", "bad2", "x", "y"), seen.append)
    assert sorted(trained) == ["bad1", "bad2", "x", "y"]
    assert {progress.cell: progress.phase for progress in seen} == {
        "bad1": "failed", "bad2": "failed", "x": "done", "y": "done",
    }  # fmt: skip


def after(work: CellWork, *parents: CellWork, **changes: Any) -> CellWork:
    return replace(work, cell=replace(work.cell, parents=tuple(parent.cell for parent in parents), **changes))


def test_a_cell_waits_for_its_parent_while_others_go_on(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    begun, other_began, merged = list[str](), threading.Event(), list[str]()

    def train_cell(work: CellWork, **_: Any) -> Manifest:
        begun.append(work.cell.name)
        if work.cell.name == "other":
            other_began.set()
        if work.cell.name == "parent":
            assert other_began.wait(10), "the other cell does not wait for this one"
        return Manifest("train", work.key)

    def merge_cell(work: CellWork, **_: Any) -> Manifest:
        merged.extend([*begun, work.cell.name])
        return Manifest("train", work.key)

    monkeypatch.setattr(cell_queue, "train_cell", train_cell)
    monkeypatch.setattr(cell_queue, "merge_cell", merge_cell)
    child, parent, other, merge = works(run_dir, "child", "parent", "other", "merge")
    merge = after(merge, parent, other, merge=MergeConfig(name="merge", of=("a", "b")))
    done = train_on_cpus(run_dir, [after(child, merge), parent, other, merge])
    assert [one.key for one in done] == ["child", "parent", "other", "merge"]
    assert sorted(begun[:2]) == ["other", "parent"] and begun[2:] == ["child"]
    assert merged == [*begun[:2], "merge"], "when both of its parents were done, and before its child began"


def test_what_waits_for_a_failed_cell_fails_with_it_and_says_why(run_dir: RunDir, trained: list[str]) -> None:
    bad, child, grandchild, other = works(run_dir, "bad", "child", "grandchild", "other")
    child = after(child, bad)
    with pytest.raises(StageError, match=r"3 of 4 cells failed.*\n  bad: no luck.*\n  child: starts from bad, which"):
        train_on_cpus(run_dir, [bad, child, after(grandchild, child), other])
    assert sorted(trained) == ["bad", "other"]


def test_a_parent_borrows_workers_while_only_its_child_waits(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = WorkerCounts(monkeypatch)
    parent, child = works(run_dir, "parent", "child", max_workers=2)
    train_on_gpus(run_dir, [parent, after(child, parent)])
    assert counts.workers == {"parent": 2, "child": 2}


def test_a_cell_that_could_never_be_placed_is_refused_with_the_resources_of_the_cluster(
    run_dir: RunDir, trained: list[str]
) -> None:
    with pytest.raises(StageError, match=r"do not fit the cluster \(2 CPU\): big needs 3 x \(1 CPU\)"):
        train_on_cpus(run_dir, works(run_dir, "big", num_workers=3))
    assert trained == []


def test_no_cells_is_no_work(run_dir: RunDir) -> None:
    assert train_on_cpus(run_dir, []) == []


def test_a_full_disk_under_one_cell_leaves_the_others_alone(
    run_dir: RunDir, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = cell_queue.train_cell

    def full(work: CellWork, **rest: Any) -> Manifest:
        if work.cell.name == "full":
            raise OSError(28, "No space left on device")
        return usual(work, **rest)

    monkeypatch.setattr(cell_queue, "train_cell", full)
    with pytest.raises(StageError, match=r"1 of 2 cells failed.*\n  full: .*No space left"):
        train_on_cpus(run_dir, works(run_dir, "full", "x"))
    assert trained == ["x"]


class WorkerCounts:
    """Which cells got how many workers, without training them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.workers: dict[str, int] = {}
        monkeypatch.setattr(cell_queue, "train_cell", self.record)

    def record(self, work: CellWork, **_: Any) -> Manifest:
        self.workers[work.cell.name] = work.resolved_workers
        return Manifest(stage="train", key=work.key)


def train_on_gpus(run_dir: RunDir, items: list[CellWork]) -> None:
    nodes = (Resources(cpus=16, gpus=4),)
    train_all(items, train=TrainConfig(batch_size=16), run_dir=run_dir, device="gpu", nodes=nodes)


def test_a_cell_with_an_empty_queue_behind_it_borrows_free_workers(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = WorkerCounts(monkeypatch)
    train_on_gpus(run_dir, works(run_dir, "alone", max_workers=3))
    assert counts.workers == {"alone": 2}, "three workers would not share a batch of 16 equally"
    train_on_gpus(run_dir, works(run_dir, "fixed"))
    assert counts.workers["fixed"] == 1


def test_nothing_is_borrowed_while_another_cell_waits(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    counts = WorkerCounts(monkeypatch)
    train_on_gpus(run_dir, works(run_dir, "a", "b", "c", num_workers=3, max_workers=4))
    assert sorted(counts.workers.values()) == [3, 3, 4], "only the last one has the node for itself"


def test_a_cell_continues_with_the_layout_that_its_checkpoint_was_written_with(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    counts = WorkerCounts(monkeypatch)
    (work,) = works(run_dir, "a", max_workers=4)
    save_layout(replace(work, layout=Layout(zero_stage=2), num_workers=2), run_dir)
    Checkpoints(run_dir, "a", work.key).commit(5)
    train_on_gpus(run_dir, [work])
    assert counts.workers == {"a": 2}
    assert with_saved_layout(work, run_dir).resolved_layout.zero_stage == 2


def test_a_fresh_attempt_writes_down_the_layout_that_it_begins_with(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any) -> None:
        raise StageError("stopped")

    monkeypatch.setattr("distill.train.train_cell._trainer", stopped)
    (work,) = works(run_dir, "a", max_workers=4)
    begun = replace(work, layout=Layout(zero_stage=2), num_workers=2)
    with pytest.raises(StageError, match="stopped"):
        train_cell(begun, train=TrainConfig(), run_dir=run_dir, device="cpu")
    Checkpoints(run_dir, "a", work.key).commit(5)
    assert with_saved_layout(work, run_dir).resolved_workers == 2


def test_the_highest_priority_starts_first(run_dir: RunDir, trained: list[str]) -> None:
    low, high = works(run_dir, "low"), works(run_dir, "high", priority=1)
    train_all(
        [*low, *high],
        train=TrainConfig(max_parallel_cells=1),
        run_dir=run_dir,
        device="cpu",
        nodes=(Resources(cpus=2),),
    )
    assert trained == ["high", "low"]


def test_a_worker_never_has_more_threads_than_a_node() -> None:
    assert threads_per_worker(1, 1, [Resources(cpus=4), Resources(cpus=4)]) == 4
    assert threads_per_worker(2, 3, [Resources(cpus=8)]) == 1
    assert threads_per_worker(2, 1, [Resources(cpus=64), Resources(cpus=2)]) == 32


def test_cells_that_the_memory_does_not_hold_at_once_leave_no_cpu_idle() -> None:
    node = Resources(cpus=2, memory_gib=17.0)
    assert threads_per_worker(1, 6, [node], memory_gib=8.0) == 1
    assert threads_per_worker(1, 6, [node], memory_gib=11.3) == 2
    assert threads_per_worker(1, 6, [node, node], memory_gib=11.3) == 2
    assert threads_per_worker(1, 6, [node], memory_gib=20.0) == 2  # refused elsewhere


def test_waiting_cells_are_placed_on_machines_that_join_and_on_none_that_left(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go = list[str](), threading.Event()

    def train_cell(work: CellWork, **_: Any) -> Manifest:
        begun.append(work.cell.name)
        go.wait(10)
        return Manifest("train", work.key)

    def come_and_go() -> dict[str, Resources]:
        """At first one machine, then another in its place."""
        if len(begun) < 1:
            return {"a": Resources(cpus=1)}
        if len(begun) > 1:
            go.set()
        return {"b": Resources(cpus=1)}

    monkeypatch.setenv("RAY_ADDRESS", "somewhere")
    monkeypatch.setattr(cell_queue, "train_cell", train_cell)
    monkeypatch.setattr(cell_queue, "nodes_by_id", come_and_go)
    wanted = list[str | None]()
    monkeypatch.setattr(cell_queue.Demand, "request_for", lambda self, job: wanted.append(job.name if job else None))
    items = works(run_dir, "first", "second")
    done = train_all(items, train=TrainConfig(), run_dir=run_dir, device="cpu")
    assert len(done) == 2 and sorted(begun) == ["first", "second"]
    assert wanted[0] == "second" and wanted[-1] is None, "room is wanted for the cell that waits, then for none"


class Spot:
    """A cluster whose second node leaves once `leaves_after` cells have begun, and may come back later."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, comes_back: bool, leaves_after: int = 1) -> None:
        self.comes_back, self.leaves_after = comes_back, leaves_after
        self.begun, self.wanted, self.polls, self.has_left = list[str](), list[str](), 0, threading.Event()
        monkeypatch.setenv("RAY_ADDRESS", "somewhere")
        monkeypatch.setattr(cell_queue, "POLL_S", 0.01)
        monkeypatch.setattr(cell_queue, "train_cell", self.train)
        monkeypatch.setattr(cell_queue, "nodes_by_id", self.nodes)
        monkeypatch.setattr(cell_queue.Demand, "request_for", self.request)

    def train(self, work: CellWork, **_: Any) -> Manifest:
        self.begun.append(work.cell.name)
        assert self.has_left.wait(10)
        return Manifest("train", work.key)

    def request(self, job: Any) -> None:
        self.wanted += [job.name] if job else []

    def nodes(self) -> dict[str, Resources]:
        small, large = Resources(cpus=1), Resources(cpus=3)
        if len(self.begun) < self.leaves_after:
            return {"small": small, "large": large}
        self.has_left.set()
        self.polls += 1
        return {"small": small} | ({"new": large} if self.comes_back and self.polls > 5 else {})


def spot_works(run_dir: RunDir) -> list[CellWork]:
    first, *wide = works(run_dir, "first", "w1", "w2")
    wide = [
        replace(one, cell=replace(one.cell, student=StudentConfig(name="s", model="m", num_workers=3))) for one in wide
    ]
    return [replace(first, cell=replace(first.cell, student=StudentConfig(name="s", model="m", priority=1))), *wide]


def test_cells_whose_node_has_left_wait_for_another_one(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    spot = Spot(monkeypatch, comes_back=True)
    seen: list[Progress] = []
    done = train_all(
        spot_works(run_dir), train=TrainConfig(max_parallel_cells=1), run_dir=run_dir, device="cpu", deadline_s=60,
        report_progress=seen.append,
    )  # fmt: skip
    assert [one.key for one in done] == ["first", "w1", "w2"] == spot.begun
    assert "w1" in spot.wanted, "their room is requested meanwhile"
    assert "waiting for nodes" in {one.phase for one in seen if one.cell == "w1"}


def test_cells_whose_node_never_comes_back_are_named_with_what_they_need(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    Spot(monkeypatch, comes_back=False)
    first, w1, w2 = spot_works(run_dir)
    (child,) = works(run_dir, "child")
    with pytest.raises(StageError, match=r"3 of 4 cells failed.*\n  w1: needs 3 x \(1 CPU\).*has 1 CPU ->") as raised:
        train_all(
            [first, w1, w2, after(child, w1)], train=TrainConfig(max_parallel_cells=1), run_dir=run_dir, device="cpu",
            deadline_s=0.05,
        )  # fmt: skip
    assert "w2: needs 3 x" in str(raised.value) and "child: starts from w1, which failed" in str(raised.value)


def test_one_cell_whose_node_has_left_is_never_taken_for_trained(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    Spot(monkeypatch, comes_back=False)
    with pytest.raises(StageError, match=r"1 of 2 cells failed.*\n  w1: needs 3 x"):
        train_all(
            spot_works(run_dir)[:2], train=TrainConfig(max_parallel_cells=1), run_dir=run_dir, device="cpu",
            deadline_s=0.05,
        )  # fmt: skip


def borrowed(run_dir: RunDir, *, num_workers: int) -> CellWork:
    """A cell that was killed after a checkpoint of four workers."""
    (work,) = works(run_dir, "a", num_workers=num_workers, max_workers=4)
    save_layout(replace(work, layout=Layout(zero_stage=2), num_workers=4), run_dir)
    Checkpoints(run_dir, "a", work.key).commit(5)
    return work


def test_nodes_are_waited_for_with_the_workers_that_a_checkpoint_needs(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Asked(Exception):
        """Ends the stage where it begins to wait."""

    waited = list[tuple[str, int]]()

    def wait_for_nodes(jobs: list[Job], **_: Any) -> None:
        waited.extend((job.name, job.num_workers) for job in jobs)
        raise Asked

    monkeypatch.setattr(stage, "wait_for_nodes", wait_for_nodes)
    recipe, session = parse_recipe(GOOD), SimpleNamespace(device="cpu")
    with pytest.raises(Asked):
        stage.train_cells(
            [borrowed(run_dir, num_workers=1), *works(run_dir, "b", num_workers=2)], recipe, run_dir, {},
            session, Console(),  # type: ignore[arg-type]
        )  # fmt: skip
    assert waited == [("a", 4), ("b", 2)]


@pytest.mark.parametrize(("own", "ending"), [(1, "the 1 of students.num_workers$"), (4, "fewer, and lower students")])
def test_a_checkpoint_of_more_workers_than_there_are_is_named_as_what_to_delete(
    run_dir: RunDir, own: int, ending: str
) -> None:
    folder = run_dir.path("train", "a", "checkpoints")
    with pytest.raises(StageError, match=rf"a needs 4 x .*-> delete {folder}, which 4 workers wrote, .* by {ending}"):
        train_on_cpus(run_dir, [borrowed(run_dir, num_workers=own)])
