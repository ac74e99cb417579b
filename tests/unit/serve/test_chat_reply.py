"""Replies as providers shape them, in one form. The shapes are those of real servers, the texts our own."""

from types import SimpleNamespace
from typing import Any

import pytest

from serve.chat_reply import Message, end_of, read_message, whole_text

LONG = "First I add two and two, which gives four."


@pytest.mark.parametrize(
    ("reason", "end"),
    [
        *((reason, "stop") for reason in ("stop", "eos", "eos_token", "end_turn", "STOP", "stop_sequence", "end-turn")),
        *(
            (reason, "length")
            for reason in (
                "length",
                "max_tokens",
                "MAX_TOKENS",
                "model_length",
                "FINISH_REASON_LENGTH",
                "FinishReason.MAX_TOKENS",
            )
        ),
        *((reason, "refused") for reason in ("content_filter", "refusal", "SAFETY", "content_filter: RECITATION")),
        *((reason, "") for reason in (None, "", "error", "tool_calls", "abort", "insufficient_system_resource", 7)),
    ],
)
def test_every_word_for_an_end_is_one_of_three(reason: Any, end: str) -> None:
    assert end_of(reason) == end


TEXT_PART = {"type": "text", "text": "4"}
MESSAGES = {
    "plain": ({"content": "4"}, ("4", "")),
    "nothing": ({"content": None}, ("", "")),
    "reasoning_content": ({"content": "4", "reasoning_content": "hm"}, ("4", "hm")),
    "reasoning": ({"content": "4", "reasoning": "hm"}, ("4", "hm")),
    "both fields": ({"content": "4", "reasoning": "hm", "reasoning_content": "hm"}, ("4", "hm")),
    "the other field is null": ({"content": "4", "reasoning": "hm", "reasoning_content": None}, ("4", "hm")),
    "details": ({"content": "4", "reasoning_details": [{"type": "reasoning.text", "text": "hm"}]}, ("4", "hm")),
    "encrypted": ({"content": "4", "reasoning_details": [{"type": "reasoning.encrypted", "data": "x"}]}, ("4", "")),
    "thinking part": ({"content": [{"type": "thinking", "thinking": "hm", "signature": "s"}, TEXT_PART]}, ("4", "hm")),
    "nested parts": (
        {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "h"}, {"text": "m"}]}, TEXT_PART]},
        ("4", "hm"),
    ),
    "parts and a field": ({"content": [{"thinking": "hm"}, TEXT_PART], "reasoning": "hm"}, ("4", "hm")),
    "redacted": ({"content": [{"type": "redacted_thinking", "data": "x"}, TEXT_PART]}, ("4", "")),
    "several texts": ({"content": [TEXT_PART, "2", {"type": "image_url", "image_url": {}}]}, ("42", "")),
}  # fmt: skip


@pytest.mark.parametrize("name", MESSAGES)
def test_text_and_reasoning_are_found_wherever_a_provider_puts_them(name: str) -> None:
    fields, expected = MESSAGES[name]
    assert read_message(SimpleNamespace(**fields)) == expected
    assert read_message(None) == ("", "")


@pytest.mark.parametrize(
    ("text", "reasoning", "is_truncated", "expected"),
    [
        ("4", "", False, "4"),
        ("4", "hm", False, "<think>\nhm\n</think>\n\n4"),
        ("\n\n4", " hm\n", False, "<think>\nhm\n</think>\n\n4"),
        ("<think>hm</think>4", "hm", False, "<think>hm</think>4"),
        ("hm</think>4", "hm", False, "<think>\nhm</think>4"),
        ("</think>\n\n4", "hm", False, "<think>\nhm\n</think>\n\n4"),
        ("<think>\n</think>4", "hm", False, "<think>\nhm\n</think>\n\n4"),
        ("4", "<think>hm</think>", False, "<think>\nhm\n</think>\n\n4"),
        ("", "<think>hm</think>\n4", False, "<think>\nhm\n</think>\n\n4"),
        (f"{LONG}\n\n4", LONG, False, f"<think>\n{LONG}\n</think>\n\n4"),
        ("42", "4", False, "<think>\n4\n</think>\n\n42"),
        ("4", "tags like <think> are", False, "<think>\ntags like <think> are\n</think>\n\n4"),
        ("hm</think>4", "", False, "<think>\nhm</think>4"),
        ("\nhm</think>4", "", False, "<think>\nhm</think>4"),
        ("", "hm", True, "<think>\nhm"),
        ("<think>hm", "hm", True, "<think>hm"),
        (LONG, LONG, True, f"<think>\n{LONG}"),
        ("4 and", "hm", True, "<think>\nhm\n</think>\n\n4 and"),
    ],
)
def test_reasoning_is_in_a_trace_once_opened_and_closed_as_models_do(
    text: str, reasoning: str, is_truncated: bool, expected: str
) -> None:
    assert whole_text(Message(text, reasoning), "</think>", is_truncated=is_truncated) == expected


def test_other_delimiters_are_opened_in_their_own_way_or_not_at_all() -> None:
    message = Message("4", "hm")
    assert whole_text(message, "[/THINK]", is_truncated=False) == "[THINK]\nhm\n[/THINK]\n\n4"
    assert whole_text(message, "### Answer", is_truncated=False) == "hm\n### Answer\n\n4"
    assert whole_text(Message("hm\n### Answer\n4", ""), "### Answer", is_truncated=False) == "hm\n### Answer\n4"
