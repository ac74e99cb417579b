"""Grades completions: exact and numeric rules first, Math-Verify in killable workers for the rest."""

from distill.grading.grade import grade
from distill.grading.grader_pool import GraderPool
from distill.grading.types import VERIFIER_VERSION, Grade, GradeRequest, grade_request

__all__ = ["VERIFIER_VERSION", "Grade", "GradeRequest", "GraderPool", "grade", "grade_request"]
