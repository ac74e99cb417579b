"""Checkpoints: which one a cell continues from."""

import zipfile
from pathlib import Path

import pytest

from distill.core.run_dir import RunDir
from distill.train.worker.checkpoint import MARKER, Checkpoints, reading, writing


def write(checkpoints: Checkpoints, step: int, *, is_complete: bool = True) -> Path:
    with (
        writing(checkpoints.run_dir, *checkpoints.parts(step)) as folder,
        zipfile.ZipFile(folder / "state.pt", "w") as archive,
    ):
        archive.writestr("weights", "x" * 100)
        (folder / "script.py").write_text("# not an archive")
    if is_complete:
        checkpoints.commit(step)
    return Path(checkpoints.run_dir.path(*checkpoints.parts(step)))


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(RunDir(str(tmp_path)), "cell", "key")


def test_a_new_cell_starts_at_the_beginning(checkpoints: Checkpoints) -> None:
    assert checkpoints.newest_intact() == 0


def test_the_newest_two_are_kept(checkpoints: Checkpoints) -> None:
    for step in (10, 20, 30):
        write(checkpoints, step)
    assert checkpoints.complete_steps() == [30, 20]
    assert checkpoints.newest_intact() == 30


def test_an_unfinished_checkpoint_does_not_count(checkpoints: Checkpoints) -> None:
    write(checkpoints, 10)
    write(checkpoints, 20, is_complete=False)
    assert checkpoints.newest_intact() == 10


@pytest.mark.parametrize("damage", ["cut", "flipped", "missing"])
def test_an_unreadable_checkpoint_is_skipped_for_the_one_before(checkpoints: Checkpoints, damage: str) -> None:
    write(checkpoints, 10)
    file = write(checkpoints, 20) / "state.pt"
    data = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
    else:
        data[60] ^= 255
        file.write_bytes(data if damage == "flipped" else data[:50])
    assert checkpoints.newest_intact() == 10


def test_checkpoints_of_another_key_are_never_resumed(checkpoints: Checkpoints) -> None:
    write(checkpoints, 10)
    assert Checkpoints(checkpoints.run_dir, "cell", "other").newest_intact() == 0


def test_a_torn_marker_is_no_marker(checkpoints: Checkpoints) -> None:
    folder = write(checkpoints, 10)
    (folder / MARKER).write_text('{"key": "ke')
    assert checkpoints.newest_intact() == 0


def test_a_remote_run_directory_gets_and_gives_back_the_files() -> None:
    remote = Checkpoints(RunDir("memory://runs/one"), "cell", "key")
    for step in (10, 20):
        with writing(remote.run_dir, *remote.parts(step)) as folder:
            (folder / "state").mkdir()
            with zipfile.ZipFile(folder / "state" / "weights.pt", "w") as archive:
                archive.writestr("weights", "w" * 100)
        remote.commit(step)
    assert remote.newest_intact() == 20
    with reading(remote.run_dir, *remote.parts(20)) as folder:
        assert zipfile.ZipFile(folder / "state" / "weights.pt").read("weights") == b"w" * 100


def test_a_damaged_remote_checkpoint_is_skipped_too() -> None:
    remote = Checkpoints(RunDir("memory://runs/two"), "cell", "key")
    for step, content in ((10, "x"), (20, "y")):
        with (
            writing(remote.run_dir, *remote.parts(step)) as folder,
            zipfile.ZipFile(folder / "weights.pt", "w") as archive,
        ):
            archive.writestr("weights", content * 100)
        remote.commit(step)
    path = remote.run_dir.path(*remote.parts(20), "weights.pt")
    remote.run_dir.fs.pipe_file(path, remote.run_dir.fs.cat_file(path).replace(b"yyy", b"yxy"))
    assert remote.newest_intact() == 10
