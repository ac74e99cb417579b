"""A generation in which a teacher answered nothing is not done."""

from typing import Any

import pytest

from distill.config.teachers import EndpointTeacher
from distill.core.errors import StageError
from distill.generate.pools import FAILED, REFUSED
from distill.generate.stage import require_answers
from distill.run.pools import Pool
from tests.fixtures.teacher_jobs import pool

FAR = Pool(
    EndpointTeacher(name="far", style="long", base_url="http://far/v1", remote_model="remote-1"), "http://far/v1", "f"
)


def counts(traces: int, **failed: int) -> dict[str, Any]:
    return {"traces": traces, "failed": {{"failed": FAILED, "refused": REFUSED}[name]: n for name, n in failed.items()}}


def test_a_teacher_that_answered_nothing_is_named_with_its_reasons() -> None:
    with pytest.raises(StageError, match=r"teachers\[far\]: none of its requests was answered \(3 x request failed;"):
        require_answers([pool("a"), FAR], {"a": counts(5, failed=1), "far": counts(0, failed=3)})
    with pytest.raises(StageError, match="2 x request refused"):
        require_answers([FAR], {"far": counts(0, refused=2)})


def test_single_failures_and_prompts_that_an_engine_cannot_hold_end_nothing() -> None:
    require_answers([FAR, pool("a")], {"far": counts(1, failed=3), "a": counts(0, refused=3)})
    require_answers([FAR], {"far": counts(0), "not asked": counts(0, failed=3)})
