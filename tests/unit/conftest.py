"""What unit tests share."""

from pathlib import Path

import pytest

from distill.core.run_dir import RunDir


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    """An empty run directory."""
    return RunDir(str(tmp_path / "run"))
