"""Which arms teach the same prompts: those of a pass with the same `sources`; without, prompts of all sources."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from distill.config.base import items_of, one_of, repeated, section_of
from distill.config.mix import MixConfig
from distill.config.sources import GymSource
from distill.core.errors import Problem


class GroupKey(NamedTuple):
    """What arms that teach the same prompts have in common."""

    sources: tuple[str, ...]
    """Names; empty: all sources."""
    number: int = 1
    """Of the pass in which they are mixed (`distill.config.passes`)."""


class ArmGroup(NamedTuple):
    """The mixes that teach the same prompts: of some sources, those that all pools of all of them solved."""

    key: GroupKey
    mixes: tuple[MixConfig, ...]

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the sources; empty: all."""
        return self.key.sources

    @property
    def pools(self) -> tuple[str, ...]:
        """Every pool that any of the mixes names, also with weight 0; sorted."""
        return tuple(sorted({pool for mix in self.mixes for pool in mix.shares}))

    def has(self, source: str) -> bool:
        """Whether its mixes teach the prompts of a source."""
        return not self.sources or source in self.sources


def arm_groups(mixes: Sequence[MixConfig], passes: Mapping[str, int]) -> tuple[ArmGroup, ...]:
    """The mixes by pass and by the sources of their prompts: earlier passes first, then in the recipe's order.

    `passes`: arm -> number of its pass.
    """
    keys = {mix.name: GroupKey(sources_of(mix), passes[mix.name]) for mix in mixes}
    found = sorted(dict.fromkeys(keys.values()), key=lambda key: key.number)
    return tuple(ArmGroup(key, tuple(mix for mix in mixes if keys[mix.name] == key)) for key in found)


def sources_of(mix: MixConfig) -> tuple[str, ...]:
    """The sources of a mix, each once, in whatever order they were written."""
    return tuple(sorted(set(mix.sources)))


def size_problems(raw: Mapping[str, Any], mixes: Sequence[MixConfig]) -> Iterator[Problem]:
    """Arms of more prompts than the run can have in common: it reads fewer, or stops asking earlier."""
    for mix in mixes:
        if mix.num_prompts is None:
            continue
        where = f"mixes[{mix.name}].num_prompts"
        for section, field in (("prompts", "num_prompts"), ("generate", "enough_prompts")):
            most = section_of(raw, section).get(field)
            if isinstance(most, int) and mix.num_prompts > most:
                what = f"{mix.num_prompts}, but {section}.{field} is {most}"
                yield Problem(where, what, f"lower it, or raise {section}.{field}")
        if (rows := most_rows(raw, mix.sources)) is not None and mix.num_prompts > rows:
            what = f"{mix.num_prompts}, but its sources ({', '.join(mix.sources)}) have at most {rows} rows"
            yield Problem(where, what, "lower it, or have the sources give more")


def most_rows(raw: Mapping[str, Any], names: Sequence[str]) -> int | None:
    """Most rows that some sources give together, as far as the recipe says; None where it does not."""
    sources = [one for one in _named_sources(raw) if one["name"] in names]
    sizes = [one.get("size") or GYM_SIZE if one.get("kind") == GYM else one.get("max_rows") for one in sources]
    known = [size for size in sizes if isinstance(size, int)]
    return sum(known) if sources and len(known) == len(sizes) else None


GYM, GYM_SIZE = (GymSource.model_fields[name].default for name in ("kind", "size"))


def _named_sources(raw: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    listed = items_of(section_of(raw, "prompts").get("sources"))
    return [one for one in listed if isinstance(one, dict) and one.get("name")]


def source_problems(raw: Mapping[str, Any], mixes: Sequence[MixConfig]) -> Iterator[Problem]:
    """Sources that no mix can name, and settings that count the prompts of all sources together."""
    known = [str(one["name"]) for one in _named_sources(raw)]
    for name in sorted(repeated(known)):
        yield Problem("prompts.sources", f"the name {name!r} is used {known.count(name)} times", "give each its own")
    for mix in mixes:
        for name in mix.sources:
            if name not in known:
                what, remedy = f"no source is called {name!r}", f"name one of prompts.sources; {one_of(name, known)}"
                yield Problem(f"mixes[{mix.name}].sources", what, remedy)
    if any(mix.sources for mix in mixes) and section_of(raw, "generate").get("enough_prompts") is not None:
        what = "counts the prompts of all sources together, and mixes have sources of their own"
        yield Problem("generate.enough_prompts", what, "remove it, or have the sources give fewer rows")
