"""The pool's side of the fork server process and of the workers that are forked from it."""

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
"""A worker that got less than half a deadline of CPU time is killed only after this many deadlines of wall time."""
PACKAGE_ROOT = Path(__file__).resolve().parents[2]


class GraderPoolError(RuntimeError):
    """The workers cannot be started at all."""


def _environment() -> dict[str, str]:
    path = [str(PACKAGE_ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    # A fixed hash seed: sympy's results can depend on set order. One thread: threads do not survive a fork.
    fixed = {"PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    return {**os.environ, **fixed, "PYTHONPATH": os.pathsep.join(path)}


class ForkServer:
    """The pool's connection to one fork server process, which it starts."""

    def __init__(self) -> None:
        self.control, remote = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        command = [sys.executable, "-W", "ignore", "-m", "distill.grading.fork_server", str(remote.fileno())]
        # Its own session: Ctrl-C ends the caller only; the closed socket then ends the fork server.
        self.process = subprocess.Popen(
            command,
            pass_fds=[remote.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            env=_environment(),
            start_new_session=True,
        )
        remote.close()
        self.control.settimeout(START_TIMEOUT_S)
        self.loaded = frozenset[str]()
        """Kinds of answers whose packages are imported."""
        self._reply("start")

    def _reply(self, command: str) -> dict[str, Any]:
        try:
            message = self.control.recv(4096)
        except TimeoutError as error:
            self.close()
            raise GraderPoolError(
                f"grading: the fork server did not reply to {command!r} in {START_TIMEOUT_S:.0f} s"
            ) from error
        if not message:
            raise ConnectionResetError(f"the fork server of the graders ended during {command!r}")
        reply: dict[str, Any] = json.loads(message)
        return reply

    def call(self, command: str, *, descriptors: Sequence[int] = (), **fields: object) -> dict[str, Any]:
        """Sends one command and returns its reply.

        Raises:
            GraderPoolError: no reply in time.
            ConnectionError: the process has ended.
        """
        message = json.dumps({"command": command, **fields}).encode()
        if descriptors:
            socket.send_fds(self.control, [message], list(descriptors))
        else:
            self.control.send(message)
        return self._reply(command)

    def load(self, kind: str) -> None:
        """Imports what the tasks of a kind need, for workers that are forked from now on."""
        self.call("load", what=kind)
        self.loaded |= {kind}

    def close(self) -> None:
        """Closes the socket, which ends the fork server and every worker of it."""
        self.control.close()
        try:
            self.process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Worker:
    """One forked worker and the row it is grading."""

    def __init__(self, fork_server: ForkServer, memory_bytes: int) -> None:
        self.fork_server = fork_server
        self.channel, remote = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.pid = int(fork_server.call("fork", descriptors=[remote.fileno()], memory_bytes=memory_bytes)["pid"])
        remote.close()
        self.loaded = fork_server.loaded
        self.num_rows = 0
        self.started_s = 0.0
        self.started_cpu_s = 0.0

    def cpu_s(self) -> float:
        """CPU time used so far, seconds; 0 when the process is gone."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def start(self, message: bytes) -> None:
        """Sends a task and starts its clock."""
        self.num_rows += 1
        self.started_s, self.started_cpu_s = time.monotonic(), self.cpu_s()
        self.channel.send(message)

    def is_overdue(self, deadline_s: float) -> bool:
        """Past its deadline. A worker that other processes starve of CPU gets more wall time, up to a bound."""
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
        """Kills and reaps the process."""
        self.channel.close()
        self.fork_server.call("end", pid=self.pid)
