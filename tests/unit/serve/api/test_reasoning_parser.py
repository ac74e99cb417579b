"""Reasoning apart from the answer, whole and streamed. Pure."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serve.api.reasoning_parser import (
    Delimiters,
    Split,
    Splitter,
    StreamSplitter,
    format_event,
    parse_events,
    split,
    split_as_streamed,
)

THINK = Delimiters()
OPEN = Delimiters(is_open=True)


CHANNEL = Delimiters(start="<|channel>thought", end="<channel|>")


@pytest.mark.parametrize(
    ("text", "delimiters", "expected"),
    [
        ("<think>\n2 and 2\n</think>\n\n4", THINK, Split("2 and 2\n", "4")),
        ("\n<think>a</think>b", THINK, Split("a", "b")),
        ("just 4", THINK, Split("", "just 4")),
        ("<think>never done", THINK, Split("never done", "")),
        ("<thin", THINK, Split("", "<thin")),
        ("a</think>b</think>c", OPEN, Split("a", "bc")),
        ("b</think>c", THINK, Split("", "b</think>c")),
        ("<think>a</think>b", OPEN, Split("a", "b")),
        ("a < b</thin", OPEN, Split("", "a < b</thin")),
        ("", THINK, Split("", "")),
        ("a</think>b", THINK, Split("", "a</think>b")),
        ("<|channel>thought\n2 and 2\n<channel|>4", CHANNEL, Split("2 and 2\n", "4")),
        ("<|channel>thought\n<channel|>4", CHANNEL, Split("", "4")),
    ],
)
def test_a_completion_is_split_at_its_delimiters(text: str, delimiters: Delimiters, expected: Split) -> None:
    assert split(text, delimiters) == expected


def test_what_ends_inside_the_block_that_the_prompt_opened_is_the_answer_unless_it_was_cut() -> None:
    assert split("21 + 54 = 75.", OPEN, "stop") == Split("", "21 + 54 = 75.")
    assert split("21 + 54 is", OPEN, "length") == Split("21 + 54 is", "")
    assert split("<think>21 + 54", OPEN, "stop") == Split("21 + 54", ""), "the model opened a block itself"
    splitter = StreamSplitter(OPEN)
    events = [splitter.rewrite(chunk(text, finish=end)) for text, end in [("21 +", None), (" 54", None), ("", "stop")]]
    deltas = [event["choices"][0]["delta"] for event in events]
    assert "".join(delta.get("reasoning_content", "") for delta in deltas) == deltas[-1]["content"] == "21 + 54"
    assert split_as_streamed("21 + 54", OPEN) == "21 + 5421 + 54"


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(["<think>", "</think>", "<", "/", "think", ">", "\n", "a", "4 "]), max_size=12), st.data()
)
def test_pieces_give_what_the_whole_gives_however_it_is_cut(words: list[str], data: st.DataObject) -> None:
    text = "".join(words)
    delimiters = data.draw(st.sampled_from([THINK, OPEN]))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    splitter = Splitter(delimiters)
    parts = [splitter.feed(text[a:b]) for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
    finish = data.draw(st.sampled_from(["stop", "length"]))
    parts.append(splitter.finish(finish))
    together = Split("".join(p.reasoning for p in parts), "".join(p.content for p in parts))
    whole = split(text, delimiters, finish)
    is_answer_after_all = whole.content == together.content and whole.content.startswith(together.reasoning)
    assert together == whole or (not whole.reasoning and is_answer_after_all), "shown as reasoning, then as the answer"


def chunk(text: str, index: int = 0, finish: str | None = None) -> dict[str, Any]:
    return {"choices": [{"index": index, "delta": {"content": text}, "finish_reason": finish}]}


def test_the_choices_of_a_stream_are_split_apart_from_each_other() -> None:
    splitter = StreamSplitter(THINK)
    events = [chunk("<think>a"), chunk("b", 1), chunk("</thi"), chunk("nk>c", finish="stop"), chunk("", 1, "stop")]
    found: dict[int, Split] = {0: Split(), 1: Split()}
    for event in events:
        (choice,) = splitter.rewrite(event)["choices"]
        delta, before = choice["delta"], found[choice["index"]]
        found[choice["index"]] = Split(
            before.reasoning + delta.get("reasoning_content", ""), before.content + delta["content"]
        )
    assert found == {0: Split("a", "c"), 1: Split("", "b")}


def test_events_survive_encoding() -> None:
    events = [chunk("a\n\nb"), chunk("é")]
    assert parse_events("".join(map(format_event, events)) + "data: [DONE]\n\n") == events


CHOOSES = Delimiters(openings=("Think.\n", "Brief.\n"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Think.\n<think>\na</think>b", Split("a", "Think.\nb")),
        ("Brief.\n4", Split("", "Brief.\n4")),
        ("<think>a</think>b", Split("a", "b")),
        ("Brie", Split("", "Brie")),
        ("Thin <think>a</think>", Split("", "Thin <think>a</think>")),
    ],
)
def test_a_line_that_says_the_mode_is_content_before_the_reasoning(text: str, expected: Split) -> None:
    assert split(text, CHOOSES) == expected
    splitter, parts = Splitter(CHOOSES), []
    for letter in text:
        parts.append(splitter.feed(letter))
    parts.append(splitter.finish())
    assert Split("".join(one.reasoning for one in parts), "".join(one.content for one in parts)) == expected
