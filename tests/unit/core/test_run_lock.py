"""A run directory is one process's at a time."""

import errno
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


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_mount_without_locks_is_told_and_worked_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    def flock(*_: object) -> None:
        raise OSError(number, "no locks here")

    monkeypatch.setattr("fcntl.flock", flock)
    with run_lock(RunDir(str(tmp_path))):
        pass
    assert "cannot be locked (no locks here)" in capsys.readouterr().err


def test_a_place_that_cannot_be_written_to_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written to"), run_lock(RunDir(str(tmp_path / "file" / "run"))):
        pass


def test_other_faults_of_a_lock_are_not_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(errno.EIO, "broken disk")

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(OSError, match="broken disk"), run_lock(RunDir(str(tmp_path))):
        pass
