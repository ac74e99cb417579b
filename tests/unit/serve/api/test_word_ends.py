"""Where a text is cut: at the end of a word, and in place where a script writes words together."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.api.word_ends import MAX_WORD_CHARS, word_end

CHINESE = "第一步\n" + "我们先计算两个数的和然后再乘以三" * 8


@pytest.mark.parametrize(
    ("text", "at", "kept"),
    [
        ("one two three", 6, "one "),
        ("one two three", 7, "one two"),
        ("one two three", 8, "one two "),
        ("one two", 2, "on"),
        ("one two", 9, "one two"),
        ("我们用 Python 计算", 8, "我们用 "),
        ("答案是sqrt的值", 5, "答案是"),
        ("答案是12", 2, "答案"),
        ("สวัสดีครับ", 5, "สวัส"),
        ("เพราะว่าเรามีห้า", 6, "เพราะ"),
        ("계산을 먼저 합니다", 5, "계산을 "),
    ],
)
def test_a_text_is_cut_at_the_end_of_a_word_where_words_are_written_apart(text: str, at: int, kept: str) -> None:
    assert text[: word_end(text, at)] == kept


def test_a_text_without_spaces_keeps_its_share() -> None:
    assert word_end(CHINESE, len(CHINESE) // 2) == len(CHINESE) // 2
    long = "see " + "x" * 200
    assert word_end(long, 100) == 100 and word_end(long, MAX_WORD_CHARS) == len("see ")


@given(text=st.text(alphabet="ab 我。ส\u0e31\n", max_size=80), at=st.integers(0, 80))
def test_a_cut_is_never_later_and_never_far_back(text: str, at: int) -> None:
    cut = word_end(text, at)
    assert 0 <= cut <= at and (at - cut <= 2 * MAX_WORD_CHARS or "\u0e31" in text)
