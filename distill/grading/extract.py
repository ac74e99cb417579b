"""Finds the final answer in a completion: the last box, else a marked line, else the last number.

Every search is linear in the length of the text: patterns that can backtrack run on a tail of fixed length only.
"""

import re
from typing import NamedTuple

from distill.grading.numbers import IN_TEXT
from serve.api.reasoning_parser import opening_delimiter

MAX_ANSWER_CHARS = 2_000
"""Longer text counts as no answer; this also bounds the messages to workers."""
MAX_TAG_CHARS = 20_000
"""The same for tagged answers to generated problems: the moves of a puzzle are long."""
TAIL_CHARS = 2_000
"""Length of the tail that is searched for marked lines and last numbers."""
MAX_BOXES = 32
"""Boxes that are read, from the end; a model in a loop writes thousands."""
MAX_STATED_DIGITS = 100

BOX_COMMAND = re.compile(r"\\(?:boxed|fbox)(?![A-Za-z])")
BRACE_OR_ESCAPE = re.compile(r"\\.|[{}]", re.DOTALL)
SEPARATOR = re.compile(r"\b(?:and|or)\b|[,;]")
SENTENCE_END = re.compile(r"[.:!?]\s|\n\s*\n")
HASHES = re.compile(r"####[ \t]*([^\n]*)")
MARKER = re.compile(
    r"[Aa](?:(?<=\b[Aa])(?i:nswer)\b[ \t*_]*(?:[:=]|(?i:is\b|are\b|was\b)|[^\n.:=]{1,80}?\b(?i:is)\b)[ \t*_:]*"
    r"(?:(?i:is)\b[ \t*_:]*)?|(?m:(?<=^[Aa]))(?i:ns)?:[ \t]*)"
)
"""Begins with a set of letters, and looks back from it, because the engine then skips what cannot begin a marker."""
FOREIGN_MARKER = re.compile(
    r"(?i:\b(?:antwort|lösung|ergebnis|odpowiedź|svar|antwoord|cevap|jawaban|đáp án|jibu(?:[ \t]+sahihi)?"
    r"|(?:réponse|respuesta|resposta|risposta)(?:[ \t]+(?:correct[ae]|corret[ta]{1,2}|finale?|exacta|juste))?)"
    r"|[Оо]твет|答案|解答|答え|答|정답|답|คำตอบ|الجواب|الإجابة|उत्तर|উত্তর(?:টি|টা)?|సమాధానం|జవాబు)"
    r"[ \t*_]*(?:[:=]|(?<=вет )[—–-](?=\s)|(?i:ist|lautet|est|es|é|è|to|är|is|adalah|là|ni)\b"
    r"|هو|هي|是|为|為|は|คือ|은|는|है|হলো|হল)[ \t*_:]*"
)
ASCII_MARKERS = [
    "antwort",
    "ergebnis",
    "respuesta",
    "resposta",
    "risposta",
    "svar",
    "antwoord",
    "cevap",
    "jawaban",
    "jibu",
]
COMMA_COUNTRY = re.compile(r"(?i)antwort|lösung|ergebnis|resposta|risposta|odpowiedź|cevap|jawaban|antwoord")
"""Markers of languages whose thousands have points."""
POINTED = re.compile(r"(?<![\d.,])([1-9]\d{0,2})\.(\d{3})(?![\d.,]*\d)")
OTHER_LABEL = re.compile(r"(?m)[B-PR-Z](?<=^.):")
UNIT_IN_DOLLARS = re.compile(r"(?<=\d)\s+\$\s*([a-zA-Z]{1,3}(?:\^\{?\d\}?)?)\s*\$")
CONCLUSION = re.compile(r"(?i:final answer):?\s+(?i:the final answer is):?\s+\$([^$\n]{1,300})\$")
CLOSING = re.compile(r"\n|[.!]\s|[.!]\*\*|。")
NEXT_SENTENCE = re.compile(r"(?:[.!?](?:\*\*)?\s+|。\s*)(?=[^\W\d])|,?\s(?:but )?\(?(?:not|rather than|instead of)\s")
STATED = re.compile(
    r"\$\$(.{1,500}?)\$\$|\$([^$\n]{1,500})\$|\\\((.{1,500}?)\\\)|\\\[(.{1,500}?)\\\]|\*\*([^*\nA-Za-z]{0,80}\d[^*\nA-Za-z]{0,80})\*\*",
    re.DOTALL,
)
BARE = re.compile(r"[-+]?[\d./]+%?")
CLOSING_PHRASE = re.compile(r"\.?\s*\b[Ii] hope (?:it|this) is correct.*", re.DOTALL)


class Found(NamedTuple):
    """The answer that was found in a completion."""

    text: str
    where: str
    """How it was found, first part of a grade's `rule`: "box", "marker", "last_number" and so on."""
    is_closed: bool
    """Whether text behind it shows that it is complete, even if the token limit cut the completion."""
    may_be_grouped: bool = False
    """Behind a marker in a language whose thousands have points: "1.234" may be 1234 as well."""


