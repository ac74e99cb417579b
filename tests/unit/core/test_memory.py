"""Peak memory counts what child processes take."""

import subprocess
import sys
import time

import pytest

from distill.core import memory
from distill.core.memory import PeakMemory


def test_memory_of_a_child_process_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "INTERVAL_S", 0.2)
    before = memory.tree_bytes()
    with PeakMemory() as peak:
        code = "import time; block = bytearray(200 << 20); print(len(block), flush=True); time.sleep(60)"
        child = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert child.stdout is not None
        child.stdout.readline()
        time.sleep(memory.INTERVAL_S + 0.2)
        child.kill()
        child.wait()
    assert peak.peak_bytes - before > 150 << 20
