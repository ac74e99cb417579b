"""What goes to the log and what to the terminal."""

import os
import sys
from pathlib import Path

import pytest

from distill.core.progress_bars import quiet

FULL = Path("/dev/full")
"""Answers every write with "no space left"."""


@pytest.mark.skipif(not FULL.exists(), reason="a device of Linux")
def test_a_full_disk_under_the_log_does_not_keep_the_last_words_from_the_terminal(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with open(1, "w", closefd=False) as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        with quiet(FULL):
            stream.write("of a library")
        os.write(2, b"no room is left")
    assert "no room is left" in capfd.readouterr().err
