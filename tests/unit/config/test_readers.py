"""Teachers that read another pool: what a recipe may say of them, who is asked first, and what makes a pool new."""

import re
import tomllib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distill.config.asking_order import asking_order
from distill.config.identity import fingerprint
from distill.config.load import parse_recipe
from distill.config.teachers import EndpointTeacher, RuleTeacher, TeacherConfig, VllmTeacher, engine_key, read_pool
from tests.fixtures.paths import ROOT
from tests.fixtures.recipes import GOOD, problems_of, recipe_with

EDITOR = {"name": "edit", "model": "m", "style": "short", "reads": "long", "chat": {"template": "{problem} {trace}"}}
FAR = {"kind": "endpoint", "base_url": "http://x/v1", "remote_model": "far"}


def with_teachers(*teachers: dict[str, Any]) -> dict[str, Any]:
    return {"teachers": [*GOOD["teachers"], *teachers]}


def edit(**changes: Any) -> dict[str, Any]:
    """A teacher that reads, with changed fields; a field of None is left out."""
    return {name: value for name, value in {**EDITOR, **changes}.items() if value is not None}


def test_every_kind_of_reader_is_taken() -> None:
    chain = edit(name="second", reads="edit", takes="any", keep=0.5, keep_if="shorter")
    going_on = edit(name="more", model="m", continues="Wait,", teach="suffix", chat=None)
    body = {"continue_final_message": True, "add_generation_prompt": False}
    far = edit(name="far", model=None, continues="Wait,", chat=None, extra_body=body, **FAR)
    rules = {"kind": "rule", "name": "brief", "style": "short", "reads": "long", "part": "answer"}
    recipe = parse_recipe(recipe_with(with_teachers(EDITOR, chain, going_on, far, rules)))
    assert [read_pool(one) for one in recipe.teachers[-5:]] == ["long", "edit", "long", "long", "long"]


@pytest.mark.parametrize(
    ("teachers", "where", "what"),
    [
        ([edit(reads="edit")], "teachers[edit].reads", "edit reads edit: none of them could begin"),
        (
            [edit(name="a", reads="b"), edit(name="b", reads="a", style="long")],
            "teachers[a].reads",
            "a reads b reads a",
        ),
        ([edit(reads="lnog")], "teachers[edit].reads", "did you mean 'long'"),
        ([edit(chat={"template": "{problem}"})], "teachers[edit].chat.template", "does not contain {trace}"),
        ([edit(reads=None)], "teachers[edit].chat.template", "contains {trace}, but it reads nothing"),
        (
            [edit(reads=None, takes="any", keep=0.5, chat=None)],
            "teachers[edit]",
            "keep, takes say how it reads, but it reads nothing",
        ),
        (
            [edit(chat={"template": "{trace}", "examples": [{"problem": "2+2", "completion": "4"}]})],
            "teachers[edit].chat.examples",
            "shows no trace",
        ),
        ([edit(teach="suffix")], "teachers[edit].teach", "hold nothing that was read"),
        ([edit(continues="")], "teachers[edit].continues", "is refused"),
        ([edit(keep=1.0)], "teachers[edit].keep", "1.0 is refused"),
        (
            [edit(model=None, continues="Wait,", chat=None, **FAR)],
            "teachers[edit].continues",
            "continue_final_message = true",
        ),
        (
            [{"kind": "rule", "name": "r", "style": "short", "reads": "long"}],
            "teachers[r]",
            "set part, keep or replace",
        ),
        (
            [{"kind": "rule", "name": "r", "style": "short", "reads": "long", "replace": [{"pattern": "("}]}],
            "teachers[r].replace[0].pattern",
            "is no regular expression",
        ),
        ([{"kind": "rule", "name": "r", "style": "short", "keep": 0.5}], "teachers[r].reads", "is missing"),
        (
            [edit(name="bare", reads=None, chat=None, reasoning_end=""), edit(reads="bare", part="answer")],
            "teachers[edit].part",
            "its reasoning_end is empty",
        ),
        ([EDITOR, edit(name="again")], "teachers[again]", "is the same teacher as 'edit'"),
    ],
)
def test_a_reader_that_cannot_work_is_refused(teachers: list[dict[str, Any]], where: str, what: str) -> None:
    found = problems_of(with_teachers(*teachers))
    assert any(line.startswith(where) and what in line for line in map(" ".join, map(str.split, found))), found


def test_a_circle_is_told_once() -> None:
    circle = with_teachers(edit(name="a", reads="c"), edit(name="b", reads="a"), edit(name="c", reads="b"))
    assert sum("could begin" in line for line in problems_of(circle)) == 1
    tail = with_teachers(edit(name="a", reads="b"), edit(name="b", reads="a"), edit(name="tail", reads="a"))
    assert sum("could begin" in line for line in problems_of(tail)) == 1


