"""How a field says which results it decides, and what follows: identities and the parts of stages.

A field decides results unless it says otherwise, so a new one is safe by default. The declaration stands at the field,
as `Field(json_schema_extra=NOTHING)`, or at a section for all of its fields. An identity is the part of a section that
decides one result: a pool's traces, a cell's weights, a model's score. A stage's part is every field that decides from
this stage on: what makes it stale.
"""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.config import JsonDict
from pydantic.fields import FieldInfo
from pydantic_core import to_jsonable_python

RESULT: JsonDict = {"decides": "result"}
"""The default; for a field of a section that declares something else for all of its fields."""
NOTHING: JsonDict = {"decides": "nothing"}
"""Decides no result: how fast, where, how often tried. Part of no key."""
EXTENT: JsonDict = {"decides": "extent"}
"""Decides which results there are, but none of them by itself: part of its stage's key, so that the stage looks again,
and of no identity, so that what is there stays."""
IF_SET: JsonDict = {"decides": "if set"}
"""Decides results where it has a value; absent, it adds nothing to an identity."""

EMPTY: tuple[Any, ...] = (None, {}, (), [], "")
_ABSENT = object()


def from_stage(stage: str, declaration: JsonDict | None = None) -> JsonDict:
    """The field makes this stage stale, not that of the section around it. It stays in identities: add `EXTENT` or
    `NOTHING` to keep it out of them."""
    return {"stage": stage, **(declaration or {})}


def hashed_as(name: str) -> JsonDict:
    """The name that identities hash the field under: renaming a field must not ask paid teachers again."""
    return {"hashed_as": name}


def declared(field: FieldInfo, what: str, default: str) -> str:
    """What a field declares of itself."""
    extra = field.json_schema_extra
    return str(extra.get(what, default)) if isinstance(extra, dict) else default


def decides(section: type[BaseModel], name: str) -> str:
    """What a field decides: as it declares, or else as its section does, or else results."""
    extra = section.model_config.get("json_schema_extra")
    default = str(extra.get("decides", "result")) if isinstance(extra, dict) else "result"
    return declared(section.model_fields[name], "decides", default)


def identity(section: BaseModel) -> dict[str, Any]:
    """What of a section decides a result: all fields but those that declare `EXTENT` or `NOTHING`."""
    return {
        declared(field, "hashed_as", name): _identity(getattr(section, name))
        for name, field in type(section).model_fields.items()
        if _is_deciding(decides(type(section), name), getattr(section, name))
    }


def _is_deciding(declaration: str, value: Any) -> bool:
    return declaration == "result" or (declaration == "if set" and value not in EMPTY)


def _identity(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return identity(value)
    if isinstance(value, list | tuple):
        return [_identity(item) for item in value]
    if isinstance(value, Mapping):
        return {str(key): _identity(item) for key, item in value.items()}
    return to_jsonable_python(value)


def stage_part(section: BaseModel, stage: str, section_stage: str) -> dict[str, Any]:
    """The fields of a section that decide from a stage on.

    Args:
        section: any section, with those inside it.
        stage: the one that is asked for.
        section_stage: from which the section's fields decide, unless one says otherwise.
    """
    found = {
        name: _part(getattr(section, name), stage, declared(field, "stage", section_stage))
        for name, field in type(section).model_fields.items()
        if _is_part(decides(type(section), name), getattr(section, name))
    }
    return {name: value for name, value in found.items() if value is not _ABSENT}


def _is_part(declaration: str, value: Any) -> bool:
    return declaration in ("result", "extent") or (declaration == "if set" and value not in EMPTY)


def _part(value: Any, stage: str, own_stage: str) -> Any:
    if isinstance(value, BaseModel):
        return stage_part(value, stage, own_stage) or _ABSENT
    if isinstance(value, tuple) and value and all(isinstance(item, BaseModel) for item in value):
        parts = [_named(item, stage_part(item, stage, own_stage)) for item in value]
        return parts if any(parts) else _ABSENT
    if isinstance(value, Mapping) and value and all(isinstance(item, BaseModel) for item in value.values()):
        inner = {str(key): stage_part(item, stage, own_stage) for key, item in value.items()}
        return inner if any(inner.values()) else _ABSENT
    return to_jsonable_python(value) if own_stage == stage else _ABSENT


def _named(item: BaseModel, part: dict[str, Any]) -> dict[str, Any]:
    """A part says whose it is: what changed is named by it."""
    name = getattr(item, "name", None)
    return {"name": name, **part} if part and name else part
