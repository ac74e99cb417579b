"""What can be held of the page without a browser: contrasts, names of its controls, and that it loads nothing."""

import base64
import hashlib
import re
from html.parser import HTMLParser

import pytest

from serve.api.playground import PAGE, PAGE_HEADERS

STYLE, SCRIPT = (re.search(rf"<{tag}>(.*?)</{tag}>", PAGE, re.DOTALL)[1] for tag in ("style", "script"))  # type: ignore[index]
TEXT_COLOURS = ("ink", "dim", "good", "bad")
SURFACES = ("paper", "panel")
MATHML = "http://www.w3.org/1998/Math/MathML"


def colours(scheme: str) -> dict[str, str]:
    """CSS variable -> colour; those of the dark scheme replace those of the light one."""
    light, dark = (dict(re.findall(r"--([a-z-]+): (#[0-9a-f]{6});", block)) for block in STYLE.split("@media", 1))
    return light if scheme == "light" else light | dark


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.2."""
    values = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in values)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def contrast(one: str, other: str) -> float:
    """Contrast ratio, WCAG 2.2: 1 to 21."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def test_contrast_is_measured_as_wcag_does() -> None:
    assert contrast("#000000", "#ffffff") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_text_can_be_read_and_every_border_seen(scheme: str) -> None:
    known = colours(scheme)
    texts = [(text, surface) for text in TEXT_COLOURS for surface in SURFACES] + [("on-accent", "accent")]
    borders = [(line, surface) for line in ("edge", "accent") for surface in SURFACES]
    weak = {
        pair: round(contrast(known[pair[0]], known[pair[1]]), 2)
        for pairs, least in ((texts, 4.5), (borders, 3.0))
        for pair in pairs
        if contrast(known[pair[0]], known[pair[1]]) < least
    }
    assert not weak


def test_no_colour_is_used_that_the_contrasts_do_not_cover() -> None:
    rules = re.sub(r"--[a-z-]+:[^;]*;", "", STYLE)
    assert set(re.findall(r"(?<![\w-])color: ([^;]+);", rules)) <= {
        f"var(--{name})" for name in (*TEXT_COLOURS, "on-accent")
    }
    assert set(re.findall(r"background: ([^;]+);", rules)) <= {f"var(--{name})" for name in (*SURFACES, "accent")}
    assert not re.findall(r"#[0-9a-f]{3,8}\b(?=[; ,)])|rgba?\(|opacity: 0", rules)


class Controls(HTMLParser):
    """The page's ids, and its controls without a name for screen readers."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.labelled: set[str] = set()
        self.unnamed: set[str] = set()
        self.handlers: list[str] = []
        self._in_label = 0
        self.feed(PAGE)
        self.unnamed -= self.labelled

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.ids += [given["id"]] if "id" in given else []
        self.handlers += [name for name in given if name.startswith("on")]
        if tag == "label":
            self._in_label += 1
            self.labelled.add(given.get("for", ""))
        elif tag in ("input", "select", "textarea") and not self._in_label and not given.get("aria-label"):
            self.unnamed.add(given["id"])

    def handle_endtag(self, tag: str) -> None:
        self._in_label -= tag == "label"


def test_every_control_has_a_name_and_every_id_is_there_once() -> None:
    found = Controls()
    assert not found.unnamed
    assert len(found.ids) == len(set(found.ids))
    assert set(re.findall(r'\$\("([A-Za-z]+)"\)', SCRIPT)) <= set(found.ids)
    assert not found.handlers


def test_results_and_errors_are_told_to_screen_readers() -> None:
    assert re.search(r'<p id="status"[^>]* role="status">', PAGE)
    assert '<html lang="en">' in PAGE and "<main" in PAGE and "<h1>" in PAGE


def test_the_page_loads_nothing_and_runs_no_text_of_a_model() -> None:
    assert set(re.findall(r"(?:https?:)?//[\w.]+\.[\w/.]+", PAGE)) <= {MATHML}
    assert set(re.findall(r'href="([^"]*)"|src="([^"]*)"|url\(', PAGE)) == {("data:,", "")}
    runs_text = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function|javascript:|import\("
    assert not re.findall(runs_text, SCRIPT)
    assert set(re.findall(r'"(/[a-z][\w/]*)"', SCRIPT)) == {
        "/v1/models",
        "/v1/problems",
        "/v1/chat/completions",
        "/v1/verdict",
    }


def test_the_policy_allows_this_script_and_this_style_alone() -> None:
    policy = dict(part.strip().split(" ", 1) for part in PAGE_HEADERS["content-security-policy"].split(";"))
    digests = {
        name: f"'sha256-{base64.b64encode(hashlib.sha256(body.encode()).digest()).decode()}'"
        for name, body in (("script-src", SCRIPT), ("style-src", STYLE))
    }
    assert {name: policy[name] for name in digests} == digests
    assert policy["default-src"] == "'none'" and policy["connect-src"] == "'self'"
