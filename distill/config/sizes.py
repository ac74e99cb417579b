"""`sizes = [100, 400]` of a recipe: every mix and every merge once per size, before anything is checked."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from distill.config.base import section_of
from distill.core.errors import Problem

Expanded = dict[str, list[str]]
"""Name as it was written -> its names with a size."""


def with_sizes(raw: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """The recipe with `NAME-100`, `NAME-400`, ... in the place of every mix and merge NAME; what stands in the way.

    A merge of one size is made of the mixes of that size, and `after` means the arm of that size. Names in `[question]`
    stand for all sizes.
    """
    recipe = dict(raw)
    sizes = recipe.pop("sizes", ())
    mixes, merges = (_tables(recipe.get(section)) for section in ("mixes", "merges"))
    problems = [*_size_problems(sizes), *(problem for mix in mixes for problem in _mix_problems(mix))] if sizes else []
    if problems or not sizes:
        return recipe, problems
    names: Expanded = {
        str(one.get("name")): [f"{one.get('name')}-{size}" for size in sizes] for one in (*mixes, *merges)
    }
    recipe["mixes"] = [_mix(mix, size, names) for mix in mixes for size in sizes]
    if merges:
        recipe["merges"] = [_merge(merge, size, names) for merge in merges for size in sizes]
    if question := section_of(recipe, "question"):
        recipe["question"] = {name: _expanded(value, names) for name, value in question.items()}
    return recipe, []


def _tables(items: Any) -> list[Any]:
    return [item for item in items if isinstance(item, dict)] if isinstance(items, list | tuple) else []


def _sized(section: Mapping[str, Any], size: int) -> dict[str, Any]:
    return {**section, "name": f"{section.get('name')}-{size}"}


def _mix(mix: Mapping[str, Any], size: int, names: Expanded) -> dict[str, Any]:
    after = {"after": f"{mix['after']}-{size}"} if mix.get("after") in names else {}
    return _sized(mix, size) | {"num_prompts": size} | after


def _merge(merge: Mapping[str, Any], size: int, names: Expanded) -> dict[str, Any]:
    parents = merge.get("of")
    named = [f"{one}-{size}" if one in names else one for one in parents] if isinstance(parents, list) else parents
    return _sized(merge, size) | {"of": named}


def _expanded(value: Any, names: Expanded) -> Any:
    """A list of names, each in all of its sizes; anything else as it is."""
    return [one for name in value for one in names.get(name, [name])] if isinstance(value, list) else value


def _size_problems(sizes: Any) -> Iterator[Problem]:
    listed: Sequence[Any] = sizes if isinstance(sizes, list | tuple) else [None]
    is_number = all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in listed)
    if not is_number or len(set(listed)) < len(listed):
        what = f"{sizes!r} are not different whole numbers above 0"
        yield Problem("sizes", what, "list the numbers of prompts, as in sizes = [100, 400]")


def _mix_problems(mix: Mapping[str, Any]) -> Iterator[Problem]:
    where = f"mixes[{mix.get('name')}]"
    if mix.get("num_prompts") is not None:
        what = f"is {mix['num_prompts']!r}, and `sizes` gives every mix its numbers of prompts"
        yield Problem(f"{where}.num_prompts", what, "remove it, or remove sizes and name every mix")
    if mix.get("weights") == "auto":
        what = '"auto": weights are not searched for every one of `sizes`'
        yield Problem(f"{where}.weights", what, "name the weights, or remove sizes")
