"""Which models are scored."""

import pytest

from cluster.placement import Resources
from cluster.session import Device
from distill.evaluate.models import EvaluatedModel, engines_at_work, helped_models, same_weights, with_helped
from distill.evaluate.read_scores import expected_models
from distill.evaluate.requests import items, request_rows
from distill.report.comparisons import all_pairs
from tests.fixtures.benchmark_prompts import make_prompts
from tests.fixtures.report_run import make_recipe


def test_a_student_with_a_helper_is_an_arm_beside_the_student_without_it() -> None:
    helper = {"model": "smol-8l@long", "max_tokens": 40, "triggers": ["Wait"]}
    arm = {"student": "smol-135m@short", "helper": helper}
    recipe = make_recipe(evaluate={"benchmarks": ["arithmetic"], "speculative": [arm]})
    models = [
        EvaluatedModel(model.name, f"weights of {model.name}", None, f"key of {model.name}")
        for model in expected_models(recipe)[:-1]
    ]
    (helped,) = helped_models(recipe, models)
    assert (helped.name, helped.served_name) == ("smol-135m@short+smol-8l@long", "smol-135m@short")
    assert same_weights([*models, helped])[helped.name] == helped.name, "not the score of the student alone"
    together, (apart,) = with_helped([*models, helped], models, 8), with_helped([helped], models, 8)
    assert len(together) == 1 and helped in together[0], "both engines are up anyway"
    assert [model.name for model in apart] == [helped.name, "smol-8l@long"]
    prompts = {"arithmetic": make_prompts(1)}
    scored = {item.model.name: item for item in items([*models, helped], prompts, recipe)}
    plain = {item.model.name: item for item in items(models, prompts, make_recipe())}
    assert all(scored[name].key == item.key for name, item in plain.items()), "the other scores stay valid"
    (row,) = request_rows(scored[helped.name], prompts["arithmetic"], recipe)
    assert row["model"] == "smol-135m@short" and row["sampling"]["speculative"]["model"] == "smol-8l@long"
    (pair,) = [pair for pair in all_pairs(recipe, {}) if pair.purpose == "help"]
    assert (pair.first, pair.second) == ("short+smol-8l@long", "short")


@pytest.mark.parametrize(
    ("device", "cores", "at_work"),
    [("cpu", [2], 2), ("cpu", [1], 1), ("cpu", [8], 1), ("cpu", [2, 2], 3), ("gpu", [2], 3)],
)
def test_as_many_of_three_engines_are_asked_at_once_as_take_no_core_from_each_other(
    device: Device, cores: list[float], at_work: int
) -> None:
    assert engines_at_work(3, device, [Resources(cpus=count) for count in cores]) == at_work
