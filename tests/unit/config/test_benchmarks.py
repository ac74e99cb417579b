"""The table of benchmarks."""

import pytest

from distill.config.benchmarks import DEFINITIONS
from distill.config.sources import HubSource
from distill.prompts.rows.hub import COMMIT


@pytest.mark.parametrize("name", DEFINITIONS)
def test_every_definition_says_where_how_many_and_which_commit(name: str) -> None:
    one = DEFINITIONS[name]
    assert isinstance(one.config.source, HubSource) and one.num_problems >= 30
    assert COMMIT.fullmatch(one.config.source.revision)
