"""Recipes whose weights were left open, with the weights that a search found: from then on they are weighted arms."""

from collections.abc import Mapping

from distill.config.mix import AutoMix, WeightedMix
from distill.config.recipe import Recipe
from distill.core.run_dir import Manifest

Weights = Mapping[str, float]


def searched_arms(recipe: Recipe) -> dict[str, AutoMix]:
    """The arms whose weights are open, by name."""
    return {mix.name: mix for mix in recipe.mixes if isinstance(mix, AutoMix)}


def settled_mix(mix: AutoMix, weights: Weights, name: str) -> WeightedMix:
    """One arm with weights, under a name."""
    return WeightedMix(name=name, weights=dict(weights), students=mix.students)


def settled(recipe: Recipe, chosen: Mapping[str, Weights]) -> Recipe:
    """The recipe with the weights that were found; arms that were not searched yet stay open."""
    mixes = [
        settled_mix(mix, chosen[mix.name], mix.name) if isinstance(mix, AutoMix) and mix.name in chosen else mix
        for mix in recipe.mixes
    ]
    return recipe.model_copy(update={"mixes": tuple(mixes)})


def settled_by(recipe: Recipe, manifest: Manifest | None) -> Recipe:
    """The recipe with the weights that a mix manifest records."""
    found = manifest.details.get("search", {}) if manifest else {}
    return settled(recipe, {name: entry["weights"] for name, entry in found.items()})
