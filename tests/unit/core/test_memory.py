"""Peak memory counts what child processes take."""

import subprocess
import sys
import threading

import pytest

from distill.core import memory
from distill.core.memory import PeakMemory

CODE = """
import subprocess, sys, time
from distill.core import memory

memory.INTERVAL_S = 0.2
before = memory.tree_bytes(memory.proportional_bytes)
with memory.PeakMemory() as peak:
    block = "import sys; block = bytearray(200 << 20); print(len(block), flush=True); sys.stdin.read()"
    child = subprocess.Popen([sys.executable, "-c", block], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    child.stdout.readline()
    deadline = time.monotonic() + 30
    while peak.peak_bytes - before <= 150 << 20 and time.monotonic() < deadline:
        time.sleep(0.1)
    child.communicate()
print(peak.peak_bytes - before)
"""


def test_memory_of_a_child_process_counts() -> None:
    # In a process of its own: what earlier tests left in this one's tree may end meanwhile and hide the child.
    told = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert 150 << 20 < int(told.stdout) < 300 << 20


def test_shared_pages_are_only_counted_at_a_new_peak(monkeypatch: pytest.MonkeyPatch) -> None:
    resident, proportional, is_over = iter([10, 10, 12, 11]), iter([7, 8]), threading.Event()

    def told(bytes_of: object) -> int:
        if bytes_of is memory.proportional_bytes:
            return next(proportional)  # a third one would end the thread before it is over
        found = next(resident, None)
        if found is None:
            is_over.set()
        return found or 0

    monkeypatch.setattr(memory, "tree_bytes", told)
    monkeypatch.setattr(memory, "INTERVAL_S", 0.001)
    with PeakMemory() as peak:
        assert is_over.wait(30)
    assert peak.peak_bytes == 8 and next(proportional, None) is None
