"""Questions and grades as the messages between a pool and its workers: JSON, for a worker may have run hostile text."""

import json

from distill.core.schema import Verdict
from distill.grading.grade import Question
from distill.grading.types import Grade

MAX_MESSAGE_BYTES = 150_000
"""A SEQPACKET message must fit the socket's buffer, which is 212,992 bytes where nobody tuned it."""


def question_to_bytes(question: Question) -> bytes:
    """One question as one message."""
    return json.dumps(question).encode()


def question_from_bytes(message: bytes) -> Question:
    """The inverse of `question_to_bytes`."""
    return Question(*json.loads(message))


def grade_to_bytes(grade: Grade) -> bytes:
    """One grade as one message."""
    return json.dumps([grade.verdict, grade.extracted, grade.rule, grade.detail]).encode()


def grade_from_bytes(message: bytes) -> Grade:
    """The inverse of `grade_to_bytes`."""
    verdict, extracted, rule, detail = json.loads(message)
    return Grade(Verdict(verdict), extracted, rule, detail)
