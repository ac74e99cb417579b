"""The fleet's cells and its refusals, without Ray."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cluster.placement import Resources
from distill.config.recipe import Recipe
from distill.config.students import StudentConfig
from distill.config.train import TrainConfig
from distill.core.errors import StageError
from distill.core.run_dir import Manifest, RunDir
from distill.train import cells as train
from distill.train.cell_queue import Progress, as_before, remember, threads_per_worker, train_all
from distill.train.cells import Cell, CellWork, cells
from distill.train.layout import Layout
from distill.train.worker.checkpoint import Checkpoints


def recipe(seeds: tuple[int, ...]) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "r",
            "models": {"m": {"sources": ["m"]}},
            "prompts": {"sources": [{"kind": "file", "path": "p.jsonl"}]},
            "teachers": [{"name": "long", "model": "m", "style": "long"}],
            "mixes": [{"name": "a", "weights": {"long": 1.0}}, {"name": "b", "weights": {"long": 1.0}}],
            "students": [{"name": "s", "model": "m"}],
            "train": {"seeds": seeds},
            "evaluate": {"benchmarks": ["gsm8k"]},
        }
    )


def test_a_cell_is_named_by_student_and_mix_and_by_its_seed_only_where_there_are_several() -> None:
    assert [cell.name for cell in cells(recipe((7,)))] == ["s@a", "s@b"]
    assert [cell.name for cell in cells(recipe((7, 8)))] == ["s@a@7", "s@a@8", "s@b@7", "s@b@8"]


def works(run_dir: RunDir, *names: str, **student: Any) -> list[CellWork]:
    run_dir.write_bytes(b"rows", "rows.parquet")
    config = StudentConfig(name="s", model="m", **student)
    return [
        CellWork(Cell(name, config, "mix", 0), "nowhere", (run_dir.path("rows.parquet"),), key=name) for name in names
    ]


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir(str(tmp_path))


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replaces training by a note of its order; a cell named `bad...` fails."""
    order: list[str] = []

    def fake(work: CellWork, **_: Any) -> Manifest:
        order.append(work.cell.name)
        if work.cell.name.startswith("bad"):
            raise StageError(f"{work.cell.name}: no luck; log: somewhere")
        return Manifest(stage="train", key=work.key)

    monkeypatch.setattr(train, "train_cell", fake)
    return order


def fleet(run_dir: RunDir, items: list[CellWork], report: Callable[[Progress], None] = print) -> list[Manifest]:
    nodes = (Resources(cpus=2),)
    return train_all(items, train=TrainConfig(), run_dir=run_dir, device="cpu", report_progress=report, nodes=nodes)


def test_manifests_come_back_in_the_order_of_the_cells(run_dir: RunDir, trained: list[str]) -> None:
    assert [manifest.key for manifest in fleet(run_dir, works(run_dir, "c", "a", "b"))] == ["c", "a", "b"]
    assert sorted(trained) == ["a", "b", "c"]


def test_failed_cells_are_named_together_after_the_others_have_finished(run_dir: RunDir, trained: list[str]) -> None:
    seen: list[Progress] = []
    with pytest.raises(StageError, match=r"2 of 4 cells failed.*\n  bad1: no luck.*\n  bad2: no luck"):
        fleet(run_dir, works(run_dir, "bad1", "bad2", "x", "y"), seen.append)
    assert sorted(trained) == ["bad1", "bad2", "x", "y"]
    assert {progress.cell: progress.phase for progress in seen} == {
        "bad1": "failed", "bad2": "failed", "x": "done", "y": "done",
    }  # fmt: skip


def test_a_cell_that_no_waiting_would_let_start_is_refused_with_what_there_is(
    run_dir: RunDir, trained: list[str]
) -> None:
    with pytest.raises(StageError, match=r"do not fit the cluster \(2 CPU\): big needs 3 x \(1 CPU\)"):
        fleet(run_dir, works(run_dir, "big", num_workers=3))
    assert trained == []


def test_no_cells_is_no_work(run_dir: RunDir) -> None:
    assert fleet(run_dir, []) == []


def test_a_full_disk_under_one_cell_leaves_the_others_alone(
    run_dir: RunDir, trained: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = train.train_cell

    def full(work: CellWork, **rest: Any) -> Manifest:
        if work.cell.name == "full":
            raise OSError(28, "No space left on device")
        return usual(work, **rest)

    monkeypatch.setattr(train, "train_cell", full)
    with pytest.raises(StageError, match=r"1 of 2 cells failed.*\n  full: .*No space left"):
        fleet(run_dir, works(run_dir, "full", "x"))
    assert trained == ["x"]


class Lent:
    """Which cells got how many workers, without training them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.workers: dict[str, int] = {}
        monkeypatch.setattr(train, "train_cell", self.note)

    def note(self, work: CellWork, **_: Any) -> Manifest:
        self.workers[work.cell.name] = work.settled_workers
        return Manifest(stage="train", key=work.key)


def gpu_fleet(run_dir: RunDir, items: list[CellWork]) -> None:
    nodes = (Resources(cpus=16, gpus=4),)
    train_all(items, train=TrainConfig(batch_size=16), run_dir=run_dir, device="gpu", nodes=nodes)


def test_a_cell_that_nobody_waits_behind_borrows_free_workers(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    lent = Lent(monkeypatch)
    gpu_fleet(run_dir, works(run_dir, "alone", max_workers=3))
    assert lent.workers == {"alone": 2}, "three workers would not share a batch of 16 equally"
    gpu_fleet(run_dir, works(run_dir, "fixed"))
    assert lent.workers["fixed"] == 1


def test_nothing_is_borrowed_while_another_cell_waits(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    lent = Lent(monkeypatch)
    gpu_fleet(run_dir, works(run_dir, "a", "b", "c", num_workers=3, max_workers=4))
    assert sorted(lent.workers.values()) == [3, 3, 4], "only the last one has the node for itself"


def test_a_cell_continues_with_the_layout_that_its_checkpoint_was_written_with(
    run_dir: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    lent = Lent(monkeypatch)
    (work,) = works(run_dir, "a", max_workers=4)
    remember(replace(work, layout=Layout(zero_stage=2), num_workers=2), run_dir)
    Checkpoints(run_dir, "a", work.key).commit(5)
    gpu_fleet(run_dir, [work])
    assert lent.workers == {"a": 2}
    assert as_before(work, run_dir).settled_layout.zero_stage == 2


def test_what_starts_first_has_the_highest_priority(run_dir: RunDir, trained: list[str]) -> None:
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
