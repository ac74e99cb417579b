"""Identity of pools, and which share an engine."""

from distill.config.pass_order import PassNumbers
from distill.generate.pools import ask_plan, group_by_engine
from distill.generate.stage import asked_now
from distill.run.pools import Pool
from tests.fixtures.teacher_jobs import pool


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
