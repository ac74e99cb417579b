"""The files of saved weights: what a change of them looks like."""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from distill.core.saved_files import changed_files, file_digest, saved_files

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    made = tmp_path / "student"
    made.mkdir()
    (made / WEIGHTS).write_bytes(bytes(range(256)) * 400)
    (made / "config.json").write_text("{}")
    (made / "README.md").write_text("card")
    return made


def test_the_hashes_are_those_of_sha256sum_and_notes_have_none(folder: Path) -> None:
    found = saved_files(folder)
    assert set(found) == {WEIGHTS, "config.json"}
    assert found[WEIGHTS] == {"bytes": 102400, "sha256": hashlib.sha256(bytes(range(256)) * 400).hexdigest()}


def flip(file: Path) -> None:
    """One byte, and the time of writing put back."""
    before = file.stat()
    with file.open("r+b") as opened:
        opened.seek(50_000)
        byte = opened.read(1)
        opened.seek(50_000)
        opened.write(bytes([byte[0] ^ 0xFF]))
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


CHANGES: dict[str, Callable[[Path], object]] = {
    f"{WEIGHTS} has other content": lambda folder: flip(folder / WEIGHTS),
    f"{WEIGHTS} has 100 bytes and had 102,400": lambda folder: os.truncate(folder / WEIGHTS, 100),
    f"{WEIGHTS} is gone": lambda folder: (folder / WEIGHTS).unlink(),
    "config.json has 3 bytes and had 2": lambda folder: (folder / "config.json").write_text("{ }"),
    "chat_template.jinja was not there": lambda folder: (folder / "chat_template.jinja").write_text("x"),
    "model-00002.safetensors was not there": lambda folder: (folder / "model-00002.safetensors").write_text("x"),
}


@pytest.mark.parametrize("expected", CHANGES)
def test_a_file_that_is_not_as_it_was_is_named(folder: Path, expected: str) -> None:
    saved = saved_files(folder)
    assert changed_files(str(folder), saved) == []
    CHANGES[expected](folder)
    (told,) = changed_files(str(folder), saved)
    assert told.startswith(expected)


def test_a_folder_that_is_gone_lacks_every_file(folder: Path) -> None:
    saved = saved_files(folder)
    assert changed_files(str(folder.with_name("other")), saved) == ["config.json is gone", f"{WEIGHTS} is gone"]


def test_notes_and_copies_elsewhere_are_no_change(folder: Path) -> None:
    saved = saved_files(folder)
    (folder / "README.md").write_text("another card")
    (folder / "mix.json").write_text("{}")
    (folder / "notes.txt").write_text("mine")
    linked = folder.with_name("linked")
    linked.mkdir()
    for name in saved:
        (linked / name).symlink_to(folder / name)
    assert changed_files(str(folder), saved) == changed_files(str(linked), saved) == []


def test_a_file_is_read_once_until_something_is_written_to_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, reads = file_digest(folder / WEIGHTS), list[int]()
    real = hashlib.file_digest
    monkeypatch.setattr(hashlib, "file_digest", lambda *given: (reads.append(1), real(*given))[1])
    assert file_digest(folder / WEIGHTS) == first and reads == []
    flip(folder / WEIGHTS)
    assert file_digest(folder / WEIGHTS) != first and reads == [1]
    os.utime(folder / WEIGHTS)
    file_digest(folder / WEIGHTS)
    assert reads == [1, 1]


def test_a_digest_that_cannot_be_remembered_is_computed_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = file_digest(folder / WEIGHTS)
    for remembered in (folder.parent / "cache").rglob("*"):
        if remembered.is_file():
            remembered.write_text("")  # as a machine that lost its power may leave it
    assert file_digest(folder / WEIGHTS) == expected
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "config.json"))
    assert file_digest(folder / WEIGHTS) == expected