class Missing(NamedTuple):
    """No answer; `rule` is the reason."""

    rule: str


def answer_part(completion: str, reasoning_end: str, *, must_reason: bool = False) -> str | None:
    """The part after the reasoning; None if the reasoning was opened (or must have been) and never closed."""
    if not reasoning_end:
        return completion
    _, delimiter, rest = completion.rpartition(reasoning_end)
    if delimiter:
        return rest
    opening = opening_delimiter(reasoning_end)
    is_inside = must_reason or (opening != reasoning_end and opening in completion)
    return None if is_inside else completion


class _Box(NamedTuple):
    start: int
    end: int
    content: str


def _box_at(text: str, start: int, after: int) -> _Box | None:
    """The box whose command spans [start, after), or None if its braces do not close."""
    opening = after
    while opening < len(text) and text[opening] in " \t\n":
        opening += 1
    if opening >= len(text):
        return None
    if text[opening] != "{":  # "\boxed 5" boxes the one token that follows
        token = re.compile(r"\\[A-Za-z]+|[^\s$\\{}]").match(text, opening)
        return _Box(start, token.end(), token.group()) if token else None
    depth = 0
    for match in BRACE_OR_ESCAPE.finditer(text, opening):
        depth += {"{": 1, "}": -1}.get(match.group(), 0)
        if depth == 0:
            return _Box(start, match.end(), text[opening + 1 : match.start()].strip())
        if match.end() - opening > MAX_ANSWER_CHARS * 2:
            return _Box(start, match.end(), text[opening + 1 : match.end()])
    return None


def _last_command(text: str, end: int, first: int = 0) -> tuple[int, int] | None:
    """Span of the last box command in [first, end)."""
    for _ in range(MAX_BOXES):  # bounded: each of a thousand "\\boxedx" would cost a search of the whole text
        start = max(text.rfind("\\boxed", first, end), text.rfind("\\fbox", first, end))
        match = BOX_COMMAND.match(text, start) if start >= 0 else None
        if match or start < 0:
            return (start, match.end()) if match else None
        end = start
    return None


def _is_same_answer(gap: str) -> bool:
    """Whether the text between two boxes makes them one answer ("\\boxed{1} and \\boxed{2}")."""
    if len(gap) < 10:
        return True
    return len(gap) < 70 and bool(SEPARATOR.search(gap)) and not SENTENCE_END.search(gap)


def find_box(text: str) -> Found | Missing | None:
    """The last box, joined with earlier boxes of the same answer. A malformed last box never falls back to another."""
    span = _last_command(text, len(text))
    if span is None:
        return None
    box = _box_at(text, *span)
    if box is None:
        return Missing("malformed_box")
    contents = [box.content]
    if not box.content.strip():
        return Missing("empty_box")
    for _ in range(MAX_BOXES):
        span = _last_command(text, box.start, max(0, box.start - MAX_ANSWER_CHARS))
        if span is None:
            break
        earlier = _box_at(text, *span)
        if earlier is None or earlier.end > box.start or not _is_same_answer(text[earlier.end : box.start]):
            break
        box = earlier
        if earlier.content.strip() and earlier.content not in contents:
            contents.insert(0, earlier.content)
    return _check_size(Found(", ".join(contents), "box", is_closed=True))


def _check_size(found: Found, max_chars: int = MAX_ANSWER_CHARS) -> Found | Missing:
    if len(found.text) > max_chars:
        return Missing("answer_too_long")
    return found if found.text.strip() else Missing(f"empty_{found.where}")


def find_tag(text: str) -> Found | Missing | None:
    """The last `<answer>...</answer>`, the form that reasoning-gym's prompts and R1-Zero's ask for."""
    if "<answer>" not in text:
        return None
    tail = text[text.rfind("<answer>") :]
    if "</answer>" not in tail:
        return Missing("malformed_tag")
    content = tail[len("<answer>") :].split("</answer>")[0].strip()
    return _check_size(Found(content, "tag", is_closed=True), MAX_TAG_CHARS)


def find_tagged(text: str) -> Found | Missing | None:
    """What the last answer tag holds: its box, its marked line, or all of it; None where no text is tagged.

    A tag that nothing closes is read to the end: engines stop at `</answer>` and leave it out.
    """
    found = find_tag(text)
    if isinstance(found, Missing) and found.rule == "malformed_tag":
        found = Found(text.rpartition("<answer>")[2].strip(), "tag", is_closed=False)
    if not isinstance(found, Found) or not found.text:
        return None if found is None or isinstance(found, Found) or found.rule == "empty_tag" else found
    inner = find_box(found.text) or find_marked(found.text)
    return inner._replace(is_closed=found.is_closed) if isinstance(inner, Found) else inner or _check_size(found)


def find_concluded(text: str) -> Found | None:
    """The `$...$` of "Final Answer: The final answer is" behind the last box: the boxes held intermediate steps."""
    tail = text[-TAIL_CHARS:]
    if "inal answer is" not in tail:
        return None
    concluded = next(reversed([*CONCLUSION.finditer(tail)]), None)
    if concluded is None or "\\boxed" in tail[concluded.start() :]:
        return None
    return Found(concluded.group(1).strip(), "marker", is_closed=True)


