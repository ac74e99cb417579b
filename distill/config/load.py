"""From TOML files and dotted overrides to one checked `Recipe`; all problems are reported at once."""

import json
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from distill.config.base import laid_over
from distill.config.evaluate import with_suites
from distill.config.field_problems import field_problems
from distill.config.presets import with_presets
from distill.config.recipe import Recipe
from distill.config.rules import cross_problems
from distill.config.shipped import RECIPES_DIR, shipped_recipes
from distill.config.sizes import with_sizes
from distill.core.errors import ConfigError, Problem


def find_recipe(name: str) -> Path:
    """The file of a recipe given by path or by shipped name.

    Raises:
        ConfigError: there is neither; names the shipped recipes.
    """
    for path in (Path(name), RECIPES_DIR / f"{name}.toml"):
        if path.is_file():
            return path
    remedy = f"give the path of a TOML file or one of: {', '.join(shipped_recipes())}"
    raise ConfigError([Problem("RECIPE", f"no file and no shipped recipe named {name!r}", remedy)])


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
        raw: dict[str, Any] = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (tomllib.TOMLDecodeError, json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise ConfigError([Problem(str(path), f"cannot be read: {error}", "correct the file")]) from error
    base = raw.pop("extends", None)
    if base is None:
        return raw
    beside = path.parent / str(base)
    return laid_over(read_recipe(beside if beside.is_file() else find_recipe(str(base)), (*seen, path.resolve())), raw)


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
        return Problem(override, "is not of the form key.path=value", "for example train.num_epochs=3")
    node: Any = raw
    *parents, last = key.strip().split(".")
    for part in parents:
        node = _child(node, part)
        if node is None:
            return Problem(key, f"there is no {part!r} to set a value in", "check the path against the recipe")
    if isinstance(node, list):
        index = _list_index(node, last)
        if index is None:
            return Problem(key, f"the list has no item {last!r}", "use a number or the name of an item")
        node[index] = _override_value(text)
    else:
        node[last] = _override_value(text)
    return None


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
