"""What is told of chat templates before a run starts. Tokenizers of bytes, templates of our own."""

from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from distill.config.load import parse_recipe
from distill.config.teachers import ChatFormat, WorkedExample
from distill.core.errors import InputError
from distill.core.schema import Style
from distill.models.resolve import ResolvedModel
from distill.ops.doctor import preflight
from distill.ops.doctor.conversations import Asked, asked_ways, template_findings
from distill.ops.doctor.findings import Finding
from tests.fixtures import chat_templates as templates
from tests.fixtures.byte_tokenizer import tokenizer
from tests.fixtures.mix_run import RECIPE, with_modes

LONG, SHORT = Style.LONG, Style.SHORT


def found(template: str, chat: ChatFormat, *styles: Style, is_student: bool = True) -> list[Finding]:
    asked = Asked("student s", "m", chat, frozenset(styles), is_student)
    return list(template_findings([asked], {"m": tokenizer(template)}))


@pytest.mark.parametrize(
    ("template", "chat", "styles", "said"),
    [
        (templates.NO_SYSTEM, {"system": "Answer."}, [SHORT], 'system_as = "user"'),
        (templates.HARMONY, {}, [SHORT], "endpoint"),
        (templates.TO_SELF, {}, [SHORT], "endpoint"),
        (templates.CLOSED_BY_DEFAULT, {}, [LONG], "enable_thinking = true"),
        (templates.LINE_SWITCHED, {"system": "/no_think"}, [LONG, SHORT], "template's own switch"),
        ("{% for m in messages %}{% endfor %}", {}, [SHORT], "chat_template"),
        (
            templates.PLAIN.replace("<|im_start|>assistant", "{{ strftime_now('%d' ~ ' %b') }}"),
            {},
            [SHORT],
            "without the date",
        ),
    ],
)
def test_what_would_fail_after_the_teachers_were_paid_is_a_problem_with_a_remedy(
    template: str, chat: dict[str, Any], styles: list[Style], said: str
) -> None:
    problems = [one for one in found(template, ChatFormat(**chat), *styles) if one.status == "problem"]
    assert len(problems) == 1 and said in problems[0].remedy


@pytest.mark.parametrize(
    ("template", "chat", "told"),
    [
        (templates.PLAIN, {}, "opens nothing"),
        (templates.OPENS, {}, "opens <think>"),
        (templates.CLOSED_BY_DEFAULT, {"template_options": {"enable_thinking": True}}, "opens <think>"),
        (templates.NO_SYSTEM, {"system": "Answer.", "system_as": "user"}, "opens nothing"),
        (templates.TAGS_ARE_TOKENS, {}, "opens [THINK]"),
        (templates.CHANNEL_TAGS, {}, "opens nothing"),
        (templates.BEGINS_ANSWER, {}, "begins the answer"),
    ],
)
def test_what_a_template_does_is_told(template: str, chat: dict[str, Any], told: str) -> None:
    (one,) = found(template, ChatFormat(**chat), LONG, SHORT)
    assert one.status == "ok" and told in one.what and "<|im_end|>" in one.what


def test_a_short_teacher_that_is_asked_to_reason_and_lost_examples_are_warnings() -> None:
    assert found(templates.OPENS, ChatFormat(), SHORT, is_student=False)[0].status == "warning"
    example = WorkedExample(problem="1?", completion="<think>\nhm\n</think>\n\n1")
    warned = found(templates.STRIPS, ChatFormat(examples=(example,)), LONG)
    assert [one.status for one in warned] == ["warning", "ok"] and "worked examples" in warned[0].what
    assert [one.status for one in found(templates.PLAIN, ChatFormat(examples=(example,)), LONG)] == ["ok"]


def test_an_option_that_the_template_does_not_know_is_a_problem() -> None:
    problems = found(templates.SWITCHED, ChatFormat(template_options={"enable_thinkng": False}), LONG)
    assert problems[0].status == "problem" and "enable_thinkng" in problems[0].what
    assert found(templates.SWITCHED, ChatFormat(template_options={"enable_thinking": False}), SHORT)[0].status == "ok"


LINES = {"long": "Think.", "short": "Be quick."}
SWITCHES = {
    "long": {"template_options": {"enable_thinking": True}},
    "short": {"template_options": {"enable_thinking": False}},
}


@pytest.mark.parametrize(
    ("template", "system_as", "modes", "are_alike"),
    [
        (templates.PLAIN, None, LINES, False),
        (templates.DROPS_SYSTEM, None, LINES, True),
        (templates.DROPS_SYSTEM, "user", LINES, False),
        (templates.SWITCHED, None, SWITCHES, False),
        (templates.PLAIN + "{# enable_thinking #}", None, SWITCHES, True),
        (templates.SWITCHED, None, {"long": SWITCHES["long"], "short": {"template_options": {"unknown": 1}}}, True),
    ],
)
def test_modes_that_render_one_prompt_are_a_problem(
    template: str, system_as: str | None, modes: dict[str, Any], *, are_alike: bool
) -> None:
    raw = with_modes(RECIPE, **modes)
    recipe = parse_recipe(raw | {"student_chat": {**raw["student_chat"], "system_as": system_as}})
    findings = list(template_findings(asked_ways(recipe), {"m": tokenizer(template)}))
    told = [one for one in findings if "tells them apart" in one.what]
    assert bool(told) == are_alike
    for one in told:
        assert one.status == "problem" and "student s of mix-long: its modes long and short" in one.what


def test_modes_that_render_one_prompt_stop_a_run_before_its_first_stage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = parse_recipe(with_modes(RECIPE, **LINES))
    model = ResolvedModel("m", str(tmp_path), "somewhere", "id", 1, 1)
    monkeypatch.setattr(preflight, "load_tokenizer", lambda folder: tokenizer(templates.DROPS_SYSTEM))
    with pytest.raises(InputError, match=r"nothing was asked or trained yet(.|\n)*modes long and short"):
        preflight.refuse_templates(recipe, {"m": model}, Console(quiet=True))


def test_every_student_is_asked_in_each_mode_and_every_teacher_as_it_is() -> None:
    ways = asked_ways(parse_recipe(with_modes(RECIPE)))
    assert [one.who for one in ways if one.is_student] == [
        "student s of mix-long in mode long",
        "student s of mix-long in mode short",
        "student s",
    ]
    lines = [(one.chat.system or "").rpartition("\n")[2] for one in ways if one.is_student]
    assert lines == ["Think step by step.", "Be brief and quick.", "Be brief."]
    assert not list(template_findings(ways, {})), "nothing is told of a model that is not here yet"
