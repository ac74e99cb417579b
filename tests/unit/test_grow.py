"""Waiting for machines that an autoscaler adds, and a queue that is offered them."""

import threading
from pathlib import Path
from typing import Any

import pytest

from cluster.autoscaling import largest_of_each, wait_for_room
from cluster.placement import Job, Resources
from cluster.session import resolve_device
from distill.config.train import TrainConfig
from distill.core.run_dir import Manifest, RunDir
from distill.train import cell_queue as fleet
from distill.train.cells import CellWork
from tests.unit.test_train import works

WIDE = Job("wide", Resources(cpus=1, gpus=1), num_workers=3)
NODE = Resources(cpus=8, gpus=2)


def test_the_wait_ends_when_every_job_would_fit_and_says_once_what_it_is_for() -> None:
    looks, said = [[], [NODE], [NODE, NODE]], list[str]()
    assert wait_for_room([WIDE], lambda: looks.pop(0), deadline_s=10, say=said.append, poll_s=0)
    assert not looks and len(said) == 1
    assert "wide needs 3 x (1 CPU + 1 GPU)" in said[0]


def test_the_wait_ends_at_its_deadline() -> None:
    assert not wait_for_room([WIDE], lambda: [NODE], deadline_s=0.05, say=lambda text: None, poll_s=0.01)


def test_gpus_that_may_still_come_are_no_reason_to_refuse_but_no_machine_is_nothing_to_choose_by() -> None:
    assert resolve_device("gpu", 0, may_grow=True) == "gpu"
    assert resolve_device("auto", 0, num_cpus=4, may_grow=True) == "cpu"
    with pytest.raises(ValueError, match="no machine of the cluster is up yet"):
        resolve_device("auto", 0, num_cpus=0, may_grow=True)
    with pytest.raises(ValueError, match="has no GPU"):
        resolve_device("gpu", 0)


def test_cells_that_wait_are_offered_machines_that_come_and_none_that_went(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir, begun, go = RunDir(str(tmp_path)), list[str](), threading.Event()

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
    monkeypatch.setattr(fleet.cell_training, "train_cell", train_cell)
    monkeypatch.setattr(fleet, "nodes_by_id", come_and_go)
    wanted = list[str | None]()
    monkeypatch.setattr(fleet.Demand, "be_for", lambda self, job: wanted.append(job.name if job else None))
    items = works(run_dir, "first", "second")
    done = fleet.train_all(items, train=TrainConfig(), run_dir=run_dir, device="cpu")
    assert len(done) == 2 and sorted(begun) == ["first", "second"]
    assert wanted[0] == "second" and wanted[-1] is None, "room is wanted for the cell that waits, then for none"


def test_of_every_kind_of_worker_the_largest_job_is_asked_for_first() -> None:
    small, other = WIDE._replace(name="small", num_workers=1), Job("other", Resources(cpus=1, gpus=1, gpu="L4"), 2)
    assert largest_of_each([small, WIDE, other]) == [WIDE, other]
