"""What ends a plain text, and whether it is said to be the value."""

import pytest

from distill.grading.prose import ending, is_hedged_line, is_hedged_value


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The polynomial is 5x + 3.", "5x + 3"),
        ("First 3.\nSo the ratio is 8:7:5.", "8:7:5"),
        ("so the roots are $2$, $3$, and $8$.", "2, 3, 8"),
        ("it's 1,000 m²", "1,000 m^{2}"),
        ("It is a 5.", "5"),
        ("(2, 3]", "(2, 3]"),
        ("x+9", "x+9"),
    ],
)
def test_the_expression_that_ends_a_text(text: str, expected: str) -> None:
    found = ending(text)
    assert found is not None
    assert (found.text, found.is_hedged) == (expected, False)


@pytest.mark.parametrize("text", ["68 apples in all.", "the value of x.", "2 =", "code XK2B", "", "0" * 400])
def test_words_halves_and_loops_are_no_ending(text: str) -> None:
    assert ending(text) is None


def test_a_denial_or_a_bound_before_the_value_hedges_it() -> None:
    for text in ("It is not equal to $6$.", "The sum is at most 8.", "It is never 8"):
        found = ending(text)
        assert found is not None and found.is_hedged, text
    plain = ending("Those with neither pens nor caps number $3$.")
    assert plain is not None and not plain.is_hedged


def test_hedged_values() -> None:
    assert all(map(is_hedged_value, ("not 8", "less than 8", "\\text{It is not 7}", "either 5 or 6")))
    assert not any(map(is_hedged_value, ("8, not 9", "nothing", "8", "5 for each, at most twice")))


@pytest.mark.parametrize(
    "value",
    ["12\\text{ or more}", "12 apples or fewer", "12 at the very most", "n = 12 is impossible", "12?",
     "12, but I am not sure", "> 7", "höchstens 7", "unknown, as 7 is not enough information"],
)  # fmt: skip
def test_what_stands_behind_a_value_may_take_it_back(value: str) -> None:
    assert is_hedged_value(value)


@pytest.mark.parametrize(
    "value", ["more or less 12", "12, or more precisely twelve", "12 more than before", "two or three"]
)
def test_other_words_behind_a_value_do_not(value: str) -> None:
    assert not is_hedged_value(value)


def test_a_line_that_denies_its_last_number() -> None:
    assert all(map(is_hedged_line, ("So 12 is impossible.", "It might be 12 apples.", "12 is not the answer.")))
    assert not any(
        map(is_hedged_line, ("12 is even.", "11 is not the answer, 12 is.", "There are 12 who are not in it."))
    )
