"""Unicode in LaTeX's spelling."""

import pytest

from distill.grading.unicode_math import as_latex, plain_characters, prose_characters, scripts_as_powers


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x²⁺ⁿ", "x^{2+n}"),
        ("a₁₂", "a_{12}"),
        ("2½", "2\\frac{1}{2}"),
        ("√(x+1)", "\\sqrt{x+1}"),
        ("∛7", "\\sqrt[3]{7}"),
        ("3\u202f500", "3 500"),
        ("–7", "-7"),
        ("٦٨", "68"),
        ("𝑥", "x"),
        ("ℝ", "\\mathbb{R}"),
        ("５．５", "5.5"),
        ("\\frac{1}{2}", "\\frac{1}{2}"),
    ],
)
def test_signs_have_one_spelling(text: str, expected: str) -> None:
    assert as_latex(text).strip() == expected


def test_units_and_letters_of_other_scripts_stay() -> None:
    assert as_latex("5 Ω") == "5 Ω"
    assert plain_characters("答案：７") == "答案:7"


def test_a_raised_digit_never_joins_the_number_before_it() -> None:
    assert scripts_as_powers("3⁴") == "3^{4}"
    assert prose_characters("2½ cups") == "2 1/2 cups"
