"""What a Ray that was started here leaves: found by its processes, removed without anything of others."""

import multiprocessing
import os
from pathlib import Path

import psutil
import pytest

from cluster.leftovers import (
    SCRATCH_VARIABLE,
    remove_semaphores,
    remove_session,
    scratch_env,
    scratch_folder,
    semaphores_of,
)
from cluster.vllm_args import engine_env


def test_engines_put_their_files_into_a_folder_that_is_gone_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(SCRATCH_VARIABLE, raising=False)
    assert scratch_env(os.environ) == {} and "TMPDIR" not in engine_env("cpu", "m")
    with scratch_folder():
        found = engine_env("cpu", "m")
        folder = Path(found["TMPDIR"])
        assert found["VLLM_RPC_BASE_PATH"] == found["TMPDIR"] and folder.is_dir()
        (folder / "socket").touch()
    assert not folder.exists() and scratch_env(os.environ) == {}


def test_a_folder_whose_sockets_would_have_too_long_a_path_is_not_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    long = tmp_path / ("x" * 60)
    long.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(long))
    with scratch_folder():
        assert scratch_env(os.environ) == {}
    assert list(long.iterdir()) == []


def _hold(started: "multiprocessing.synchronize.Event", lock: "multiprocessing.synchronize.Lock") -> None:
    with lock:
        started.set()
        import time

        time.sleep(60)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # this process has its own removed
def test_the_semaphores_of_child_processes_are_found_and_those_of_others_stay() -> None:
    spawn = multiprocessing.get_context("spawn")
    started, lock = spawn.Event(), spawn.Lock()
    child = spawn.Process(target=_hold, args=(started, lock))
    child.start()
    try:
        assert started.wait(60)
        found = semaphores_of(psutil.Process())
        assert len(found) >= 2 and all(path.exists() for path in found)
        assert semaphores_of(psutil.Process(child.pid)) == set(), "of its children, not its own"
    finally:
        child.kill()
        child.join()
    other = Path("/dev/shm") / f"sem.mp-of-another-{os.getpid()}"
    other.touch()
    try:
        remove_semaphores(found)
        assert not any(path.exists() for path in found) and other.exists()
    finally:
        other.unlink()


def test_the_folder_of_a_session_goes_and_only_its_own_link(tmp_path: Path) -> None:
    for name in ("session_1", "session_2"):
        (tmp_path / name / "logs").mkdir(parents=True)
    latest = tmp_path / "session_latest"
    latest.symlink_to(tmp_path / "session_2")
    remove_session(str(tmp_path / "session_1"))
    assert latest.exists()
    remove_session(str(tmp_path / "session_2"))
    assert list(tmp_path.iterdir()) == []
