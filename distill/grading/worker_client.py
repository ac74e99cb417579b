"""The pool's ends of the nursery process and of the workers forked from it."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill.grading.messages import MAX_MESSAGE_BYTES, grade_from_bytes
from distill.grading.types import Grade

START_TIMEOUT_S = 180.0
"""For imports on a cold, busy machine; no row's deadline runs meanwhile."""
STARVED_FACTOR = 4.0
"""A worker that got less than half a deadline of CPU may take this many deadlines of wall time before it is killed."""
PACKAGE_ROOT = Path(__file__).resolve().parents[2]


class GraderPoolError(RuntimeError):
    """The workers cannot be started at all."""


def _environment() -> dict[str, str]:
    path = [str(PACKAGE_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    # A fixed hash seed: sympy's answers can depend on set order. One thread: a fork must find no others.
    fixed = {"PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    return {**os.environ, **fixed, "PYTHONPATH": os.pathsep.join(path)}


class Nursery:
    """The pool's end of a nursery process."""

    def __init__(self) -> None:
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-W", "ignore", "-m", "distill.grading.fork_server", str(theirs.fileno())]
        # Its own session: Ctrl-C ends the caller, whose end of the socket then ends the nursery.
        self.process = subprocess.Popen(
            command,
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=_environment(),
            start_new_session=True,
        )
        theirs.close()
        self.control.settimeout(START_TIMEOUT_S)
        self.is_gym_loaded = False
        self._reply("start")

    def _reply(self, what: str) -> dict[str, Any]:
        try:
            message = self.control.recv(4096)
        except TimeoutError as error:
            self.close()
            raise GraderPoolError(f"grading workers: no reply to {what!r} in {START_TIMEOUT_S:.0f} s") from error
        if not message:
            raise ConnectionResetError(f"the grading nursery ended during {what!r}")
        reply: dict[str, Any] = json.loads(message)
        return reply

    def ask(self, do: str, *, descriptors: Sequence[int] = (), **fields: object) -> dict[str, Any]:
        """One command, one reply."""
        message = json.dumps({"do": do, **fields}).encode()
        if descriptors:
            socket.send_fds(self.control, [message], list(descriptors))
        else:
            self.control.send(message)
        return self._reply(do)

    def load_gym(self) -> None:
        """Imports reasoning-gym for the workers to come."""
        self.ask("load", what="reasoning_gym")
        self.is_gym_loaded = True

    def close(self) -> None:
        """Hangs up, which ends the nursery and with it every worker."""
        self.control.close()
        try:
            self.process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Worker:
    """One forked worker and the row it is on."""

    def __init__(self, nursery: Nursery, memory_bytes: int) -> None:
        self.nursery = nursery
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = int(nursery.ask("fork", descriptors=[theirs.fileno()], memory_bytes=memory_bytes)["pid"])
        theirs.close()
        self.knows_gym = nursery.is_gym_loaded
        self.num_rows = 0
        self.started_s = 0.0
        self.started_cpu_s = 0.0

    def cpu_s(self) -> float:
        """CPU time it has used."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def start(self, message: bytes) -> None:
        """Sends a row and starts its clock."""
        self.num_rows += 1
        self.started_s, self.started_cpu_s = time.monotonic(), self.cpu_s()
        self.channel.send(message)

    def is_overdue(self, deadline_s: float) -> bool:
        """Past its deadline; a worker that other processes starve of CPU gets more wall time, but not without end."""
        elapsed_s = time.monotonic() - self.started_s
        if elapsed_s < deadline_s:
            return False
        return elapsed_s > STARVED_FACTOR * deadline_s or self.cpu_s() - self.started_cpu_s > deadline_s / 2

    def receive(self) -> Grade | None:
        """The grade that has arrived, or None when the worker has died instead."""
        try:
            message = self.channel.recv(MAX_MESSAGE_BYTES)
        except ConnectionResetError:
            return None
        if not message:
            return None
        return grade_from_bytes(message)

    def end(self) -> None:
        """Kills and reaps it."""
        self.channel.close()
        self.nursery.ask("end", pid=self.pid)