def find_marked_block(text: str) -> Found | None:
    """As `find_marked`, with the lines below: a generated problem may ask for a grid or for moves."""
    last = _last_marker(text[-MAX_TAG_CHARS:])
    start = (
        last.start() + len(last.group().rstrip(" \t*_")) if last and last.re is not HASHES else 0
    )  # "_" may be a cell
    value = last.string[last.start(1) if last.re is HASHES else start :].strip(" \t*\n") if last else ""
    return Found(value, "marker", is_closed="\n" in value or bool(CLOSING.search(value))) if value else None


def _last_marker(tail: str) -> re.Match[str] | None:
    """The last marker of an answer."""
    last = next(reversed([*HASHES.finditer(tail)]), None) if "####" in tail else None
    for match in MARKER.finditer(tail, last.start() if last else 0):
        if not _is_label(match, tail):
            last = match
    if last is None and _may_be_foreign(tail):
        return next(reversed([*FOREIGN_MARKER.finditer(tail)]), None)
    return last


def _may_be_foreign(tail: str) -> bool:
    """Whether a marker of another language is possible at all: the search for one is slow on English text."""
    lowered = tail.lower()
    return not tail.isascii() or any(word in lowered for word in ASCII_MARKERS)


def find_marked(text: str) -> Found | None:
    """The text after the last "#### ", "Final Answer:", "the answer is" or "A:", in English or another language."""
    tail = text[-TAIL_CHARS:]
    last = _last_marker(tail)
    if last is None:
        return None
    start = last.start(1) if last.re is HASHES else last.end()
    rest = tail[start:]
    value, newline, following = rest.lstrip(" \t*\n").partition("\n")
    if value.rstrip(" \t*").endswith(":") and following.strip():  # "Final answer:", a sentence, then the value
        rest = following
        value, newline, _ = rest.lstrip(" \t*\n").partition("\n")
    if value.startswith(("\\[", "$$")) and len(value) <= 3:  # displayed maths: the value is on its own lines
        value = " ".join(rest.split())
    value = (CLOSING_PHRASE.sub("", value) if "hope" in value else value).strip(" \t*")
    if "$" in value:
        value = UNIT_IN_DOLLARS.sub(r" \1", value)
    if not value:
        return None
    is_local = last.re is FOREIGN_MARKER and bool(COMMA_COUNTRY.match(last.group()))
    is_closed = bool(newline) or bool(CLOSING.search(rest))
    return Found(value, "marker", is_closed, may_be_grouped=is_local and bool(POINTED.search(value)))


def without_points(found: Found) -> Found:
    """The answer without points between thousands."""
    return found._replace(text=POINTED.sub(r"\1\2", found.text))


def _is_label(match: re.Match[str], tail: str) -> bool:
    """Whether "A:" names a quantity: other letters are labels too, or text follows that is no next question."""
    if match.group()[:2].lower() != "a:":
        return False
    following = tail[match.end() :].lstrip(" \t*\n").partition("\n")[2].strip()
    return (bool(following) and not following.startswith("Q")) or bool(OTHER_LABEL.search(tail))


def first_sentence(value: str) -> str:
    """A marked value without the sentences behind it."""
    match = NEXT_SENTENCE.search(value)
    return value[: match.start()] if match and match.start() else value


def find_formulas(text: str) -> list[str]:
    """The contents of `$...$`, `\\(...\\)`, `\\[...\\]` and bold phrases with a digit, in order."""
    return [next(filter(None, match.groups())).strip() for match in STATED.finditer(text)]


def only_statement(text: str) -> str | None:
    """The only formula of a short text if no number follows it, or the whole text if it is one bare number."""
    matches = [*STATED.finditer(text)]
    if not matches:
        return text if BARE.fullmatch(text) else None
    is_last = len(matches) == 1 and not any(character.isdigit() for character in text[matches[0].end() :])
    return next(filter(None, matches[0].groups())).strip() if is_last else None


def find_stated(text: str) -> Found | Missing:
    """The last formula, bold phrase or number of an unmarked text, whichever comes last."""
    tail = text[-TAIL_CHARS:]
    if len(text) > TAIL_CHARS:  # from the start of a line: half a formula would swap opening and closing "$"
        tail = tail.partition("\n")[2] or tail
    statement = next(reversed([*STATED.finditer(tail)]), None)
    number = next(reversed([*IN_TEXT.finditer(tail)]), None)
    if statement is not None and (number is None or number.start() < statement.end()):
        return Found(next(filter(None, statement.groups())).strip(), "last_formula", is_closed=False)
    if number is None:
        return Missing("no_mathematics")
    is_runaway = len(number.group()) > MAX_STATED_DIGITS  # "0000..." until the limit
    return Missing("answer_too_long") if is_runaway else Found(number.group().strip(), "last_number", is_closed=False)


def last_line(text: str) -> str:
    """The last line that is not blank."""
    return text.rstrip()[-TAIL_CHARS:].rpartition("\n")[2].strip()
