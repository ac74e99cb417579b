"""Weights that a search found."""

from distill.config.load import parse_recipe
from distill.mix.auto_weights import with_found_weights, with_weights
from tests.fixtures.search_recipe import search_recipe


def test_found_weights_make_an_ordinary_arm() -> None:
    recipe = parse_recipe(search_recipe())
    found = with_weights(recipe, {"auto": {"long": 0.25, "short": 0.75}}).mixes[-1]
    assert found.policy == "weighted" and found.shares == {"long": 0.25, "short": 0.75} and found.students == ("s",)
    assert with_found_weights(recipe, None) == recipe
