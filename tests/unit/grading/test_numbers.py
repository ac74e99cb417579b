"""Numbers read exactly."""

import pytest

from distill.grading.numbers import numbers_in, parse_number, same_number


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.\\overline{142857}", "1/7"),
        ("-1.2\\overline{3}", "-37/30"),
        ("0.(36)", "4/11"),
        ("0.666...", "2/3"),
        ("2.5million", "2500000"),
        ("1.5e6", "1500000"),
        ("2e-3", "1/500"),
        ("5...", None),
        ("e5", None),
        ("million", None),
        ("0.\\overline{}", None),
    ],
)
def test_numbers_are_exact(text: str, expected: str | None) -> None:
    number = parse_number(text)
    assert (number and str(number.value)) == expected


def test_a_time_in_prose_is_no_number() -> None:
    found = numbers_in("at 7:30 we had 12 of 3.5, then 5: 6")
    assert [str(number.value) for number in found] == [
        "12",
        "7/2",
        "5",
        "6",
    ]


def test_no_rounding_makes_a_whole_number() -> None:
    whole, close, third = (parse_number(text) for text in ("1", "0.9999999", "0.333333"))
    assert whole and close and third
    assert not same_number(whole, close)
    assert same_number(third._replace(value=third.value + third.value / 10**6), third)
