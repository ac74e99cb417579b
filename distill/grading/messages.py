"""Messages between the pool and its workers. JSON and not pickle, because a worker may have run hostile text."""

import json

from distill.core.schema import Verdict
from distill.grading.grade import SymbolicTask
from distill.grading.types import Grade

MAX_MESSAGE_BYTES = 150_000
"""A SEQPACKET message must fit into the socket buffer, which holds 212,992 bytes by default on Linux."""


def task_to_bytes(task: SymbolicTask) -> bytes:
    """One task as one message."""
    return json.dumps(task).encode()


def task_from_bytes(message: bytes) -> SymbolicTask:
    """The inverse of `task_to_bytes`."""
    return SymbolicTask(*json.loads(message))


def grade_to_bytes(grade: Grade) -> bytes:
    """One grade as one message."""
    return json.dumps([grade.verdict, grade.extracted, grade.rule, grade.detail]).encode()


def grade_from_bytes(message: bytes) -> Grade:
    """The inverse of `grade_to_bytes`."""
    verdict, extracted, rule, detail = json.loads(message)
    return Grade(Verdict(verdict), extracted, rule, detail)
