"""What pydantic refuses, as problems in a recipe's own words: where, the value, what is known there."""

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import TypeAdapter, ValidationError

from distill.config.base import one_of
from distill.config.sources import CONDITION_TAGS
from distill.core.errors import Problem

KINDS = ("lora", "full", "file", "hub", "reasoning_gym", "vllm", "endpoint", "dataset", "rule", "imitate", "prefer")
"""Kinds of sections. pydantic puts the kind of a section into a location, behind what holds the section."""
HOLDERS = ("source", "tune", "objective")
"""Fields that hold a section of some kind; items of lists may be one too."""
VARIANT_FIELDS = ("kind", "policy")
IN_RECIPES = {
    "tuple_type": "a list is needed",
    "dict_type": "a table is needed",
    "model_type": "a table is needed",
    "model_attributes_type": "a table is needed",
    "union_tag_not_found": "a table is needed",
}
"""Kind of a refusal of pydantic's -> how it is said of a recipe."""

Location = Sequence[str | int]


class _Place(NamedTuple):
    """A location of pydantic's, taken apart."""

    path: list[str | int]
    """The recipe's own path."""
    kind: str
    """The kind of the innermost section on it that has one; empty where none has."""
    kind_at: int
    """How much of `path` leads to that section; -1 where there is none."""
    union_at: int
    """How much of `path` leads to a value that may be of several types; -1 where there is none."""


def field_problems(error: ValidationError, raw: Mapping[str, Any], model: type) -> list[Problem]:
    """What is wrong with single fields of a recipe, or of another config `model`, written as `raw`."""
    details = [detail for detail in error.errors() if not _is_echo(detail)]
    places = [_place(detail["loc"], raw) for detail in details]
    groups: dict[tuple[str | int, ...], list[int]] = {}
    for number, place in enumerate(places):
        if not _is_explained(place, places):
            groups.setdefault(tuple(place.path), []).append(number)
    return [
        _problem([details[number] for number in numbers], places[numbers[0]], raw, model) for numbers in groups.values()
    ]


def _is_echo(detail: Any) -> bool:
    """pydantic counts the valid items: it calls a list too short when items were refused, which are reported by
    themselves."""
    return bool(detail["type"] == "too_short" and detail["ctx"]["actual_length"] < len(detail["input"]))


def _is_explained(place: _Place, others: Iterable[_Place]) -> bool:
    """Whether a value was refused as one type, while another type fits but for something inside it."""
    if place.union_at != len(place.path):
        return False
    return any(len(one.path) > len(place.path) and one.path[: one.union_at] == place.path for one in others)


def _problem(details: Sequence[Any], place: _Place, raw: Mapping[str, Any], model: type) -> Problem:
    """The problem of one field, which was refused as each of the types that it may have."""
    first, where = details[0], _where(place.path, raw)
    if first["type"] == "extra_forbidden":
        return Problem(where, *_unknown_key(place, raw, model))
    if first["type"] == "missing":
        return Problem(where, "is missing", "add it to the recipe")
    if first["type"] == "union_tag_invalid":
        tag, known = first["ctx"]["tag"], first["ctx"]["expected_tags"].replace("'", "").split(", ")
        return Problem(where, f"there is no kind {tag!r} of this section", one_of(tag, known))
    if first["type"] == "union_tag_not_found" and isinstance(first["input"], Mapping):
        field = first["ctx"]["discriminator"].strip("'")
        kinds = " or ".join(f"{field} = {kind!r}" for kind in _fields_at(model, place.path) if kind)
        return Problem(f"{where}.{field}", "is missing: it says what this is", f"add {kinds}")
    value = json.dumps(first.get("input"), default=str)[:200]
    messages = dict.fromkeys(_said(detail) for detail in details)
    needs_list = any(detail["type"] == "tuple_type" for detail in details)
    is_item = isinstance(first["input"], str | int | float)
    remedy = f"write it as a list: [{value}]" if needs_list and is_item else "correct the value"
    return Problem(where, f"{value} is refused: {', or '.join(messages)}", remedy)


def _said(detail: Any) -> str:
    """What is wrong with a value; pydantic speaks of Python's types, a recipe has lists and tables."""
    if detail["type"] in IN_RECIPES:
        return IN_RECIPES[detail["type"]]
    if detail["type"] == "too_short":
        least = detail["ctx"]["min_length"]
        return f"at least {least} item{'s' * (least > 1)} must be in it"
    return str(detail["msg"]).removeprefix("Value error, ")


# Locations


