"""The forecast of arms that learn from their students' own answers."""

import pytest

from distill.ops.forecast.stage_times import ArmCost, Forecast
from tests.fixtures.forecast_run import forecast_on, seconds


def arms(found: Forecast) -> dict[str, ArmCost]:
    return {one.arm: one for one in found.arms}


def test_an_answer_is_written_and_scored_once_for_each_row_of_an_arm_that_matches() -> None:
    found = arms(forecast_on("1x1xh100", "forecast.answer_tokens=40", name="refine"))
    own = {name: one for name, one in found.items() if one.objective == "match"}
    assert own
    for one in own.values():
        assert one.written == one.scored > 0
    for one in found.values():
        assert (one.written > 0) == (one.objective != "imitate")
        assert one.device_s is not None and one.device_s > 0


def test_answers_of_rounds_are_written_for_every_step_and_trained_on() -> None:
    found = arms(forecast_on("1x1xh100", "forecast.answer_tokens=40", name="warm-up-rl"))
    own = [one for one in found.values() if one.objective == "reinforce"]
    assert own
    for one in own:
        assert one.written == one.trained > 0
        assert one.scored == 0


@pytest.mark.parametrize("name", ["refine", "warm-up-rl"])
def test_longer_own_answers_take_longer(name: str) -> None:
    few, many = (forecast_on("1x1xh100", f"forecast.answer_tokens={n}", name=name) for n in (10, 60))
    assert seconds(many) > seconds(few)
    own = {one.arm: one.device_s for one in few.arms if one.written}
    assert all((arms(many)[arm].device_s or 0) > (before or 0) for arm, before in own.items())


def test_tokens_of_own_answers_are_known_where_hours_are_not() -> None:
    found = arms(forecast_on("1x2cpu", name="warm-up-rl"))
    assert {one.device_s for one in found.values()} == {None}
    assert any(one.written for one in found.values())
