"""What unit tests share."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from distill.core.run_dir import RunDir


@pytest.fixture(autouse=True)
def no_ray() -> Iterator[None]:
    """Fail a test that starts Ray: many of Ray's functions do so on their own, and later tests would join that one."""
    yield
    if (ray := sys.modules.get("ray")) and ray.is_initialized():
        ray.shutdown()
        pytest.fail("a unit test started Ray: call nothing of Ray here, or replace what calls it")


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    """An empty run directory."""
    return RunDir(str(tmp_path / "run"))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """Small products only wait for a second thread, for seconds where the machine is busy."""
    import torch  # most unit tests need none

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
