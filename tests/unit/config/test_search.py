"""What recipes may say of a search."""

from collections.abc import Mapping
from typing import Any

import pytest

from distill.config.load import parse_recipe
from distill.core.errors import ConfigError
from distill.train.cells import all_cells
from tests.fixtures.mix_run import RECIPE
from tests.fixtures.search_recipe import AUTO, search_recipe


def test_only_the_student_of_the_search_is_trained_on_its_arm() -> None:
    recipe = parse_recipe(search_recipe(merges=[{"name": "both", "of": ["long", "auto"]}]))
    names = {cell.name for cell in all_cells(recipe)}
    assert {"s@auto", "s@long", "t@long", "s@both"} <= names and not {"t@auto", "t@both"} & names


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"search": None}, "mixes[auto].weights"),
        ({"mixes": RECIPE["mixes"]}, "search"),
        ({"mixes": [AUTO | {"students": []}]}, "mixes[auto].students"),
        ({"mixes": [AUTO | {"students": ["u"]}]}, "mixes[auto].students"),
        ({"mixes": [AUTO | {"pools": ["long", "other"]}]}, "mixes[auto].pools"),
        ({"mixes": [AUTO | {"modes": {"long": "Think.", "short": "Be brief."}}]}, "mixes[auto].modes"),
        ({"search": {"benchmark": "gsm8k", "num_steps": 10}}, "search.benchmark"),
        ({"search": {"benchmark": "nowhere", "num_steps": 10}}, "search.benchmark"),
        ({"search": {"benchmark": "dev", "num_steps": 10, "grid": 1}}, "search.grid"),
    ],
)
def test_a_search_that_cannot_be_is_refused(changes: Mapping[str, Any], where: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse_recipe(search_recipe(**changes))
    assert where in str(error.value)
