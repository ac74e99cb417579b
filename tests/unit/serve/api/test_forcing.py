"""Ways to have a model answer: what each of them asks of an engine, segment by segment. Pure."""

import itertools
import json
from typing import Any

import pytest

from serve.api.forcing import (
    OPENINGS,
    Extension,
    HelperShare,
    Language,
    biased_end,
    empty_thinking,
    extended_thinking,
    first_share,
    language_opening,
    prefilled,
    shared_reasoning,
)
from serve.api.http_errors import APIError
from serve.api.limits import Limits
from serve.api.reasoning_parser import Delimiters, split
from serve.api.request_schema import check_request
from serve.api.thinking import PLAN_FIELDS, AnswerSoFar, NextRequest

THINK, OPEN, CLOSED = Delimiters(), Delimiters(is_open=True), Delimiters(is_closed=True)
END = "</think>"
FIELDS: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "?"}], "max_tokens": 100}
SHARE = HelperShare(model="large", share=0.5, max_tokens=60)


def write(next_request: NextRequest, *segments: tuple[str, int, str]) -> tuple[AnswerSoFar, list[dict[str, Any]]]:
    """The answer of segments with (text, tokens, where it stopped), and the request of each."""
    answer, asked = AnswerSoFar(first="m"), []
    for text, tokens, stopped_at in segments:
        segment = next_request(answer)
        assert segment is not None, "the answer is complete before the script ends"
        asked.append({**segment.fields, "continues": segment.continues})
        answer = answer.after(segment, segment.inserted + text, tokens, "stop", stopped_at)
    return answer, asked


def test_a_cue_takes_the_place_of_the_first_ends_and_the_next_end_counts() -> None:
    plan = extended_thinking(FIELDS, Extension(times=2), THINK)
    segments = ("<think>7\n", 9, END), (", no\n", 5, END), ("; 8\n</think>\n\n8", 6, "")
    answer, asked = write(plan, *segments)
    assert [request.get("stop") for request in asked] == [[END], [END], None], "the last end is the model's own"
    assert asked[0]["include_stop_str_in_output"] is False
    assert [request["max_tokens"] for request in asked] == [100, 91, 86]
    assert plan(answer) is None and answer.text == "<think>7\nWait, no\nWait; 8\n</think>\n\n8"
    assert split(answer.text, THINK).content == "8" and answer.used_tokens == 20


def test_reasoning_that_does_not_end_is_not_extended_and_an_answer_that_quotes_the_end_goes_on() -> None:
    plan = extended_thinking(FIELDS, Extension(times=2, cue="Hm"), THINK)
    assert plan(write(plan, ("<think>7", 100, ""))[0]) is None
    assert plan(write(plan, ("<think>7", 100, END))[0]) is None, "no token is left"
    answer, asked = write(plan, ("Write ", 5, END), (" then.", 2, ""))
    assert answer.text == f"Write {END} then." and "stop" not in asked[1] and plan(answer) is None


@pytest.mark.parametrize(
    ("option", "said"),
    [({}, "no answer would come"), ({"times": 1, "cue": " \n"}, "cue is empty"), ({"times": 64}, "less than 64")],
)
def test_a_cue_that_never_ends_is_refused(option: dict[str, Any], said: str) -> None:
    with pytest.raises(APIError, match=said) as refused:
        check_request("/v1/chat/completions", json.dumps(FIELDS | {"extend": option}).encode(), Limits())
    assert refused.value.status == 400


def test_the_bias_acts_until_the_reasoning_is_closed_and_not_on_the_answer() -> None:
    plan = biased_end(FIELDS, 2.5, 7, THINK)
    answer, asked = write(plan, (f"<think>a{END}", 9, END), ("4", 1, ""))
    assert asked[0]["logit_bias"] == {"7": 2.5} and asked[0]["include_stop_str_in_output"] is True
    assert "logit_bias" not in asked[1] and "stop" not in asked[1] and asked[1]["continues"] == f"<think>a{END}"
    assert plan(answer) is None and answer.text == f"<think>a{END}4"
    assert plan(write(plan, ("4", 1, ""))[0]) is None, "a model that does not reason has answered"


