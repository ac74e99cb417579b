"""Unicode as it is written in answers, in the LaTeX that the rest of the grader reads.

Spaces, dashes, digits of any script, superscripts, subscripts, vulgar fractions and signs each become one spelling.
Text in ASCII is returned as it is, so the common case costs nothing.
"""

import re
import unicodedata

SPACES = "\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u202f\u205f\u3000"
INVISIBLE = "\u00ad\u200b\u200c\u200d\u200e\u200f\u2060\u2061\u2062\u2063\u2064\ufeff"
DASHES = "\u2010\u2011\u2012\u2013\u2014\u2015\u2212\ufe63\uff0d"
PLAIN_CHARACTERS = {
    **dict.fromkeys(SPACES, " "),
    **dict.fromkeys(INVISIBLE, ""),
    **dict.fromkeys(DASHES, "-"),
    "⁄": "/",
    "∕": "/",
    "，": ",",
    "、": ",",
    "；": ";",
    "：": ":",
    "（": "(",
    "）": ")",
    "［": "[",
    "］": "]",
    "｛": "{",
    "｝": "}",
    "％": "%",
    "＋": "+",
    "＝": "=",
    "＜": "<",
    "＞": ">",
    "＊": "*",
    "．": ".",
    "／": "/",
    "＾": "^",
    "٫": ".",
    "٬": ",",
    "٪": "%",
    "′": "'",
    "’": "'",
    "…": "...",
}
"""Characters that mean the same in prose and in mathematics."""
SIGNS = {
    "π": "\\pi ",
    "∞": "\\infty",
    "×": "\\times ",
    "·": "\\cdot ",
    "⋅": "\\cdot ",
    "∙": "\\cdot ",
    "÷": "/",
    "±": "\\pm ",
    "∪": "\\cup ",
    "∩": "\\cap ",
    "∈": "\\in ",
    "∅": "\\emptyset ",
    "ℝ": "\\mathbb{R}",
    "ℤ": "\\mathbb{Z}",
    "ℕ": "\\mathbb{N}",
    "ℚ": "\\mathbb{Q}",
    "ℂ": "\\mathbb{C}",
    "≤": "\\le ",
    "⩽": "\\le ",
    "≥": "\\ge ",
    "⩾": "\\ge ",
    "≠": "\\ne ",
    "≈": "\\approx ",
    "≃": "\\approx ",
    "≅": "\\cong ",
    "≡": "\\equiv ",
    "⇒": "\\Rightarrow ",
    "→": "\\to ",
    "∧": "\\land ",
    "∨": "\\lor ",
    "∣": "|",
    "｜": "|",
    "∑": "\\sum ",
    "∫": "\\int ",
    "∂": "\\partial ",
    "ℓ": "\\ell ",
    "α": "\\alpha ",
    "β": "\\beta ",
    "γ": "\\gamma ",
    "δ": "\\delta ",
    "ε": "\\epsilon ",
    "θ": "\\theta ",
    "λ": "\\lambda ",
    "μ": "\\mu ",
    "µ": "\\mu ",
    "∠": "\\angle ",
    "ρ": "\\rho ",
    "σ": "\\sigma ",
    "τ": "\\tau ",
    "φ": "\\phi ",
    "ϕ": "\\phi ",
    "ψ": "\\psi ",
    "ω": "\\omega ",
}
"""Signs of mathematics. `√`, `°` and units (`Ω`, `Å`) stay: what they mean depends on what stands beside them."""
RAISED = dict(zip("⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁼⁽⁾ⁿⁱ", "0123456789+-=()ni", strict=True))
LOWERED = dict(zip("₀₁₂₃₄₅₆₇₈₉₊₋₌₍₎ₐₑₕᵢⱼₖₗₘₙₒₚᵣₛₜᵤᵥₓ", "0123456789+-=()aehijklmnoprstuvx", strict=True))
RAISED_RUN = re.compile(f"[{''.join(RAISED)}]+")
LOWERED_RUN = re.compile(f"[{''.join(LOWERED)}]+")
VULGAR = re.compile("(?P<whole>\\d\\s?)?(?P<sign>[¼½¾⅐⅑⅒⅓⅔⅕⅖⅗⅘⅙⅚⅛⅜⅝⅞])")
ROOT = re.compile(r"([√∛∜])\s*(?:(\d+(?:\.\d+)?|[A-Za-z]|\\[a-z]+)|\(([^()]*)\)|\{([^{}]*)\})")
ROOT_COMMANDS = {"√": "\\sqrt", "∛": "\\sqrt[3]", "∜": "\\sqrt[4]"}


def _digit(character: str) -> str:
    """A decimal digit of another script in ASCII; anything else as it is."""
    return str(unicodedata.decimal(character)) if character.isdecimal() and not character.isascii() else character


def _latin(character: str) -> str:
    """A full-width or mathematical letter as the plain letter."""
    if not (0x1D400 <= ord(character) <= 0x1D7FF or 0xFF21 <= ord(character) <= 0xFF5A):
        return character
    plain = unicodedata.normalize("NFKC", character)
    return plain if len(plain) == 1 and plain.isascii() and plain.isalpha() else character


class _Table(dict[int, str]):
    """A translation table that is completed as characters are met."""

    def __missing__(self, code: int) -> str:
        character = chr(code)
        self[code] = character if code < 128 else _latin(_digit(character))
        return self[code]


PLAIN = _Table({ord(key): value for key, value in PLAIN_CHARACTERS.items()})
MATHS = str.maketrans(SIGNS)


def plain_characters(text: str) -> str:
    """Text with plain spaces, dashes, punctuation, and digits of any script as ASCII: right for prose too."""
    return text if text.isascii() else text.translate(PLAIN)


def scripts_as_powers(text: str) -> str:
    """Superscripts as `^{...}` and subscripts as `_{...}`, so that `3⁴` never becomes `34`."""
    if text.isascii():
        return text
    text = RAISED_RUN.sub(lambda match: "^{" + "".join(RAISED[one] for one in match.group()) + "}", text)
    return LOWERED_RUN.sub(lambda match: "_{" + "".join(LOWERED[one] for one in match.group()) + "}", text)


def _vulgar(match: re.Match[str]) -> str:
    top, _, bottom = _fraction_of(match["sign"]).partition("/")
    return f"{(match['whole'] or '').strip()}\\frac{{{top}}}{{{bottom}}}"


def prose_characters(text: str) -> str:
    """As `plain_characters`, with "2½" as the mixed number "2 1/2"."""
    if text.isascii():
        return text
    text = VULGAR.sub(lambda match: f"{match['whole'] or ''} {_fraction_of(match['sign'])}", text)
    return plain_characters(text)


def _fraction_of(sign: str) -> str:
    return unicodedata.normalize("NFKC", sign).replace("\u2044", "/")


def _root(match: re.Match[str]) -> str:
    return f"{ROOT_COMMANDS[match.group(1)]}{{{match.group(2) or match.group(3) or match.group(4)}}}"


def as_latex(text: str) -> str:
    """Text with every sign of mathematics in LaTeX's spelling."""
    if text.isascii():
        return text
    text = plain_characters(VULGAR.sub(_vulgar, scripts_as_powers(text.translate(MATHS))))
    return ROOT.sub(_root, text)
