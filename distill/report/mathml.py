"""Mathematics in samples, as MathML that the browser renders: LaTeX is converted, everything else escaped.

Text that models wrote is untrusted. latex2mathml passes markup in `\\text{}` through unescaped, so its output is
parsed, checked against an allowlist of MathML elements and attributes, and serialised again; what fails stays text.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from xml.etree import ElementTree

import latex2mathml.exceptions
from latex2mathml.converter import convert
from markupsafe import Markup, escape

MAX_CHARS = 500
"""A longer formula stays text: it is degenerate output, or a dollar sign is missing."""
BRACED = r"\{(?:[^{}]|\{(?:[^{}]|\{[^{}]*\})*\})*\}"
FORMULA = re.compile(
    r"\$\$(?P<block>[^$]{1,500}?)\$\$|\\\[(?P<bracket>.{1,500}?)\\\]|\\\((?P<round>.{1,500}?)\\\)"
    # An amount of money is no formula: no space inside the signs, no digit after the second one.
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
"""What the converter raises on invalid LaTeX, and the parser on invalid markup."""


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
    """A formula as MathML, or None where it is invalid or has elements or attributes that are not allowed."""
    if len(latex) > MAX_CHARS:
        return None
    try:
        root = ElementTree.fromstring(convert(latex, display="block" if is_block else "inline"))
    except FAULTS:
        return None
    for element in root.iter():
        element.tag = element.tag.removeprefix(NAMESPACE)
        # The converter returns a command that it does not know as the name of a variable.
        is_unknown = (element.text or "").startswith("\\") and len(element.text or "") > 1
        if element.tag not in ELEMENTS or element.attrib.keys() - ATTRIBUTES or is_unknown:
            return None
    root.set("alttext", latex)
    return Markup(ElementTree.tostring(root, encoding="unicode"))
