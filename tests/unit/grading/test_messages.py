"""What travels between the caller and a worker of the verifier."""

from distill.grading import GradeRequest, grade
from distill.grading.grade import SymbolicTask, check_rules
from distill.grading.messages import grade_from_bytes, grade_to_bytes, task_from_bytes, task_to_bytes


def test_messages_keep_every_field() -> None:
    question = check_rules(GradeRequest("\\boxed{2\\log 2}", "\\log 4", "math"))
    assert isinstance(question, SymbolicTask)
    assert task_from_bytes(task_to_bytes(question)) == question
    result = grade(GradeRequest("\\boxed{4}", "4", "math"))
    assert grade_from_bytes(grade_to_bytes(result)) == result
