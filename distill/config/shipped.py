"""The recipes that come with the package, by name. Reads none of them."""

from pathlib import Path

RECIPES_DIR = Path(__file__).parent.parent / "recipes"


def shipped_recipes() -> tuple[str, ...]:
    """Names of the recipes that come with the package."""
    return tuple(sorted(path.stem for path in RECIPES_DIR.glob("*.toml")))