def test_readers_of_other_pools_or_traces_are_other_teachers() -> None:
    parse_recipe(
        recipe_with(with_teachers(EDITOR, edit(name="of-short", reads="short"), edit(name="w", takes="wrong")))
    )


# The order of asking


def teacher(name: str, model: str = "m", reads: str | None = None, usd: float = 0.0) -> TeacherConfig:
    chat = {"chat": {"template": "{trace}"}} if reads else {}
    return VllmTeacher(name=name, model=model, style="long", reads=reads, usd_per_million_tokens=usd, **chat)


def order(*teachers: TeacherConfig) -> list[list[str]]:
    return asking_order(teachers, {one.name: engine_key(one) for one in teachers})


def test_two_chained_readers_on_one_engine_need_one_engine_even_beside_what_they_read() -> None:
    chain = [teacher("second", reads="first"), teacher("first", reads="base"), teacher("base")]
    assert order(*chain) == [["base", "first", "second"]]
    assert order(*chain[:2], teacher("base", "big")) == [["base"], ["first", "second"]]


def test_an_engine_waits_for_what_it_reads_rather_than_start_twice() -> None:
    assert order(teacher("own"), teacher("edit", reads="base"), teacher("base", "big")) == [["base"], ["own", "edit"]]


def test_an_engine_starts_twice_where_that_saves_money_or_cannot_be_avoided() -> None:
    dear = teacher("base", "big", usd=5.0)
    assert order(teacher("own"), teacher("edit", reads="base"), dear) == [["own"], ["base"], ["edit"]]
    back = [teacher("base"), teacher("big", "big", reads="base"), teacher("last", reads="big")]
    assert order(*back) == [["base"], ["big"], ["last"]]


def test_rules_are_teachers_of_their_own_and_cost_nothing() -> None:
    rule = RuleTeacher(name="rule", style="short", reads="base", part="answer")
    assert order(rule, teacher("base", usd=2.0), teacher("after", "big", usd=3.0)) == [["base"], ["rule"], ["after"]]


@given(
    reads=st.lists(st.integers(-1, 5), min_size=1, max_size=6),
    models=st.lists(st.sampled_from("abc"), min_size=6, max_size=6),
    prices=st.lists(st.sampled_from([0.0, 1.0, 2.0]), min_size=6, max_size=6),
)
def test_everybody_is_asked_once_and_after_what_they_read(
    reads: list[int], models: list[str], prices: list[float]
) -> None:
    parents = [source if source < number else -1 for number, source in enumerate(reads)]
    teachers = [
        teacher(f"t{number}", models[number], f"t{source}" if source >= 0 else None, prices[number])
        for number, source in enumerate(parents)
    ]
    groups = order(*teachers)
    names = [name for group in groups for name in group]
    assert sorted(names) == sorted(one.name for one in teachers)
    assert all(names.index(source) < names.index(one.name) for one in teachers if (source := read_pool(one)))
    engine_of = {one.name: engine_key(one) for one in teachers}
    assert all(len({engine_of[name] for name in group}) == 1 for group in groups)


# Identity


def test_a_pools_fingerprint_contains_its_parents_and_not_which_traces_it_takes() -> None:
    base = VllmTeacher.model_validate(EDITOR)
    mark = fingerprint(base, "weights", "parent")
    assert mark != fingerprint(base, "weights", "another parent")
    same = {"takes": "any", "keep_if": "shorter", "teach": "suffix", "name": "x", "num_samples": 3, "reads": "renamed"}
    assert mark == fingerprint(base.model_copy(update=same), "weights", "parent")
    for change in ({"keep": 0.5}, {"part": "answer"}, {"continues": "Wait,"}):
        assert mark != fingerprint(base.model_copy(update=change), "weights", "parent"), change


def test_teachers_that_read_nothing_keep_the_pools_that_they_had() -> None:
    """Paid traces: these are the fingerprints of before teachers could read."""
    ours = VllmTeacher(name="long", model="m", style="long")
    far = EndpointTeacher(name="far", style="short", **{k: v for k, v in FAR.items() if k != "kind"})
    assert fingerprint(ours, "weights") == "213460149b29be67"
    assert fingerprint(far, "there") == "74b951265e98077d"


@pytest.mark.parametrize("block", range(2))
def test_the_recipes_of_the_page_are_taken(block: int) -> None:
    page = (ROOT / "docs" / "readers.md").read_text(encoding="utf-8")
    written = tomllib.loads(re.findall(r"```toml\n(.*?)```", page, re.DOTALL)[block])["teachers"]
    models = {"models": {name: {"sources": [f"somewhere/{name}"]} for name in ("m", "editor", "thinker")}}
    drawn = {"mixes": [{"name": "all", "policy": "both", "pools": ["long", written[-1]["name"]]}]}
    recipe = parse_recipe(recipe_with(models | with_teachers(*written) | drawn | {"train": {"max_length": 256}}))
    assert {one.name for one in recipe.teachers} == {"long", "short", *(one["name"] for one in written)}
