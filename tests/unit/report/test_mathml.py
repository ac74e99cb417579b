"""Formulas are drawn, everything else is text, and nothing that a model writes becomes markup."""

from html.parser import HTMLParser
from typing import Any

import pytest

from distill.report.mathml import ELEMENTS, with_mathematics


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, Any]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


def tags(text: str) -> list[tuple[str, dict[str, Any]]]:
    parser = Tags()
    parser.feed(str(with_mathematics(text)))
    return parser.seen


@pytest.mark.parametrize(
    "text",
    [r"so $\frac{1}{2}$.", r"so \(x^2\)", r"so \[\sqrt{3}\]", r"so $$x_1 + 1$$", r"The answer is \boxed{\frac{1}{2}}."],
)
def test_formulas_are_mathml(text: str) -> None:
    assert "math" in [tag for tag, _ in tags(text)]


@pytest.mark.parametrize(
    "text", ["it costs $5 and $7", "a $ b $ c", r"$\unknowncommand{x}$", "$" + "x" * 600 + "$", r"$\frac$"]
)
def test_money_and_what_is_no_formula_stay_text(text: str) -> None:
    assert str(with_mathematics(text)) == text


@pytest.mark.parametrize(
    "attack",
    [
        "<script>alert(1)</script>",
        r"$\text{<img src=x onerror=alert(1)>}$",
        r"$\text{<b>x</b>}$",
        r"$\href{javascript:alert(1)}{x}$",
        r"$\style{background:url(//x)}{x}$",
        r'$x" onmouseover="alert(1)$',
        r"\boxed{<svg/onload=alert(1)>}",
        r"$\class{headline}{x}$",
    ],
)
def test_hostile_text_becomes_no_element_or_attribute(attack: str) -> None:
    for tag, attributes in tags(f"before {attack} after"):
        assert tag in ELEMENTS
        assert not [name for name in attributes if name.startswith("on") or name in ("href", "style", "class", "src")]


def test_deep_and_broken_input_ends_at_once() -> None:
    for text in ("${" * 300, r"$" + r"\frac{" * 80 + "$", r"\boxed{" * 5000, "$$" * 5000):
        assert with_mathematics(text)
