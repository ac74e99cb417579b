"""A run directory is one process's at a time."""

from pathlib import Path

import pytest

from distill.core.errors import InputError
from distill.core.run_dir import RunDir
from distill.core.run_lock import run_lock


def test_one_process_works_on_a_run_however_its_directory_is_spelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    spellings = [(str(tmp_path), f"file://{tmp_path}/"), ("memory://bucket/x", "memory://bucket/x/")]
    for one, other in spellings:
        with run_lock(RunDir(one)), pytest.raises(InputError, match="another process"), run_lock(RunDir(other)):
            pass
        with run_lock(RunDir(other)), run_lock(RunDir(f"{one}-2")):
            pass
