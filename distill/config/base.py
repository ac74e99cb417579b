"""What every section of the config tree is made of."""

import difflib
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Section(BaseModel):
    """Base of every section: frozen, unknown keys and numbers that are none refused, docstrings under fields are their
    help."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)


def names_of(items: Any) -> list[str]:
    """The names in a list of sections as it was written."""
    listed = items if isinstance(items, list | tuple) else ()
    return [str(item["name"]) for item in listed if isinstance(item, dict) and "name" in item]


def section_of(raw: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A section as it was written; empty where it is absent or no table."""
    value = raw.get(name)
    return value if isinstance(value, dict) else {}


def one_of(word: str, known: Iterable[str]) -> str:
    """A remedy that names what there is, the closest first."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}known: {', '.join(names) or 'none'}"


def circle(start: str, following: Callable[[str], Iterable[str]]) -> tuple[str, ...]:
    """A way from a name back to itself, with it at both ends; empty where there is none.

    `following`: the names that one leads to; none for a name that is unknown.
    """
    ways: list[tuple[str, ...]] = [(start, name) for name in following(start)]
    seen = set[str]()
    while ways:
        way = ways.pop()
        if way[-1] == start:
            return way
        if way[-1] not in seen:
            seen.add(way[-1])
            ways += [(*way, name) for name in following(way[-1])]
    return ()


def laid_over(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """Nested tables merged; anything else, lists included, as the one on top has it."""
    merged = {**base, **top}
    for name in base.keys() & top.keys():
        if isinstance(base[name], dict) and isinstance(top[name], dict):
            merged[name] = laid_over(base[name], top[name])
    return merged
