"""What `tests.benchmarks.choices` makes of two sides' log-likelihoods, and the items that it asks both for."""

import numpy as np
import pytest

from tests.benchmarks.choices import choice_items, compare

ITEMS = [{"label": 0}, {"label": 1}]


def test_the_same_likelihoods_agree() -> None:
    likelihoods = np.array([[-1.0, -2.0], [-1.0, -2.0]])
    found = compare(likelihoods, likelihoods.copy(), ITEMS)
    assert (found["items"], found["choices"], found["agrees"]) == (2, 4, True)
    assert found["accuracy_served"] == found["accuracy_alone"] == 0.5
    assert found["largest_difference"] == found["median_difference"] == found["mean_difference"] == 0.0


def test_one_choice_that_is_too_far_apart_is_no_agreement() -> None:
    alone = np.array([[-1.0, -2.0], [-1.0, -1.001]])
    served = alone + np.array([[0.0, 0.0], [0.0, 0.002]])
    found = compare(served, alone, ITEMS)
    assert not found["agrees"]
    assert found["largest_difference"] == pytest.approx(0.002)
    assert found["median_difference"] == 0.0 and found["mean_difference"] == pytest.approx(0.0005)
    assert (found["accuracy_served"], found["accuracy_alone"], found["same_choice"]) == (1.0, 0.5, 0.5)


def test_a_missing_likelihood_is_no_agreement() -> None:
    alone = np.array([[-1.0, -2.0], [-1.0, -2.0]])
    assert not compare(np.where(alone == -1.0, np.nan, alone), alone, ITEMS)["agrees"]


def test_items_are_the_same_at_every_call_and_their_label_is_the_sum() -> None:
    items = choice_items(50)
    assert items == choice_items(50)
    for item in items:
        terms = item["question"].removeprefix("State the sum of ").removesuffix(".").replace(" and ", ", ").split(", ")
        assert int(item["choices"][item["label"]]) == sum(map(int, terms))
        assert len(set(item["choices"])) == 4
