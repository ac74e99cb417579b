"""The process that grading workers are forked from: sympy is imported once, so a new worker costs milliseconds.

Run as `python -m distill.grading.fork_server FD`. The pool sends commands over the SEQPACKET socket FD, on which a
message arrives whole or not at all. This process never evaluates text of a row; its workers do, within their limits.
"""

import array
import json
import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from distill.core.schema import AnswerKind, Verdict
from distill.grading.grade import SymbolicTask, compare_symbolic
from distill.grading.instructions import load_checkers
from distill.grading.messages import MAX_MESSAGE_BYTES, grade_to_bytes, task_from_bytes
from distill.grading.sandbox import ForbiddenError, confine
from distill.grading.types import Grade

PARENT_CHECK_S = 5.0


def _grade(task: SymbolicTask) -> Grade:
    try:
        return compare_symbolic(task)
    except ForbiddenError as error:
        return Grade(Verdict.ERROR, task.answer, "forbidden", str(error)[:500])


def _serve(channel: socket.socket, memory_bytes: int) -> None:
    """The worker's loop: receive a task, send its grade, until the pool closes the channel."""
    confine(memory_bytes)
    while message := channel.recv(MAX_MESSAGE_BYTES):
        channel.send(grade_to_bytes(_grade(task_from_bytes(message))))


def _become_worker(control: socket.socket, channel: socket.socket, memory_bytes: int) -> NoReturn:
    exit_code = 1
    try:
        control.close()
        _serve(channel, memory_bytes)
        exit_code = 0
    finally:  # whatever happens, a forked worker never returns into the fork server's loop
        os._exit(exit_code)


def _fork(control: socket.socket, command: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
    """Forks a worker that talks to the pool over the descriptor it was sent."""
    channel = socket.socket(fileno=descriptors[0])
    pid = os.fork()
    if pid == 0:
        _become_worker(control, channel, command["memory_bytes"])
    channel.close()
    return {"pid": pid}


def _end(control: socket.socket, command: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
    """Kills and reaps a worker. Only this process reaps its workers, so the pid cannot have been reused."""
    os.kill(command["pid"], signal.SIGKILL)
    _, status = os.waitpid(command["pid"], 0)
    return {"status": status}


def _load(control: socket.socket, command: dict[str, Any], descriptors: list[int]) -> dict[str, Any]:
    """Imports what the tasks of a kind need, which workers forked later inherit."""
    if command["what"] == AnswerKind.INSTRUCTIONS:
        load_checkers()
    else:
        import reasoning_gym  # noqa: F401
    return {"loaded": command["what"]}


COMMANDS: dict[str, Callable[[socket.socket, dict[str, Any], list[int]], dict[str, Any]]] = {
    "fork": _fork,
    "end": _end,
    "load": _load,
}


def _warm_up() -> None:
    """Compares answers of each shape, so that parser tables are built once here and not in every worker."""
    for reference, answer in (("x^2+1", "1+x^2"), ("\\frac{\\sqrt{2}}{3}", "(1, 2]"), ("\\{1, 2\\}", "x = 5")):
        compare_symbolic(SymbolicTask(AnswerKind.MATH, reference, answer, "box"))
    compare_symbolic(SymbolicTask(AnswerKind.MATH, "5", "the answer is $5$.", "prose"))


def main() -> None:
    """Executes the pool's commands until the pool closes the socket or its process ends."""
    parent = os.getppid()
    control = socket.socket(fileno=int(sys.argv[1]))
    _warm_up()
    control.send(json.dumps({"ready": os.getpid()}).encode())
    while os.getppid() == parent:
        if not select.select([control], [], [], PARENT_CHECK_S)[0]:
            continue
        message, ancillary, _, _ = control.recvmsg(4096, socket.CMSG_SPACE(array.array("i").itemsize))
        if not message:
            return
        descriptors = array.array("i")
        for _level, _kind, data in ancillary:
            descriptors.frombytes(data)
        command = json.loads(message)
        reply = COMMANDS[command["command"]](control, command, list(descriptors))
        control.send(json.dumps(reply).encode())


if __name__ == "__main__":
    main()
