"""The recipe reference, from the config classes: `python -m distill.config.reference > docs/recipe-reference.md`."""

import ast
import inspect
import json
import textwrap
import typing
from collections.abc import Iterable, Iterator
from enum import Enum
from itertools import pairwise
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from distill.config.decides import decides, declared
from distill.config.recipe import Recipe

INTRODUCTION = """# Recipe reference

Generated from the config classes by `python -m distill.config.reference`; edit the docstrings there, not this page.

A recipe is a TOML file. It may extend another one (`extends = "quickstart"`, or a path): its tables are merged into
those of the other, and a list such as `[[students]]` replaces the other's list. On the command line a field is set by
its dotted name: `train.num_epochs=3`, `teachers.long.num_samples=8` (items of a list by name or number). A wrong recipe
is refused with all of its problems at once; `distill plan RECIPE` checks one without running anything.

`sizes = [100, 400]` at the top makes `short-100` and `short-400` of the mix `short`, with that `num_prompts`, and so on
for every mix and merge; command line and `[question]` name the mixes as they were written.

A source of prompts, a benchmark's source or a teacher of kind `dataset` may name a preset (`preset =
"nemotron-math-v2-low"`, [data sets](data.md)): it fills in what the recipe does not say.

`NAME` stands for a name that you choose, `[]` for the items of a list. **Decides** says what a change of the field
means for a run directory that exists already:

* the name of a stage: the field decides results of this stage, which is stale after a change, and so are the stages
  after it. What has a key of its own in them, such as a trace, a cell or a score, is redone only where that key has
  changed ([resumption](architecture.md#resumption-and-staleness)).
* `extent`: the field decides which results the stage has, but none of them by itself: results that exist are kept.
* `if set`: only where it has a value, the field is part of the key.
* `nothing`: no result depends on it.

A section that is used in several places is listed once; its fields decide from the stage of the field that holds it.
"""
IN_USE = {"benchmarks": "prompts", "models": "generate, mix"}
"""Of these sections only what is in use decides, from these stages on (`distill.config.identity.stage_parts`)."""
PLAIN = {str: "string", int: "integer", float: "number", bool: "`true` or `false`", Any: "any value"}
SIGNS = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<", "min_length": "length ≥", "max_length": "length ≤"}


class Part(NamedTuple):
    """A section to be printed."""

    path: str
    section: type[BaseModel]
    stage: str
    """The stage from which its fields decide, unless one says otherwise; empty: none."""


def reference() -> str:
    """The whole page."""
    paths = {part.section: part.path for part in sections()}
    return "\n".join([INTRODUCTION, *(_page_part(part, paths) for part in sections())])


def sections() -> list[Part]:
    """Every section of a recipe, each once: where it is first used."""
    return list(_parts(Part("", Recipe, "prompts"), {Recipe}))


def _parts(part: Part, seen: set[type[BaseModel]]) -> Iterator[Part]:
    yield part
    for name, field in part.section.model_fields.items():
        for section, brackets in _inside(field.annotation):
            if section not in seen:
                seen.add(section)
                path = f"{part.path}.{name}{brackets}".removeprefix(".")
                yield from _parts(Part(path, section, _stage(part.section, name, part.stage)), seen)


def _inside(annotation: Any, brackets: str = "") -> Iterator[tuple[type[BaseModel], str]]:
    """The sections in a field's type, each with `[]` where it is in a list and `.NAME` where it is in a table."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation, brackets
    elif origin is not Literal:
        inner = brackets + {dict: ".NAME", tuple: "[]"}.get(origin, "")
        for argument in arguments:
            yield from _inside(argument, inner)


def _stage(section: type[BaseModel], name: str, default: str) -> str:
    if section is Recipe and name in IN_USE:
        return IN_USE[name]
    is_part = default and decides(section, name) != "nothing"
    return declared(section.model_fields[name], "stage", default) if is_part else ""


def _page_part(part: Part, paths: dict[type[BaseModel], str]) -> str:
    kind = next((name for name, field in part.section.model_fields.items() if is_variant(name, field)), None)
    variant = f', `{kind} = "{part.section.model_fields[kind].default}"`' if kind else ""
    title = f"`{part.path}`{variant}" if part.path else "The recipe"
    head = [f"## {title}", "", " ".join((part.section.__doc__ or "").split()), ""]
    table = ["| field | type | default | what it does | decides |", "|---|---|---|---|---|"]
    rows = [_row(part, name, paths) for name in part.section.model_fields]
    return "\n".join([*head, *table, *rows, ""])


def described(section: type[BaseModel]) -> dict[str, str]:
    """Field -> the docstring below it, in one line; empty where it has none.

    pydantic's own `use_attribute_docstrings` parses the source of every section whenever a recipe is read.
    """
    found = dict.fromkeys(section.model_fields, "")
    for base in reversed(section.__mro__):
        if issubclass(base, BaseModel) and base is not BaseModel:
            found |= _docstrings(base)
    return found


def _docstrings(section: type[BaseModel]) -> dict[str, str]:
    """The same for the fields that stand in the class itself."""
    (node,) = ast.parse(textwrap.dedent(inspect.getsource(section))).body
    assert isinstance(node, ast.ClassDef)
    return {
        field.target.id: " ".join(below.value.value.split())
        for field, below in pairwise(node.body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(below, ast.Expr)
        and isinstance(below.value, ast.Constant)
        and isinstance(below.value.value, str)
    }


def is_variant(name: str, field: FieldInfo) -> bool:
    """Whether a field only says which of several variants its section is."""
    return name in ("kind", "policy") and typing.get_origin(field.annotation) is Literal


def _row(part: Part, name: str, paths: dict[type[BaseModel], str]) -> str:
    field, stage = part.section.model_fields[name], _stage(part.section, name, part.stage)
    text = "Selects this variant." if is_variant(name, field) else described(part.section)[name]
    means = ", ".join([stage, *{decides(part.section, name)} - {"result", "nothing"}]) if stage else "nothing"
    type_ = ", ".join([_type(field.annotation, paths), *_bounds(field.metadata)])
    escaped = text.replace("|", "\\|")
    return f"| `{name}` | {type_} | {_default(field)} | {escaped} | {means} |"


def _type(annotation: Any, paths: dict[type[BaseModel], str]) -> str:
    """How a value is written in TOML; sections by their headings."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{json.dumps(one)}`" for one in arguments)
    if origin is typing.Annotated:
        return ", ".join([_type(arguments[0], paths), *_bounds(arguments[1:])])
    if origin is dict:
        return f"table of {_type(arguments[1], paths)}"
    if arguments:
        options = dict.fromkeys(_type(one, paths) for one in arguments if one not in (..., type(None)))
        return ("list of " if origin is tuple else "") + " or ".join(options)
    if annotation in PLAIN:
        return PLAIN[annotation]
    if issubclass(annotation, Enum):
        return ", ".join(f'`"{one.value}"`' for one in annotation)
    return f"section `{paths[annotation]}`"


def _bounds(metadata: Iterable[Any]) -> list[str]:
    found = [one for item in metadata for one in (item.metadata if isinstance(item, FieldInfo) else [item])]
    values = [(sign, getattr(one, name, None)) for one in found for name, sign in SIGNS.items()]
    return [f"{sign} {value:,}".removesuffix(".0") for sign, value in values if isinstance(value, int | float)]


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "**required**"
    if value is None or isinstance(value, BaseModel):
        return "absent" if value is None else "its defaults"
    return f"`{json.dumps(value, ensure_ascii=False)}`"


if __name__ == "__main__":
    print(reference(), end="")
