"""Identities of rows."""

import dataclasses

import pytest

from distill.core.schema import dropped, prompt_id, seed_for, trace_id


def test_identities_are_content() -> None:
    assert prompt_id("What is\n 1 + 1?") == prompt_id("What is 1 + 1? ")
    assert trace_id("p", "f", 0) != trace_id("p", "f", 1)
    assert 0 <= seed_for("a") < 2**31
    assert len(dataclasses.asdict(dropped("mix", "w", "r", row={"x": "y" * 9000}))["row"]) == 2000


@pytest.mark.parametrize(
    ("one", "other"),
    [("What is 3⁴?", "What is 34?"), ("x₁₂", "x12"), ("3½", "31⁄2"), ("①0", "10"), ("30º", "30o"), ("10⁻²", "10-2")],
)
def test_a_form_that_means_something_else_is_another_problem(one: str, other: str) -> None:
    assert prompt_id(one) != prompt_id(other)


def test_a_form_that_only_looks_different_is_the_same_problem() -> None:
    assert prompt_id("What\u00a0is ３＋４? ﬁve 𝑥") == prompt_id("What is 3+4? five x")
    assert prompt_id("e\u0301²") == prompt_id("é²")


def test_half_a_pair_of_surrogates_ends_nothing() -> None:
    assert prompt_id("a \ud83d") != prompt_id("a \ud83e")
    assert dropped("mix", "w", "r", row={"x": "a \ud83d"}).row.encode()
