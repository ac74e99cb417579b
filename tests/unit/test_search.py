"""Weights that are searched: what is tried, what goes on, how sure that is, and what recipes may say of it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest

from distill.config.load import parse_recipe
from distill.config.recipe import Recipe
from distill.config.search import num_mixes
from distill.core.errors import ConfigError
from distill.core.run_dir import Manifest, RunDir
from distill.mix.auto_weights import settled, settled_by
from distill.report.searches import search_rows, search_words
from distill.search.stage import round_recipe, trial_name
from distill.search.successive_halving import choose, num_kept, steps_of_round, weight_grid
from distill.train.cells import all_cells, cells
from tests.unit.mix_run import RECIPE

AUTO: dict[str, Any] = {"name": "auto", "weights": "auto", "pools": ["long", "short"], "students": ["s"]}
GYM = {"source": {"kind": "reasoning_gym", "task": "chain_sum", "seed": 3}}


def raw(**changes: Any) -> dict[str, Any]:
    search = {"benchmark": "dev", "grid": 4, "num_steps": 10}
    mixes = [*RECIPE["mixes"], AUTO]
    students = [{"name": "s", "model": "m"}, {"name": "t", "model": "m"}]
    return RECIPE | {"mixes": mixes, "search": search, "benchmarks": {"dev": GYM}, "students": students} | changes


@pytest.mark.parametrize(("pools", "grid"), [(2, 2), (2, 10), (3, 4), (4, 3)])
def test_the_grid_holds_every_mix_once(pools: int, grid: int) -> None:
    names = [f"p{number}" for number in range(pools)]
    mixes = weight_grid(names, grid)
    assert len({tuple(mix.values()) for mix in mixes}) == len(mixes) == num_mixes(pools, grid)
    assert all(sum(mix.values()) == pytest.approx(1.0) and list(mix) == names for mix in mixes)
    assert {name: 1.0 if name == "p0" else 0.0 for name in names} in mixes


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("num", [2, 5, 21])
def test_every_round_leaves_fewer_until_one_is_left(num: int, keep: float) -> None:
    while num > 1:
        assert 1 <= num_kept(num, keep) < num
        num = num_kept(num, keep)


def test_runs_grow_as_mixes_get_fewer() -> None:
    assert [steps_of_round(number, 10, 0.5) for number in (1, 2, 3)] == [10, 20, 40]


def test_the_best_go_on_and_a_clear_winner_is_certain() -> None:
    rng = np.random.default_rng(1)
    scores = [(rng.random((2, 200)) < rate).astype(float) for rate in (0.2, 0.9, 0.5, 0.3)]
    choice = choose(scores, 2, rng)
    assert choice.kept == [1, 2]
    assert choice.kept_share[1] > 0.99 and sum(choice.kept_share) == pytest.approx(2.0)


def test_equal_mixes_are_chosen_by_their_order_and_said_to_be_a_guess() -> None:
    rng = np.random.default_rng(2)
    scores = [(rng.random((1, 100)) < 0.5).astype(float) for _ in range(2)]
    scores[1][0] = scores[0][0][::-1]
    choice = choose(scores, 1, rng)
    assert choice.kept == [0] and 0.4 < choice.kept_share[0] < 0.7


def test_chances_of_being_chosen_are_those_of_new_problems() -> None:
    # Known truth: draw fresh problems many times, and compare how often the first mix wins with what one draw says.
    rates, rng, num = (0.55, 0.45), np.random.default_rng(3), 80
    said, won = [], 0
    for _ in range(200):
        scores = [(rng.random((1, num)) < rate).astype(float) for rate in rates]
        choice = choose(scores, 1, rng)
        said.append(choice.kept_share[0])
        won += choice.kept == [0]
    # A resample of one draw varies about that draw, not about the truth: it is right on average within a few points.
    assert abs(float(np.mean(said)) - won / 200) < 0.12


def test_answers_that_could_not_be_graded_win_nothing() -> None:
    graded, ungraded = np.ones((1, 10)), np.full((1, 10), np.nan)
    assert choose([ungraded, graded * 0.5], 1, np.random.default_rng(0)).kept == [1]


def test_only_the_student_of_the_search_is_trained_on_its_arm() -> None:
    recipe = parse_recipe(raw(merges=[{"name": "both", "of": ["long", "auto"]}]))
    names = {cell.name for cell in all_cells(recipe)}
    assert {"s@auto", "s@long", "t@long", "s@both"} <= names and not {"t@auto", "t@both"} & names


def test_a_round_is_a_small_run_that_never_sees_the_reported_benchmarks() -> None:
    recipe = parse_recipe(raw())
    trials = {"auto": [{"long": 0.25, "short": 0.75}, {"long": 1.0, "short": 0.0}]}
    assert recipe.search is not None
    inside = round_recipe(recipe, recipe.search, trials, 2)
    assert [cell.name for cell in cells(inside)] == ["s@auto.25-75", "s@auto.100-0"]
    assert inside.evaluate.benchmarks == ("dev",) and inside.train.num_steps == 20
    assert trial_name("auto", trials["auto"][0]) == "auto.25-75"


def test_found_weights_make_an_ordinary_arm() -> None:
    recipe = parse_recipe(raw())
    found = settled(recipe, {"auto": {"long": 0.25, "short": 0.75}}).mixes[-1]
    assert found.policy == "weighted" and found.shares == {"long": 0.25, "short": 0.75} and found.students == ("s",)
    assert settled_by(recipe, None) == recipe


def test_a_run_directory_inside_another_shares_what_comes_before_the_mix(tmp_path: Any) -> None:
    outer = RunDir(str(tmp_path))
    inner = outer.nested("search", "round-1")
    assert inner.path("prompts", "prompts.parquet") == outer.path("prompts", "prompts.parquet")
    assert inner.path("mix", "features", "k") == outer.path("mix", "features", "k")
    assert inner.path("mix", "auto.parquet") == outer.path("search", "round-1", "mix", "auto.parquet")
    assert inner.path("train", "c") == RunDir(inner.uri).path("train", "c")  # as workers open it


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
        parse_recipe(raw(**changes))
    assert where in str(error.value)


def test_recipes_without_a_search_keep_their_keys() -> None:
    dump = Recipe.model_validate(RECIPE).model_dump(mode="json")
    assert "search" not in dump and all("students" not in mix for mix in dump["mixes"])


def test_the_report_says_what_was_tried_and_how_sure_the_choice_is() -> None:
    rounds = [
        {
            "num_steps": steps,
            "seeds": [0],
            "problems": 150,
            "weights": weights,
            "accuracies": [0.3, 0.2][: len(weights)],
            "intervals": [[0.2, 0.4], [0.1, 0.3]][: len(weights)],
            "kept": [0],
            "kept_share": [0.8, 0.2][: len(weights)],
        }
        for steps, weights in [(10, [{"long": 0.5, "short": 0.5}, {"long": 1.0, "short": 0.0}])]
    ]
    entry = {"rounds": rounds, "weights": {"long": 0.5, "short": 0.5}, "benchmark": "dev", "student": "s"}
    (found,) = search_rows({"mix": Manifest("mix", "", details={"search": {"auto": entry}})})
    words = search_words(found)
    assert "2 mixes in 2 short trainings" in words and "long 50 %, short 50 %" in words and "80 %" in words
