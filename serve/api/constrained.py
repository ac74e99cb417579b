"""Answers that a grammar constrains, behind reasoning that none does. Pure.

An engine applies a grammar from the first token on, or behind the token that ends a model's reasoning. Delimiters here
are texts, several tokens for most tokenizers, so the reasoning becomes a part of the grammar: any text between the
delimiters, then the answer. The engine reads it as a structural tag (XGrammar's name and form): one request as any
other, with streams, choices and log-probabilities.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from serve.api.reasoning_parser import Delimiters

Format = dict[str, Any]
"""A format of a structural tag."""

CONSTRAINTS = ("response_format", "structured_outputs")
"""Request fields that constrain an answer."""

ANY_OBJECT: Mapping[str, Any] = {"type": "object"}
_NEWLINES: Format = {"type": "regex", "pattern": r"\n*"}


def is_constrained(fields: Mapping[str, Any]) -> bool:
    """Whether a request has its answer constrained."""
    named = fields.get("response_format") or {"type": "text"}
    return named["type"] != "text" or fields.get("structured_outputs") is not None


def constrained(fields: Mapping[str, Any], delimiters: Delimiters | None) -> dict[str, Any]:
    """The request as the engine gets it: what it constrains its answer to holds behind the reasoning.

    Args:
        fields: the request.
        delimiters: of the model's reasoning behind this prompt; None for a model that does not reason.
    """
    if not is_constrained(fields) or delimiters is None or delimiters.is_closed:
        return dict(fields)
    return with_format(fields, after_reasoning(answer_format(fields), delimiters))


def with_format(fields: Mapping[str, Any], form: Format) -> dict[str, Any]:
    """The request, constrained to a format alone."""
    kept = {name: value for name, value in fields.items() if name not in CONSTRAINTS}
    return kept | {"response_format": {"type": "structural_tag", "format": form}}


def after_reasoning(answer: Format, delimiters: Delimiters | None) -> Format:
    """The answer, behind reasoning where the model may reason."""
    if delimiters is None or delimiters.is_closed:
        return answer
    opening = "" if delimiters.is_open else delimiters.start
    thinking = {"type": "tag", "begin": opening, "content": {"type": "any_text"}, "end": delimiters.end}
    reasoned = _sequence([thinking, _NEWLINES, answer])
    return reasoned if delimiters.is_open else _either([reasoned, answer])


def answer_format(fields: Mapping[str, Any]) -> Format:
    """What a request constrains its answer to."""
    named = fields.get("response_format") or {"type": "text"}
    if named["type"] == "json_schema":
        return json_format(named["json_schema"]["schema"])
    wanted = fields.get("structured_outputs") or {"json_object": True}
    if wanted.get("regex") is not None:
        return {"type": "regex", "pattern": wanted["regex"]}
    if wanted.get("choice") is not None:
        return _either([{"type": "const_string", "value": choice} for choice in wanted["choice"]])
    if wanted.get("grammar") is not None:
        return {"type": "grammar", "grammar": wanted["grammar"]}
    schema = wanted.get("json")
    return json_format(json.loads(schema) if isinstance(schema, str) else schema or ANY_OBJECT)


def json_format(schema: Mapping[str, Any]) -> Format:
    """JSON that fits a schema."""
    return {"type": "json_schema", "json_schema": dict(schema)}


def _sequence(parts: Sequence[Format]) -> Format:
    return {"type": "sequence", "elements": list(parts)}


def _either(parts: Sequence[Format]) -> Format:
    return parts[0] if len(parts) == 1 else {"type": "or", "elements": list(parts)}
