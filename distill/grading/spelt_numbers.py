"""Numbers in words: English ("one hundred and five", "twenty-five apples") and Chinese ("十五")."""

import re
from fractions import Fraction

_SMALL = """zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen
seventeen eighteen nineteen"""
_TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
ENGLISH = {word: value for value, word in enumerate(_SMALL.split())} | {
    word: 10 * value for value, word in enumerate(_TENS.split(), 2)
}
ENGLISH_SCALES = {"hundred": 100, "thousand": 1_000, "million": 10**6, "billion": 10**9}
_WORD = "|".join([*ENGLISH, *ENGLISH_SCALES])
_PARTS = ["half", "third", "quarter", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth"]
PARTS = {part: value for value, part in enumerate(_PARTS, 2)} | {"halve": 2, "fourth": 4}
_PART = "|".join(f"{part}s?" for part in PARTS)
ENGLISH_NUMBER = re.compile(
    rf"(?i)(?<![A-Za-z])(?:(?:minus|negative)\s+)?(?:{_WORD})(?:(?:\s+|-|\s+and\s+)(?:{_WORD}))*(?![A-Za-z-])(?!\s+of\b)"
    rf"(?!(?:\s+and\s+(?:an?|one|two|three))?[\s-]+(?:{_PART})\b)"
)
ENGLISH_FRACTION = re.compile(rf"(?i)(?:({_WORD}(?:[\s-]{_WORD})?)\s+and\s+)?(?:(an?|{_WORD})[\s-]+)?({_PART})")
REFERRED = re.compile(
    r"(?i)\b(?:the|these|those|this|that|same|other|first|last|next|previous|following|every|each|my|your|his|her|their"
    r"|our|its|any|either)\s+$"
)
"""Before a number that counts what was spoken of: "the same eight words" says nothing about eight."""
COUNTING = r"is|are|was|were|be|exactly|only|just|equals?|to|about|leaves?|leaving|has|have|had|and|minus|negative"
PRONOUN = re.compile(rf"(?i)\b(?!(?:{COUNTING})\s)[a-z]+\s+one(?=\s*(?:$|[.,;!?)]|(?:that|which|who|where|with|is)\b))")
"""The "one" of "the smaller one"."""
CHINESE = {
    "零": 0, "〇": 0, "一": 1, "二": 2, "两": 2, "三": 3, "四": 4, "五": 5, "六": 6, "七": 7, "八": 8, "九": 9,
}  # fmt: skip
CHINESE_SCALES = {"十": 10, "百": 100, "千": 1_000, "万": 10**4, "亿": 10**8}
CHINESE_NUMBER = re.compile(f"[{''.join([*CHINESE, *CHINESE_SCALES])}]+")
MAX_CHARS = 120


def english_value(text: str) -> int | None:
    """The value of number words ("twenty-five" is 25), or None where they do not form one number."""
    found = re.findall(r"[a-z]+", text.lower())
    sign = -1 if found and found[0] in ("minus", "negative") else 1
    total = current = 0
    for word in found[sign < 0 :]:
        if word == "and":
            continue
        if word in ENGLISH:
            value = ENGLISH[word]
            is_next = current % 100 == 0 or (current % 10 == 0 and current % 100 >= 20 and 0 < value < 10)
            if not is_next:
                return None
            current += value
        elif word == "hundred":
            current = max(current, 1) * 100
        else:
            total, current = total + max(current, 1) * ENGLISH_SCALES[word], 0
    return sign * (total + current)


def english_fraction(text: str) -> Fraction | None:
    """The value of "two thirds", "half", "two and a half", or None; "third" alone is a place, not a part."""
    match = ENGLISH_FRACTION.fullmatch(text)
    if match is None or not (match[2] or match[3].lower() == "half"):
        return None
    top = 1 if (match[2] or "a").lower() in ("a", "an") else english_value(match[2])
    whole = english_value(match[1]) if match[1] else 0
    if top is None or whole is None:
        return None
    return whole + Fraction(top, PARTS[match[3].lower().removesuffix("s")])


def first_english_number(text: str) -> int | None:
    """The first number in words that a text states."""
    text = PRONOUN.sub("", text[:MAX_CHARS])
    stated = (match for match in ENGLISH_NUMBER.finditer(text) if not REFERRED.search(text[: match.start()]))
    match = next(stated, None)
    return english_value(match.group()) if match else None


def chinese_value(text: str) -> int:
    """The value of a run of Chinese numerals; a run without scales is read digit by digit."""
    if not any(character in CHINESE_SCALES for character in text):
        return int("".join(str(CHINESE[character]) for character in text))
    total = section = digit = 0
    for character in text:
        if character in CHINESE:
            digit = CHINESE[character]
            continue
        scale = CHINESE_SCALES[character]
        if scale < 10**4:
            section, digit = section + (digit or 1) * scale, 0
        else:
            total, section, digit = (total + section + digit or 1) * scale, 0, 0
    return total + section + digit


def chinese_numbers(text: str) -> list[int]:
    """The numbers in Chinese numerals of the end of a text, in order."""
    return [chinese_value(match.group()[:20]) for match in CHINESE_NUMBER.finditer(text[-MAX_CHARS:])]
