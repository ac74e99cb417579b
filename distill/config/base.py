"""What every section of the config tree is made of."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=64)]
GpuName = Annotated[str, Field(pattern=r"^[A-Za-z0-9-]*$", max_length=40)]
"""A kind of GPU as Ray names it: `H100`, `A100-80G`, `L4`. Empty: any."""
Share = Annotated[float, Field(ge=0.0, le=1.0)]


class Section(BaseModel):
    """Base of every section: frozen, unknown keys refused, docstrings under fields are their help."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    ADDED_LATER: ClassVar[tuple[str, ...]] = ()
    """Fields that older recipes could not have. They are left out of dumps while they say nothing, so that the keys of
    finished runs (content hashes of dumps) stay what they are."""

    @model_serializer(mode="wrap")
    def _said(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {
            name: value
            for name, value in dump(self).items()
            if name not in self.ADDED_LATER or value not in (None, {}, (), [], "")
        }


def _names(items: Any) -> list[str]:
    listed = items if isinstance(items, list | tuple) else ()
    return [str(item["name"]) for item in listed if isinstance(item, dict) and "name" in item]


def _section(raw: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = raw.get(name)
    return value if isinstance(value, dict) else {}


def one_of(word: str, known: Iterable[str]) -> str:
    """A remedy that names what there is, the closest first."""
    names = sorted(known)
    close = difflib.get_close_matches(word, names, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}known: {', '.join(names) or 'none'}"
