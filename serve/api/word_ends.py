"""Where a text may be cut: at the end of a word, where its script writes words apart. Pure."""

import re
import unicodedata

WITHOUT_SPACES = (
    "\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Tibetan; Burmese; Khmer
    "\u3000-\u312f\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff00-\uffef\U00020000-\U0003ffff"  # CJK, kana
)
MAX_WORD_CHARS = 64
"""A longer run without white space (an address, a formula) is cut where it is."""
WORD_BEFORE = re.compile(rf"[^\s{WITHOUT_SPACES}]{{1,{MAX_WORD_CHARS}}}$")


def word_end(text: str, at: int) -> int:
    """The last place up to `at`, in characters, where a word ends; `at` itself inside the only word of a text, inside a
    longer run than a word, and in scripts that write words together."""
    while 0 < at < len(text) and unicodedata.category(text[at]).startswith("M"):
        at -= 1  # a vowel sign belongs to the letter before it
    if not 0 < at < len(text) or _ends_word(text[at]):
        return at
    begun = WORD_BEFORE.search(text, max(0, at - MAX_WORD_CHARS), at)
    is_longer = begun is not None and begun.start() > 0 and not _ends_word(text[begun.start() - 1])
    return at if begun is None or begun.start() == 0 or is_longer else begun.start()


def _ends_word(character: str) -> bool:
    """Whether a word ends before or behind this character: white space, or a letter of a script without it."""
    return re.match(rf"[\s{WITHOUT_SPACES}]", character) is not None
