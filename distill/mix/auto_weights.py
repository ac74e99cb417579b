"""Replaces `weights = "auto"` by the weights that the search found."""

from collections.abc import Mapping

from distill.config.mix import AutoMix, WeightedMix
from distill.config.recipe import Recipe
from distill.core.manifest import Manifest

Weights = Mapping[str, float]


def auto_arms(recipe: Recipe) -> dict[str, AutoMix]:
    """Name -> arm with `weights = "auto"`."""
    return {mix.name: mix for mix in recipe.mixes if isinstance(mix, AutoMix)}


def weighted_arm(mix: AutoMix, weights: Weights, name: str) -> WeightedMix:
    """The `weighted` arm that an arm becomes with some weights, under a name; it takes the run's number of steps."""
    return WeightedMix(
        name=name, weights=dict(weights), students=mix.students, num_prompts=mix.num_prompts, sources=mix.sources
    )


def with_weights(recipe: Recipe, chosen: Mapping[str, Weights]) -> Recipe:
    """The recipe with "auto" replaced by weights; arms without found weights stay as they are."""
    mixes = [
        weighted_arm(mix, chosen[mix.name], mix.name).model_copy(update={"num_steps": mix.num_steps})
        if isinstance(mix, AutoMix) and mix.name in chosen
        else mix
        for mix in recipe.mixes
    ]
    return recipe.model_copy(update={"mixes": tuple(mixes)})


def with_found_weights(recipe: Recipe, search: Manifest | None) -> Recipe:
    """The recipe with the weights that the search stage's manifest records."""
    found = search.details["arms"] if search else {}
    return with_weights(recipe, {name: entry["weights"] for name, entry in found.items()})
