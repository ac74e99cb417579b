"""Grammars behind reasoning, checked by the grammar engine itself on whole texts. No model."""

import json
from typing import Any

import pytest
import xgrammar

from serve.api.constrained import after_reasoning, answer_format, constrained
from serve.api.reasoning_parser import Delimiters
from serve.api.tools import with_tools

SCHEMA = {
    "type": "object",
    "properties": {"a": {"enum": [1, 2]}},
    "required": ["a"],
    "additionalProperties": False,
}
JSON = {"response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}}
TOOLS = [{"type": "function", "function": {"name": name, "parameters": SCHEMA}} for name in ("add", "take")]
CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
END = 96
THINK, OPEN, CLOSED = Delimiters(), Delimiters(is_open=True), Delimiters(is_closed=True)


def accepts(form: dict[str, Any], text: str) -> bool:
    """Whether a whole text fits a format."""
    vocabulary = [chr(code) for code in range(32, 127)] + ["\n", "</s>"]
    info = xgrammar.TokenizerInfo(vocabulary, stop_token_ids=[END])
    grammar = xgrammar.Grammar.from_structural_tag(json.dumps({"type": "structural_tag", "format": form}))
    matcher = xgrammar.GrammarMatcher(xgrammar.GrammarCompiler(info).compile_grammar(grammar))
    return bool(matcher.accept_string(text)) and bool(matcher.accept_token(END))


@pytest.mark.parametrize(
    ("delimiters", "right", "wrong"),
    [
        (THINK, ['<think>hm {</think>\n\n{"a": 1}', '{"a": 2}'], ["7", "<think>hm", '<think>hm</think>{"a": 3}']),
        (OPEN, ['hm "1"</think>\n\n{"a": 1}'], ['{"a": 1}', "hm</think>7"]),
        (CLOSED, ['{"a": 1}'], ['hm</think>{"a": 1}']),
        (None, ['{"a": 1}'], ['<think>hm</think>{"a": 1}']),
    ],
)
def test_a_grammar_begins_behind_the_reasoning(
    delimiters: Delimiters | None, right: list[str], wrong: list[str]
) -> None:
    form = after_reasoning(answer_format(JSON), delimiters)
    assert all(accepts(form, text) for text in right)
    assert not any(accepts(form, text) for text in wrong)


@pytest.mark.parametrize(
    ("wanted", "right", "wrong"),
    [
        ({"structured_outputs": {"choice": ["yes", "no"]}}, "no", "maybe"),
        ({"structured_outputs": {"choice": ["yes"]}}, "yes", "no"),
        ({"structured_outputs": {"regex": "[0-9]{2}"}}, "42", "4"),
        ({"structured_outputs": {"json": json.dumps(SCHEMA)}}, '{"a": 2}', '{"a": 3}'),
        ({"structured_outputs": {"json_object": True}}, '{"b": [1]}', "[1]"),
        ({"structured_outputs": {"grammar": 'root ::= "x" [0-9]'}}, "x1", "y"),
        ({"response_format": {"type": "json_object"}}, "{}", "1"),
    ],
)
def test_every_constraint_has_a_format(wanted: dict[str, Any], right: str, wrong: str) -> None:
    form = constrained({"model": "m", **wanted}, OPEN)["response_format"]["format"]
    assert accepts(form, f"hm</think>\n{right}") and not accepts(form, f"hm</think>\n{wrong}")


def test_a_request_without_constraint_or_reasoning_is_left_as_it_is() -> None:
    for fields, delimiters in (({"response_format": {"type": "text"}}, OPEN), (JSON, None), (JSON, CLOSED)):
        assert constrained(fields, delimiters) == fields


@pytest.mark.parametrize(
    ("choice", "right", "wrong"),
    [
        ({}, ["hi", CALL, f"So: {CALL}", f"{CALL}\n{CALL}"], ["<tool_call>7</tool_call>", CALL.replace("add", "x")]),
        ({"tool_choice": "required"}, [CALL, f"{CALL}\n{CALL}"], ["hi", CALL.replace("1", "3")]),
        ({"tool_choice": "required", "parallel_tool_calls": False}, [CALL], [f"{CALL}\n{CALL}"]),
        ({"tool_choice": {"type": "function", "function": {"name": "add"}}}, [CALL], [CALL.replace("add", "take")]),
    ],
)
def test_calls_fit_their_tools(choice: dict[str, Any], right: list[str], wrong: list[str]) -> None:
    asked = with_tools({"model": "m", "tools": TOOLS, **choice}, None)
    form = asked["response_format"]["format"]
    assert (asked["tool_choice"], asked["tools"]) == ("none", TOOLS)
    assert all(accepts(form, text) for text in right)
    assert not any(accepts(form, text) for text in wrong)
    behind = with_tools({"model": "m", "tools": TOOLS, **choice}, OPEN)["response_format"]["format"]
    assert all(accepts(behind, f"hm</think>\n\n{text}") for text in right)
