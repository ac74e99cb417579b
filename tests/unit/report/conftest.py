"""What the tests of the report share."""

from html import escape

import pytest

from distill.report import plots


@pytest.fixture
def unrendered_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots are painted but not turned into SVG, which takes most of the time of a page; test_report.py does both."""
    monkeypatch.setattr(plots, "to_svg", lambda figure, title: f"<svg><title>{escape(title)}</title></svg>")
