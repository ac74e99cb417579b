"""Mathematics in samples, drawn by the browser: LaTeX in a text to MathML, everything else escaped.

What models write is hostile until shown otherwise. latex2mathml lets markup in `\\text{}` through as it is, so what it
returns is parsed, checked against a list of MathML elements and attributes, and written anew; what fails stays text.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from xml.etree import ElementTree

import latex2mathml.exceptions
from latex2mathml.converter import convert
from markupsafe import Markup, escape

MAX_CHARS = 500
"""A longer formula stays text: it is a runaway or a missing dollar sign."""
BRACED = r"\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}"
FORMULA = re.compile(
    r"\$\$(?P<block>[^$]{1,500}?)\$\$|\\\[(?P<bracket>.{1,500}?)\\\]|\\\((?P<round>.{1,500}?)\\\)"
    # A sum of money is no formula: no space inside the signs, no digit after the second one.
    r"|(?<![\\$\w])\$(?P<inline>(?!\s)[^$\n]{1,500}?(?<![\s\\]))\$(?!\d)"
    rf"|(?P<box>\\boxed{BRACED})",
    re.DOTALL,
)
NAMESPACE = "{http://www.w3.org/1998/Math/MathML}"
ELEMENTS = frozenset(
    [
        "math",
        "mrow",
        "mi",
        "mn",
        "mo",
        "mtext",
        "mspace",
        "mfrac",
        "msqrt",
        "mroot",
        "msub",
        "msup",
        "msubsup",
        "munder",
        "mover",
        "munderover",
        "mtable",
        "mtr",
        "mtd",
        "mstyle",
        "menclose",
        "mpadded",
        "mphantom",
        "mmultiscripts",
        "mprescripts",
        "none",
    ]
)
ATTRIBUTES = frozenset(
    [
        "display",
        "displaystyle",
        "scriptlevel",
        "mathvariant",
        "stretchy",
        "fence",
        "separator",
        "form",
        "accent",
        "accentunder",
        "movablelimits",
        "minsize",
        "maxsize",
        "linethickness",
        "columnalign",
        "notation",
        "width",
        "lspace",
        "rspace",
        "largeop",
        "symmetric",
    ]
)
FAULTS: tuple[type[Exception], ...] = (
    *(one for one in vars(latex2mathml.exceptions).values() if isinstance(one, type) and issubclass(one, Exception)),
    ElementTree.ParseError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RecursionError,
)
"""What the converter raises on text that is no LaTeX, and the parser on markup that is none."""


def with_mathematics(text: str) -> Markup:
    """The text, escaped, with its formulas as MathML."""
    return Markup("").join(_pieces(text))


def _pieces(text: str) -> Iterator[Markup]:
    end = 0
    for match in FORMULA.finditer(text):
        yield escape(text[end : match.start()])
        end = match.end()
        kind = match.lastgroup or ""
        is_block = kind in ("block", "bracket")
        yield mathml(match.group(kind), is_block=is_block) or escape(match.group())
    yield escape(text[end:])


@lru_cache(maxsize=4096)
def mathml(latex: str, *, is_block: bool = False) -> Markup | None:
    """A formula as MathML, or None where it is none or holds what a formula has no use for."""
    if len(latex) > MAX_CHARS:
        return None
    try:
        root = ElementTree.fromstring(convert(latex, display="block" if is_block else "inline"))
    except FAULTS:
        return None
    for element in root.iter():
        element.tag = element.tag.removeprefix(NAMESPACE)
        # A command that the converter does not know comes back as the name of a variable.
        is_unknown = (element.text or "").startswith("\\") and len(element.text or "") > 1
        if element.tag not in ELEMENTS or element.attrib.keys() - ATTRIBUTES or is_unknown:
            return None
    root.set("alttext", latex)
    return Markup(ElementTree.tostring(root, encoding="unicode"))