def _place(location: Location, raw: Any) -> _Place:
    """A location without what pydantic adds: kinds of sections, and the types that it has tried for a value."""
    path: list[str | int] = []
    node, kind, kind_at, union_at = raw, "", -1, -1
    for part in location:
        if len(path) > kind_at and _is_kind(path, part):
            kind, kind_at = str(part), len(path)
        elif isinstance(part, str) and (part in CONDITION_TAGS or not isinstance(node, Mapping)):
            union_at = len(path)
        else:
            path.append(part)
            node = _item(node, part)
    return _Place(path, kind, kind_at, union_at)


def _is_kind(path: Location, part: str | int) -> bool:
    """Whether a part names the kind of the section that the path leads to. Elsewhere it is a name of the recipe's own:
    a pool may be called `full`, and a column `dataset`."""
    if len(path) == 2 and path[0] == "mixes":
        return isinstance(part, str)
    return bool(path) and part in KINDS and (path[-1] in HOLDERS or isinstance(path[-1], int))


def _where(path: Location, raw: Any) -> str:
    """A path as a reader knows it: `teachers[long].sampling.max_tokens`."""
    text, node = "", raw
    for part in path:
        node = _item(node, part)
        if isinstance(part, int):
            text += f"[{node['name']}]" if isinstance(node, dict) and "name" in node else f"[{part}]"
        else:
            text += f".{part}" if text else str(part)
    return text


def _item(node: Any, part: str | int) -> Any:
    if isinstance(node, Mapping):
        return node.get(part)
    return node[part] if isinstance(node, list | tuple) and isinstance(part, int) and part < len(node) else None


# Known keys


def _unknown_key(place: _Place, raw: Mapping[str, Any], model: type) -> tuple[str, str]:
    """What is wrong with a key that a section does not have, and the remedy."""
    name, section = str(place.path[-1]), place.path[:-1]
    known = _fields_at(model, section)
    if len(known) < 2:
        return "is not a known key", _did_you_mean(name, next(iter(known.values()), []))
    kind = place.kind if place.kind_at == len(section) else ""
    own = known.get(kind, [])
    holders = [other for other, fields in known.items() if other != kind and name in fields]
    if not holders:
        others = {f"{one} (of {other!r})": one for other, fields in known.items() for one in fields if other != kind}
        own_close = difflib.get_close_matches(name, own, n=1)
        close = [label for label, one in others.items() if one in difflib.get_close_matches(name, others.values(), n=1)]
        is_elsewhere = close and not own_close
        return "is not a known key", f"did you mean {close[0]}?" if is_elsewhere else _did_you_mean(name, own)
    field = next((field for field in VARIANT_FIELDS if field in own), VARIANT_FIELDS[0])
    listed = " or ".join(f"{field} = {other!r}" for other in holders)
    chosen = f"of {field} = {kind!r}" + ("" if _says(raw, section, field) else ", which is the default")
    return f"belongs to {listed}; this one is {chosen}", f"correct {field}, or remove it; {_did_you_mean('', own)}"


def _says(raw: Any, path: Location, field: str) -> bool:
    for part in path:
        raw = _item(raw, part)
    return isinstance(raw, Mapping) and field in raw


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {close[0]!r}?" if close else f"known keys here: {', '.join(known) or 'none'}"


def _fields_at(model: type, path: Location) -> dict[str, list[str]]:
    """Kind -> field names of the section at a path; one entry under an empty name where it has no kinds."""
    schema = TypeAdapter(model).json_schema()
    nodes = [schema]
    for part in path:
        nodes = [child for node in nodes for child in _schema_children(_variants(node, schema), part)]
    found: dict[str, set[str]] = {}
    for node in nodes:
        for variant in _variants(node, schema):
            if properties := variant.get("properties"):
                found.setdefault(_kind_of(properties), set()).update(properties)
    return {kind: sorted(fields) for kind, fields in found.items()}


def _kind_of(properties: Mapping[str, Any]) -> str:
    return next((str(properties[name]["const"]) for name in VARIANT_FIELDS if "const" in properties.get(name, {})), "")


def _variants(node: Mapping[str, Any], schema: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    if "$ref" in node:
        return _variants(schema["$defs"][node["$ref"].rsplit("/", 1)[1]], schema)
    options = node.get("anyOf") or node.get("oneOf")
    return [variant for option in options for variant in _variants(option, schema)] if options else [node]


def _schema_children(nodes: Iterable[Mapping[str, Any]], part: str | int) -> Iterator[Any]:
    for node in nodes:
        if isinstance(part, int):
            yield node.get("items", {})
        else:
            yield node.get("properties", {}).get(part) or node.get("additionalProperties") or {}
