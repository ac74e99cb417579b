"""A container's share of the machine is what is planned with, not the whole machine."""

import os
from pathlib import Path
from typing import Any

import psutil
import pytest

from cluster import limits, nodes
from cluster.limits import usable_cpus, usable_memory_bytes
from cluster.placement import Resources
from distill.config.load import parse_recipe
from distill.train.machines import machines_here
from tests.fixtures.recipes import recipe_with


def groups(tmp_path: Path, own: str, files: dict[str, str]) -> dict[str, Any]:
    (tmp_path / "own").write_text(own)
    for name, text in files.items():
        (tmp_path / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cgroup" / name).write_text(f"{text}\n")
    return {"groups": tmp_path / "cgroup", "own": tmp_path / "own"}


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of 64 CPUs and 256 GiB."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)))
    memory = psutil.virtual_memory()._replace(total=256 * 2**30)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)


@pytest.mark.usefixtures("large")
@pytest.mark.parametrize(
    ("own", "files", "cpus", "gib"),
    [
        ("0::/", {"memory.max": str(8 * 2**30), "cpu.max": "250000 100000"}, 2, 8),
        ("0::/", {"memory.max": "max", "cpu.max": "max 100000"}, 64, 256),
        ("0::/", {"cpu.max": "50000 100000"}, 1, 256),
        ("0::/slice/job", {"slice/memory.max": str(4 * 2**30), "slice/job/memory.max": str(16 * 2**30)}, 64, 4),
        (
            "5:cpu,cpuacct:/docker/x\n4:memory:/docker/x",
            {"memory/memory.limit_in_bytes": str(2**33), "cpu/cpu.cfs_quota_us": "400000",
             "cpu/cpu.cfs_period_us": "100000"},
            4, 8,
        ),
        ("5:cpu:/x", {"memory/memory.limit_in_bytes": str(2**63 - 4096), "cpu/cpu.cfs_quota_us": "-1",
                      "cpu/cpu.cfs_period_us": "100000"}, 64, 256),
        ("", {}, 64, 256),
    ],
)  # fmt: skip
def test_the_least_limit_counts(tmp_path: Path, own: str, files: dict[str, str], cpus: int, gib: int) -> None:
    where = groups(tmp_path, own, files)
    assert (usable_cpus(**where), usable_memory_bytes(**where)) == (cpus, gib * 2**30)


def test_cores_that_the_process_is_not_pinned_to_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {1, 5})
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    assert usable_cpus(**groups(tmp_path, "", {})) == 2


@pytest.mark.usefixtures("large")
def test_plans_and_nodes_are_of_that_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = groups(tmp_path, "0::/", {"memory.max": str(8 * 2**30), "cpu.max": "300000 100000"})
    monkeypatch.setattr(limits.usable_memory_bytes, "__defaults__", (where["groups"], where["own"]))
    monkeypatch.setattr(limits.usable_cpus, "__defaults__", (where["groups"], where["own"]))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert machines_here(parse_recipe(recipe_with({"device": "cpu"}))).nodes == (Resources(cpus=3, memory_gib=8.0),)
    assert nodes._node({"CPU": 3.0, "memory": 2.0**40}, is_here=True).memory_gib == 8.0
