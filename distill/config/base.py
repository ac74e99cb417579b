"""What every section of the config tree is made of."""

import difflib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field

from distill.core.errors import Problem

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Section(BaseModel):
    """Base of every section: frozen, unknown keys and numbers that are none refused, docstrings under fields are their
    help."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)


def names_of(items: Any) -> list[str]:
    """The names in a list of sections as it was written."""
    return [str(item["name"]) for item in items_of(items) if isinstance(item, dict) and "name" in item]


def section_of(raw: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A section as it was written; empty where it is absent or no table."""
    value = raw.get(name)
    return value if isinstance(value, dict) else {}


def items_of(value: Any) -> Sequence[Any]:
    """The items of a list as it was written; none of anything else, which is a field problem: a text is no list of its
    letters."""
    return value if isinstance(value, list | tuple) else ()


def repeated(items: Iterable[Any]) -> list[Any]:
    """What a list names more than once, each once."""
    counts = Counter(items)
    return [item for item, count in counts.items() if count > 1]


def seed_problems(where: str, seeds: Any) -> Iterator[Problem]:
    """A training seed that is named twice: one run would be counted as two independent ones."""
    if twice := repeated(str(seed) for seed in items_of(seeds)):
        what = f"names {', '.join(twice)} twice: the same run would count as two, and make intervals too narrow"
        yield Problem(where, what, "name each seed once")


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
