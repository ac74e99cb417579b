"""The letter of a multiple-choice answer: one that is stated as the answer, or none. Never a guess.

A letter is stated in a box, a tag or behind a marker ("the answer is (C)"), or by a last line that is nothing else
("C", "C) blue", "So B.", "option C is correct"). A letter within a sentence ("vitamin B"), a value in the place of the
letter, and two letters between which the answer does not choose are no answer.
"""

import re
import unicodedata

from distill.grading.extract import Found

WRAPPERS = re.compile(r"\\(?:text[a-z]*|math[a-z]*|boxed|fbox)(?![a-z])|\\[ ,;:!()\[\]]|[{}$*_`\"“”「」《》\\~]")
"""Mark-up around a letter. Backslashed brackets open and close mathematics; a bracket alone may be the option's."""
LEAD = (
    r"(?:(?i:so|thus|hence|therefore|then|clearly|probably|likely|most|definitely|certainly|simply|indeed|only|its|it"
    r"|it[’']s|is|must|be|the|my|this|that|which|correct|right|best|final|answer|option|choice|letter|i|would|will"
    r"|choose|pick|select|go|with|corresponds|matches|to|la|le|el|die|der|opción|opção|opzione|letra|lettre|lettera"
    r"|buchstabe)\b[\s,:]*+|[Ll][’']|[\s,:]++|因此|所以|故|应|该|选择|选|正确|答案|选项|为|是)*"
)
"""Words before a letter that leave it the answer. Separators are possessive, so that matching takes linear time."""
BEHIND = (
    r"(?:\s+(?i:because|since|as|due|which|not|is(?!\s+(?:not|wrong|incorrect|false)))\b|\s+[-–—(]"
    r"|\s*(?:项|选项)?(?:是?正确|因为)|\s*です)"
)
LETTER = r"(?:\(\s*([A-Ja-j])\s*\)|\[\s*([A-J])\s*\]|([A-J])(?![A-Za-z'’]))"
CLOSED = r"(?=\s*(?:$|[).:,;!?\]。，、；]))"
STATED = re.compile(rf"{LEAD}{LETTER}(?:{CLOSED}|{BEHIND}|(?<=[)\]]))(?P<rest>.*)", re.DOTALL)
LAST_LINE = re.compile(
    rf"{LEAD}{LETTER}(?:\s*[.!。]?\s*$|\s*[).:](?P<rest>.*)"
    r"|(?<=[)\]])(?=\s)(?P<text>(?!\s*(?:is|are|was|or|and)\b).*)"
    r"|\s+(?i:is|seems|must be)\s+(?i:the\s+)?(?i:correct|right|best|true|answer)"
    r"(?:\s+(?i:answer|option|choice|one))?\W*$"
    r"|\s*(?:项|选项)?(?:是?正确的?)?\W*$)",
    re.DOTALL,
)
OTHER_LETTER = r"(?<![A-Za-z])[A-J](?![A-Za-z'’])"
PRONOUN = r"I\s+[a-z]"
LISTED = rf"\s*[)\]]?\s*[,/&;+、]\s*\(?{OTHER_LETTER}"
DOUBT = r"\b(?i:could|may|might|maybe|perhaps|possibly|either|also)\b|也可能"
SECOND_LETTER = re.compile(rf"{LISTED}|[^.!?。\n]*?(?:\b(?i:or|oder|ou)\b|{DOUBT}|或)[^.!?。\n]*?{OTHER_LETTER}")
"""Another letter beside the first one: a list, or a second candidate in the same sentence."""
SECOND_LABEL = re.compile(
    rf"{LISTED}|\s*[)\]]?[\s,(–—-]*(?:\b(?i:or|and|oder|und|ou|et)\b|或|和)"
    rf"(?:[\s,]|\b(?i:option|choice|even|else|the)\b|{DOUBT})*\(?(?!{PRONOUN}){OTHER_LETTER}"
    rf"|[^.!?。\n]*?(?:{DOUBT})(?:[\s,]|\b(?i:be|it|is|even|the|answer|option|choice|correct|or)\b|{DOUBT}|是|选)*"
    rf"[(\[]?(?!{PRONOUN}){OTHER_LETTER}"
    r"|[^.!?。\n]*?(?:\b(?i:or|oder|ou)\b|或)\s*(?:[(\[]\s*[A-J]\s*[)\]]|[A-J]\)|(?i:option|choice)\s+\(?[A-J]\b)"
)
"""Another letter beside a label and its option's text, in which letters may occur ("(B) hepatitis A or C", "(D) He or
I"): in a list with it, directly behind its connective, as the candidate of a doubt, or as a label too."""
CLOSES_LABEL = (")", "]", ".", ":")
FIRST_OPTION = re.compile(r"\W{0,4}A\s*:")
MAX_CHARS = 300
"""Of an answer that are looked at: a letter is stated at its beginning."""


def chosen_letter(found: Found) -> str:
    """The letter, A to J, that an answer states; empty where it states none, or several."""
    text = WRAPPERS.sub(" ", unicodedata.normalize("NFKC", found.text[:MAX_CHARS])).strip()
    if len(text) == 1:
        return text.upper() if text.upper() in "ABCDEFGHIJ" else ""
    is_line = found.where.endswith("last_line")
    match = (LAST_LINE if is_line else STATED).match(text)
    if match is None or _has_second(match):
        return ""
    return str(next(filter(None, match.groups()[:3]))).upper()


def _has_second(match: re.Match[str]) -> bool:
    """Whether what stands behind a letter names another one."""
    groups = match.groupdict()
    rest = groups["rest"] or groups.get("text") or ""
    before = match.string[: match.end() - len(rest)].rstrip()
    is_label = before.endswith(CLOSES_LABEL) or rest.lstrip().startswith(CLOSES_LABEL)
    return bool((SECOND_LABEL if is_label else SECOND_LETTER).match(rest))


def is_label_of_first(found: Found, line: str) -> bool:
    """Whether the last line, "A: Paris", is the first option with its text, and its "A:" no marker of an answer."""
    return found.where == "marker" and FIRST_OPTION.match(line) is not None and not chosen_letter(found)
