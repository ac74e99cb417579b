"""What unit tests share."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from distill.core.run_dir import RunDir


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
