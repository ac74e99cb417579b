"""Files of a recipe that another recipe extends: they stay beside the recipe that names them."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cluster.storage import IN_PACKAGE, is_uri
from distill.config.base import items_of, section_of
from distill.config.shipped import RECIPES_DIR


def with_files_of(raw: Mapping[str, Any], folder: Path, extending: Path) -> dict[str, Any]:
    """The tables of a recipe with its relative data files as a recipe in another folder has to name them.

    Those of a shipped recipe are named by the package, which is on every machine of a cluster.

    Args:
        raw: the recipe as it was written.
        folder: where it is.
        extending: the folder of the recipe on top of it; in the same one nothing has to be changed.
    """
    found = dict(raw)
    folder = folder.resolve()
    if folder == extending.resolve():
        return found

    def placed(path: str) -> str:
        is_shipped = folder == RECIPES_DIR.resolve()
        return IN_PACKAGE + "/".join([*folder.parts[-2:], path]) if is_shipped else str(folder / path)

    if sources := items_of(section_of(raw, "prompts").get("sources")):
        found["prompts"] = {**section_of(raw, "prompts"), "sources": [_placed(one, placed) for one in sources]}
    if teachers := items_of(raw.get("teachers")):
        found["teachers"] = [_with_source(one, placed) for one in teachers]
    if benchmarks := section_of(raw, "benchmarks"):
        found["benchmarks"] = {name: _with_source(one, placed) for name, one in benchmarks.items()}
    return found


def _with_source(section: Any, placed: Callable[[str], str]) -> Any:
    if not isinstance(section, dict) or "source" not in section:
        return section
    return {**section, "source": _placed(section["source"], placed)}


def _placed(source: Any, placed: Callable[[str], str]) -> Any:
    path = source.get("path") if isinstance(source, dict) else None
    is_relative = isinstance(path, str) and not is_uri(path) and not Path(path).expanduser().is_absolute()
    return {**source, "path": placed(str(path))} if is_relative else source