@pytest.mark.parametrize(("delimiters", "opening"), [(THINK, "<think>\n"), (OPEN, "")])
def test_the_model_goes_on_from_the_first_share_of_its_helpers_reasoning(delimiters: Delimiters, opening: str) -> None:
    plan = shared_reasoning(FIELDS, SHARE, delimiters, THINK)
    answer, asked = write(plan, ("<think>\nOne two three four", 40, END), (f"five{END}4", 9, ""))
    assert [request["model"] for request in asked] == ["large", "m"]
    assert asked[0]["stop"] == [END] and asked[0]["max_tokens"] == 60
    assert asked[1]["continues"] == f"{opening}One two" and asked[1]["max_tokens"] == 80 and "stop" not in asked[1]
    assert answer.text == f"{opening}One twofive{END}4" and plan(answer) is None
    assert answer.usage(3)["completion_tokens"] == 49 and answer.usage(3)["helper_tokens"] == 40


@pytest.mark.parametrize("helpers", [THINK, None])
def test_a_helper_that_does_not_reason_has_nothing_to_share(helpers: Delimiters | None) -> None:
    _, asked = write(shared_reasoning(FIELDS, SHARE, THINK, helpers), ("It is 4.", 4, ""), ("4", 1, ""))
    assert asked[1]["continues"] == "" and asked[1]["max_tokens"] == 100, "the model is asked as it is without a helper"


def test_a_share_is_cut_at_the_end_of_a_word_where_there_are_words() -> None:
    assert first_share("One two three", 1.0) == "One two three"
    assert first_share("はい。\n" + "計算します" * 20, 0.5) == "はい。\n" + ("計算します" * 20)[:48]
    assert first_share("One two three", 0.5) == "One" and first_share("One\ntwo three", 0.4) == "One\n"
    assert first_share("我们先把它拆开", 0.5) == "我们先把"


def test_an_empty_block_stands_before_the_answer_unless_the_prompt_has_one() -> None:
    assert empty_thinking(THINK) == f"<think>\n\n{END}\n\n"
    assert empty_thinking(OPEN) == f"\n{END}\n\n" and empty_thinking(CLOSED) == ""
    answer, (asked,) = write(prefilled(FIELDS, empty_thinking(THINK)), ("4", 1, ""))
    assert asked["continues"] == answer.text.removesuffix("4") and asked["max_tokens"] == 100
    assert split(answer.text, THINK).content == "4" and prefilled(FIELDS, "")(answer) is None


def test_the_reasoning_begins_in_the_language_that_is_asked_for() -> None:
    german = OPENINGS["de"]
    assert language_opening(Language(name="de"), THINK) == f"<think>\n{german}\n"
    assert language_opening(Language(name="de"), OPEN) == f"{german}\n"
    for delimiters in (CLOSED, None):
        assert language_opening(Language(name="de"), delimiters) == f"{german}\n", "it begins the answer"
    assert Language(name="gsw", opening="Also, ").text == "Also,"


def sent(**fields: Any) -> dict[str, Any]:
    return check_request("/v1/chat/completions", json.dumps(FIELDS | fields).encode(), Limits())


EACH: dict[str, Any] = {
    "thinking_budget": 5,
    "speculative": {"model": "large"},
    "share": {"model": "large", "share": 0.5},
    "extend": {"times": 1},
    "end_bias": -2,
    "language": "de",
    "think": False,
}


def test_every_way_is_a_field_of_a_request_and_they_exclude_each_other() -> None:
    assert set(EACH) == set(PLAN_FIELDS)
    assert sent(language="de")["language"] == {"name": "de"} and sent(think=False)["think"] is False
    for name, value in EACH.items():
        assert name in sent(**{name: value})
        with pytest.raises(APIError, match=f"{name}: cannot be combined with n > 1"):
            sent(**{name: value, "n": 2})
    for first, second in itertools.pairwise(PLAN_FIELDS):
        with pytest.raises(APIError, match=f"{second}: cannot be combined with {first}"):
            sent(**{first: EACH[first], second: EACH[second]})


def test_an_unknown_language_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(APIError, match=r"language.*'tlh'.*de, en"):
        sent(language="tlh")
