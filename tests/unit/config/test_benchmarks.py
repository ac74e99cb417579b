"""The table of benchmarks."""

from pathlib import Path

import pytest

from cluster.storage import IN_PACKAGE, package_path
from distill.config.benchmarks import DEFINITIONS, BenchmarkConfig, regression_benchmarks
from distill.config.sources import FileSource, HubSource
from distill.prompts.rows.hub import COMMIT

SHIPPED = [name for name, one in DEFINITIONS.items() if isinstance(one.config.source, FileSource)]


@pytest.mark.parametrize("name", DEFINITIONS.keys() - set(SHIPPED))
def test_every_definition_says_where_how_many_and_which_commit(name: str) -> None:
    one = DEFINITIONS[name]
    assert isinstance(one.config.source, HubSource) and one.num_problems >= 30
    assert COMMIT.fullmatch(one.config.source.revision)


@pytest.mark.parametrize("name", SHIPPED)
def test_sets_that_ship_are_in_the_package_and_as_large_as_they_say(name: str) -> None:
    source = DEFINITIONS[name].config.source
    assert isinstance(source, FileSource) and source.path.startswith(IN_PACKAGE)
    assert len(Path(package_path(source.path)).read_text().splitlines()) == DEFINITIONS[name].num_problems


def test_a_package_that_is_not_there_is_named() -> None:
    with pytest.raises(ImportError, match="no package 'nowhere' is installed"):
        package_path("package://nowhere/x.jsonl")


def test_what_training_may_break_is_told_by_the_kind_of_answer_or_by_the_recipe() -> None:
    names = ["gsm8k", "ifeval", "instructions-60", "harmless-40"]
    assert regression_benchmarks({}, names) == names[1:]
    source = {"kind": "file", "path": "x.jsonl"}
    own = {
        "gsm8k": BenchmarkConfig.model_validate({"source": source, "regression": True}),
        "ifeval": BenchmarkConfig.model_validate({"source": source | {"answer_kind": "refusal"}, "regression": False}),
    }
    assert regression_benchmarks(own, names) == ["gsm8k", "instructions-60", "harmless-40"]
