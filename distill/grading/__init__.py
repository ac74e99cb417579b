"""The verifier as a library: grades a completion against a reference answer.

It imports no stage and no configuration, only `distill.core.schema`, and works without Ray, torch or vLLM.

* `grade(request)` returns one `Grade` in this process; use it for tests and single answers of a trusted source.
* `GraderPool` grades batches. Exact, cheap rules run in the caller; what needs computer algebra (Math-Verify), a
  reasoning-gym scorer or the checkers of instructions runs in forked workers with a deadline and a memory limit, which
  cannot write files, start processes or use the network.
* `Grade.verdict` is CORRECT, INCORRECT, NO_ANSWER or ERROR. ERROR means "could not tell" and is never "wrong".
* `VERIFIER_VERSION` names the rules and the parser packages; store it with every verdict.

Example:
    >>> from distill.grading import GradeRequest, GraderPool
    >>> with GraderPool(num_workers=2, deadline_s=2.0) as pool:
    ...     [result] = pool.grade_batch([GradeRequest("So it is \\\\boxed{2\\\\log 2}.", "\\\\log 4", "math")])
    >>> result.verdict, result.extracted, result.rule
    (<Verdict.CORRECT: 'CORRECT'>, '2\\\\log 2', 'box:math_verify')

How an answer is found is in `extract`, how two answers are compared in `compare` (rules) and `math_verify_compare`;
`legacy_string_match` is the plain string comparison of published work, for comparison with its numbers only.
"""

from distill.core.verifier_version import VERIFIER_VERSION
from distill.grading.grade import grade
from distill.grading.grader_pool import GraderPool
from distill.grading.types import Grade, GradeRequest, grade_request, reference_identity

__all__ = [
    "VERIFIER_VERSION",
    "Grade",
    "GradeRequest",
    "GraderPool",
    "grade",
    "grade_request",
    "reference_identity",
]
