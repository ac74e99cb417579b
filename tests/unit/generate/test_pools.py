"""Identity of pools, and which share an engine."""

import pyarrow as pa

from distill.config.pass_order import PassNumbers
from distill.core.run_dir import FAILED_REQUESTS, RunDir
from distill.core.schema import Dropped
from distill.generate.ask_policy import edit_number
from distill.generate.pools import FAILED, ask_plan, build_request, failure, group_by_engine
from distill.generate.stage import asked_now, failures
from distill.generate.traces import read_traces
from distill.run.pools import Pool
from tests.fixtures.mix_run import prompt
from tests.fixtures.teacher_jobs import pool, reader


def test_another_budget_is_the_same_teacher_and_another_prompt_is_not() -> None:
    same, other = pool("a", 2), pool("a", 9)
    assert same.fingerprint == other.fingerprint
    assert pool("a", chat={"template": "Think. {problem}"}).fingerprint != same.fingerprint
    assert pool("a", reasoning_end="</thought>").fingerprint != same.fingerprint


def test_cheaper_teachers_are_asked_first_and_styles_of_one_model_share_an_engine() -> None:
    dear, cheap = pool("dear", usd_per_million_tokens=2.0), pool("cheap", usd_per_million_tokens=0.5)
    other = Pool(cheap.teacher.model_copy(update={"name": "other", "model": "n"}), "another folder", "f")
    assert [[one.name for one in group] for group in group_by_engine([dear, other, cheap])] == [
        ["other"],
        ["cheap", "dear"],
    ]


def test_a_pass_asks_its_own_teachers_only() -> None:
    first, own = pool("first"), pool("own")
    numbers = PassNumbers({"first": 1, "own": 2}, {})
    assert [[one.name for one in group] for group in asked_now([[first, own]], numbers)] == [["own"]]
    assert asked_now([[first], [own]], PassNumbers({"first": 1, "own": 1}, {})) == [[first], [own]]


def test_what_cannot_be_asked_now_is_closed() -> None:
    plan = ask_plan([[pool("earlier"), pool("now")]], [], {"now"}, stop_early=True)
    assert {one.name: one.is_closed for one in plan.pools} == {"earlier": True, "now": False}


def test_failed_requests_of_a_teacher_that_has_changed_are_not_those_of_the_new_one(run_dir: RunDir) -> None:
    before, now = pool("a", chat={"template": "Think. {problem}"}), pool("a")
    edits = reader("r", now)
    known = prompt(1).prompt_id
    asked = [build_request(known, before, 0, 1), build_request(known, now, 1, 1)]
    asked.append(build_request(known, edits, edit_number("00000000000000a1", 0), 1))
    run_dir.write_rows([failure(one, "?", FAILED, "") for one in asked], Dropped, *FAILED_REQUESTS, "b.parquet")
    ids = pa.chunked_array([[known]])
    indices = {one.name: read_traces(run_dir, one, ids, columns=()) for one in (now, edits)}
    found = failures(run_dir, [now, edits], indices, ids)
    assert found == {"a": {FAILED: 1}, "r": {FAILED: 1}}
