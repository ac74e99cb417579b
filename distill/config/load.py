"""From TOML files and dotted overrides to one checked `Recipe`; all problems are reported at once."""

import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from distill.config.base import laid_over, names_of, one_of
from distill.config.evaluate import with_suites
from distill.config.field_problems import field_problems
from distill.config.inherited_files import with_files_of
from distill.config.presets import with_presets
from distill.config.recipe import Recipe
from distill.config.rules import cross_problems
from distill.config.shipped import RECIPES_DIR, shipped_recipes
from distill.config.sizes import with_sizes
from distill.core.errors import ConfigError, Problem


def find_recipe(name: str, where: str = "RECIPE") -> Path:
    """The file of a recipe given by path or by shipped name.

    Args:
        name: path or shipped name.
        where: what names it, for the error.

    Raises:
        ConfigError: there is neither; names the shipped recipes.
    """
    for path in (Path(name), RECIPES_DIR / f"{name}.toml"):
        if path.is_file():
            return path
    remedy = f"give the path of a TOML file or one of: {', '.join(shipped_recipes())}"
    raise ConfigError([Problem(where, f"no file and no shipped recipe named {name!r}", remedy)])


def load_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe, apply `key.path=value` overrides, check everything.

    Raises:
        ConfigError: with every problem of the recipe.
    """
    raw = read_recipe(path)
    problems = [problem for override in overrides if (problem := apply_override(raw, override))]
    return parse_recipe(raw, problems)


def read_recipe(path: Path, seen: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A recipe's tables, on top of those of the recipe that it `extends` (a path beside it, or a shipped name).

    Raises:
        ConfigError: a file cannot be read, or recipes extend each other in a circle.
    """
    if path.resolve() in seen:
        circle = " -> ".join(one.stem for one in (*seen, path))
        raise ConfigError([Problem("extends", f"extends itself: {circle}", "remove `extends` from one of them")])
    try:
        text = path.read_text(encoding="utf-8")
        raw: Any = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (tomllib.TOMLDecodeError, json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError([Problem(str(path), f"cannot be read: {error}", "correct the file")]) from error
    if not isinstance(raw, dict):
        what = f"holds a {type(raw).__name__} of JSON, and a recipe is an object"
        raise ConfigError([Problem(str(path), what, 'write it as { "name": ..., ... }')])
    base = raw.pop("extends", None)
    if base is None:
        return raw
    beside = path.parent / str(base)
    below = beside if beside.is_file() else find_recipe(str(base), f"{path}: extends")
    inherited = read_recipe(below, (*seen, path.resolve()))
    return laid_over(with_files_of(inherited, below.parent, path.parent), raw)


def parse_recipe(raw: Mapping[str, Any], problems: Iterable[Problem] = ()) -> Recipe:
    """A checked recipe from a nested mapping.

    Raises:
        ConfigError: with every problem, those of single fields and those between sections.
    """
    raw, unsized = with_sizes(raw)
    raw, unknown = with_presets(raw)
    raw, unnamed = with_suites(raw)
    found = [*problems, *unsized, *unknown, *unnamed]
    recipe: Recipe | None = None
    try:
        recipe = Recipe.model_validate(raw)
    except ValidationError as error:
        found += field_problems(error, raw, Recipe)
    found += cross_problems(raw)
    if found or recipe is None:
        raise ConfigError(found)
    return recipe


def apply_override(raw: dict[str, Any], override: str) -> Problem | None:
    """Set one dotted key in place; list items are addressed by number or by their `name`. Returns what is wrong."""
    key, separator, text = override.partition("=")
    if not separator:
        return Problem(
            override,
            "is not of the form key.path=value",
            "for example train.num_epochs=3; a value with spaces goes into quotes",
        )
    node: Any = raw
    *parents, last = _parts(raw, key.strip())
    if not all([*parents, last]):
        return Problem(override, "has an empty name in its key", "for example train.num_epochs=3")
    for part in parents:
        child = _child(node, part)
        if child is None:
            return _no_place(key, part, node)
        node = child
    if isinstance(node, list) and (index := _list_index(node, last)) is not None:
        node[index] = _override_value(text)
    elif isinstance(node, dict):
        node[last] = _override_value(text)
    else:
        return _no_place(key, last, node)
    return None


def _parts(raw: Mapping[str, Any], key: str) -> list[str]:
    """The names in a dotted key. A name that the recipe has may hold dots itself: of several the longest is meant."""
    parts, rest = list[str](), key.split(".")
    node: Any = raw
    while rest:
        known = names_of(node) if isinstance(node, list) else node if isinstance(node, dict) else ()
        lengths = (count for count in range(len(rest), 1, -1) if ".".join(rest[:count]) in known)
        length = next(lengths, 1)
        parts.append(".".join(rest[:length]))
        rest = rest[length:]
        node = _existing(node, parts[-1])
    return parts


def _existing(node: Any, part: str) -> Any:
    """What a part of a key leads to; None where there is nothing yet."""
    return node.get(part) if isinstance(node, dict) else _child(node, part)


def _no_place(key: str, part: str, node: Any) -> Problem:
    """That a part of an override's key leads nowhere."""
    if isinstance(node, list):
        return Problem(
            key, f"the list has no item {part!r}", f"use a number from 0, or a name; {one_of(part, names_of(node))}"
        )
    return Problem(key, f"there is nothing that {part!r} could be set in: before it stands {node!r}", "shorten the key")


def _child(node: Any, part: str) -> Any:
    if isinstance(node, list):
        index = _list_index(node, part)
        return None if index is None else node[index]
    return node.setdefault(part, {}) if isinstance(node, dict) else None


def _list_index(items: list[Any], part: str) -> int | None:
    if part.isdigit() and int(part) < len(items):
        return int(part)
    names = [item.get("name") if isinstance(item, dict) else None for item in items]
    return names.index(part) if part in names else None


def _override_value(text: str) -> Any:
    """TOML value where it is one, else the text itself: `lr=1e-4`, `name=short`, `seeds=[0,1]`."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
