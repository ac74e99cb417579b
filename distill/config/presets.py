"""Presets: mappings of published data sets, which a source or an imported teacher names as `preset = "..."`.

A preset is laid under the section that names it, before the recipe is checked: what the recipe says stands, and the
resolved recipe shows every field. With `path`, a preset is the mapping of a local copy of the data set.
"""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from distill.config.base import laid_over, one_of, section_of
from distill.config.preset_table import PRESETS, Fields, Preset
from distill.core.errors import Problem


class Expanded(NamedTuple):
    """A recipe's tables with the presets' fields, and what is wrong with the presets that it names."""

    raw: dict[str, Any]
    problems: list[Problem]


def with_presets(raw: Mapping[str, Any]) -> Expanded:
    """A recipe as it was written, with the fields of the presets that it names."""
    problems: list[Problem] = []
    found = dict(raw)
    prompts = section_of(raw, "prompts")
    if isinstance(prompts.get("sources"), list | tuple):
        sources = [_source(source, f"prompts.sources[{n}]", problems) for n, source in enumerate(prompts["sources"])]
        found["prompts"] = {**prompts, "sources": sources}
    if isinstance(raw.get("teachers"), list | tuple):
        found["teachers"] = [_teacher(teacher, problems) for teacher in raw["teachers"]]
    if isinstance(raw.get("benchmarks"), dict):
        found["benchmarks"] = {name: _benchmark(name, one, problems) for name, one in raw["benchmarks"].items()}
    return Expanded(found, problems)


def _benchmark(name: str, benchmark: Any, problems: list[Problem]) -> Any:
    if not isinstance(benchmark, dict) or "source" not in benchmark:
        return benchmark
    return {**benchmark, "source": _source(benchmark["source"], f"benchmarks.{name}.source", problems)}


def _source(source: Any, where: str, problems: list[Problem]) -> Any:
    preset, own = _named(source, where, problems)
    if preset is None:
        return own
    return _filled(preset.prompts, laid_over(_location(preset, own), own), preset, where, problems)


def _teacher(teacher: Any, problems: list[Problem]) -> Any:
    where = f"teachers[{teacher.get('name', '?')}]" if isinstance(teacher, dict) else "teachers"
    preset, own = _named(teacher, where, problems)
    if preset is None:
        return own
    source = laid_over(_location(preset, section_of(own, "source")), section_of(own, "source"))
    return _filled(preset.traces, {**own, "kind": "dataset", "source": source}, preset, where, problems)


def _filled(mapping: Fields | None, own: dict[str, Any], preset: Preset, where: str, problems: list[Problem]) -> Any:
    """A section on top of a preset's mapping of it."""
    if mapping is None:
        problems.append(Problem(f"{where}.preset", preset.note, "name another data set here"))
    elif not preset.dataset and "path" not in {**own, **section_of(own, "source")}:
        problems.append(Problem(f"{where}.preset", preset.note, "name the file or folder"))
    return laid_over(mapping or {}, own)


def _location(preset: Preset, own: Mapping[str, Any]) -> dict[str, Any]:
    """Where the rows are: the data set, unless the recipe names a copy."""
    is_copy = "path" in own or own.get("kind") == "file" or not preset.location
    if not is_copy:
        return preset.location
    return {"kind": "file", **({"licence": " and ".join(preset.licences)} if preset.licences else {})}


def _named(section: Any, where: str, problems: list[Problem]) -> tuple[Preset | None, Any]:
    """The preset that a section names, and the section without its name."""
    if not isinstance(section, dict) or "preset" not in section:
        return None, section
    own = {name: value for name, value in section.items() if name != "preset"}
    name = str(section["preset"])
    if name not in PRESETS:
        problems.append(Problem(f"{where}.preset", f"no preset is called {name!r}", one_of(name, PRESETS)))
    return PRESETS.get(name), own


def known_licences() -> Iterator[tuple[str, tuple[str, ...]]]:
    """(data set, licences) of all presets whose card was read."""
    return ((one.dataset, one.licences) for one in PRESETS.values() if one.dataset and one.licences)
