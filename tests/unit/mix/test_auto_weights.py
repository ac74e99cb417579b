"""Weights that a search found."""

from distill.config.load import parse_recipe
from distill.mix.auto_weights import auto_arms, weighted_arm, with_found_weights, with_weights
from tests.fixtures.search_recipe import search_recipe


def test_found_weights_make_an_ordinary_arm() -> None:
    recipe = parse_recipe(search_recipe())
    found = with_weights(recipe, {"auto": {"long": 0.25, "short": 0.75}}).mixes[-1]
    assert found.policy == "weighted" and found.shares == {"long": 0.25, "short": 0.75} and found.students == ("s",)
    assert with_found_weights(recipe, None) == recipe


def test_a_found_arm_keeps_how_much_it_is_trained_on_and_its_trials_take_the_steps_of_the_round() -> None:
    recipe = parse_recipe(search_recipe())
    sized = recipe.mixes[-1].model_copy(update={"num_prompts": 9, "num_steps": 30, "sources": ("sums",)})
    recipe = recipe.model_copy(update={"mixes": (*recipe.mixes[:-1], sized)})
    weights = {"long": 0.25, "short": 0.75}
    arms = (
        with_weights(recipe, {"auto": weights}).mixes[-1],
        weighted_arm(auto_arms(recipe)["auto"], weights, "trial"),
    )
    found, trial = [(arm.num_prompts, arm.num_steps, arm.sources) for arm in arms]
    assert (found, trial) == ((9, 30, ("sums",)), (9, None, ("sums",)))
