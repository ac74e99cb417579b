"""A round of a search."""

from distill.config.load import parse_recipe
from distill.search.stage import round_recipe, trial_name
from distill.train.cells import cells
from tests.fixtures.search_recipe import search_recipe


def test_a_round_is_a_small_run_that_never_sees_the_reported_benchmarks() -> None:
    recipe = parse_recipe(search_recipe())
    trials = {"auto": [{"long": 0.25, "short": 0.75}, {"long": 1.0, "short": 0.0}]}
    assert recipe.search is not None
    inside = round_recipe(recipe, recipe.search, trials, 2)
    assert [cell.name for cell in cells(inside)] == ["s@auto.25-75", "s@auto.100-0"]
    assert inside.evaluate.benchmarks == ("dev",) and inside.train.num_steps == 20
    assert trial_name("auto", trials["auto"][0]) == "auto.25-75"
