"""Peaks by name, and the utilisation that follows."""

import time
from pathlib import Path

import pytest

from distill.train.worker.device import memory_gib, mfu, named_peak, peak_flops, wait_for_compiler


@pytest.mark.parametrize(
    ("name", "peak"),
    [
        ("NVIDIA H100 80GB HBM3", 989e12),
        ("NVIDIA H100 PCIe", 756e12),
        ("NVIDIA H200", 989e12),
        ("NVIDIA L40S", 362e12),
        ("NVIDIA L4", 121e12),
        ("Some other card", None),
    ],
)
def test_a_peak_is_known_by_name_or_not_at_all(name: str, peak: float | None) -> None:
    assert named_peak(name) == peak


def test_a_cpu_has_no_peak_and_hence_no_utilisation() -> None:
    assert peak_flops("cpu", 2) is None
    assert mfu(1e12, 1.0, None) is None
    assert mfu(989e12, 2.0, 989e12) == 0.5


def test_memory_of_this_process_is_measured() -> None:
    assert 0.01 < memory_gib("cpu") < 100


def test_a_compiler_lock_of_a_killed_worker_is_removed_and_a_fresh_one_waited_for(tmp_path: Path) -> None:
    lock = tmp_path / "py311_cpu" / "deepspeed_shm_comm" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    started = time.monotonic()
    wait_for_compiler(tmp_path, stale_after_s=0.2)
    assert not lock.exists()
    assert time.monotonic() - started > 0.15
