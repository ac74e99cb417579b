"""Modes that a student writes itself: what of them does not go together."""

from typing import Any

import pytest

from distill.config.load import parse_recipe
from distill.core.errors import ConfigError
from tests.fixtures.mix_run import RECIPE


def raw(modes: dict[str, Any], **more: Any) -> dict[str, Any]:
    *others, last = RECIPE["mixes"]
    return RECIPE | {"mixes": [*others, last | {"modes": modes} | more]}


LINES = {"long": "Think.", "short": "Brief."}


def test_a_mode_of_the_completion_is_the_line_on_a_line_of_its_own_and_nothing_of_the_prompt() -> None:
    mix = parse_recipe(raw(LINES, modes_in="completion", mode_weight=0.1)).mixes[-1]
    assert mix.openings == {"long": "Think.\n", "short": "Brief.\n"}
    assert {mode.line for mode in mix.prompt_modes.values()} == {""}
    plain = parse_recipe(raw(LINES)).mixes[-1]
    assert plain.openings == {} and plain.prompt_modes == plain.modes


@pytest.mark.parametrize(
    ("modes", "more", "words"),
    [
        (LINES, {"mode_weight": 0.1}, "mode_weight.*has no effect: the modes are in the prompt"),
        ({}, {"modes_in": "completion"}, "nothing to choose: the arm has no modes"),
        (LINES | {"long": {"line": "T.", "template_options": {"a": True}}}, {"modes_in": "completion"}, "line alone"),
        (LINES | {"long": "Think.\nNow."}, {"modes_in": "completion"}, "is not one line"),
    ],
)
def test_what_makes_no_choice_is_refused(modes: dict[str, Any], more: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_recipe(raw(modes, **more))
