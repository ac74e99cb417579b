"""The language of reasoning and answers: sentences, a few words, formulas, mixtures, forced beginnings."""

import pytest

from distill.evaluate.language_detector import completion_languages, text_language
from serve.api.forcing import OPENINGS

GERMAN = "Ich addiere zuerst die beiden Zahlen. Danach ziehe ich die dritte Zahl von der Summe ab."
ENGLISH = "I add the two numbers first. Then I subtract the third number from their sum."


@pytest.mark.parametrize("language", OPENINGS)
def test_a_sentence_in_every_language_that_can_be_forced_is_told(language: str) -> None:
    assert text_language(OPENINGS[language], "en") == language


@pytest.mark.parametrize(
    ("text", "language"),
    [
        (r"The answer is \boxed{42}.", "en"),
        (r"Die Antwort ist \boxed{42}.", "de"),
        (r"答案是 $\boxed{42}$。", "zh"),
        ("La réponse est 7.", "fr"),
        ("", ""),
        ("42", ""),
        (r"\boxed{\text{x}} = 3 + 4 \cdot \sin x", ""),
        ("```python\nprint('this is no sentence of a language')\n```", ""),
        ("A)", ""),
    ],
)
def test_few_words_are_told_and_formulas_are_not(text: str, language: str) -> None:
    assert text_language(text, "en") == language


def test_reasoning_and_answer_are_told_apart() -> None:
    told = completion_languages(f"<think>\n{ENGLISH}\n</think>\n\n{GERMAN}", "de", reasoning_end="</think>")
    assert (told.reasoning, told.answer) == ("en", "de")
    assert told.own == 0 < told.told
    plain = completion_languages(GERMAN, "de", reasoning_end="</think>")
    assert (plain.reasoning, plain.answer) == ("de", "de") and plain.own == plain.told > 0
    cut = completion_languages(f"<think>\n{GERMAN}", "de", reasoning_end="</think>")
    assert (cut.reasoning, cut.answer) == ("de", "")


def test_a_reasoning_that_changes_its_language_has_a_share_of_it() -> None:
    told = completion_languages(f"{GERMAN}\n{ENGLISH}", "de", reasoning_end="")
    assert 0.3 < told.own / told.told < 0.7


def test_the_sentence_that_was_forced_counts_for_nothing() -> None:
    forced = f"<think>\n{OPENINGS['fr']}\n{ENGLISH}</think>\n\n7"
    told = completion_languages(forced, "fr", reasoning_end="</think>", given=OPENINGS["fr"])
    assert told.own == 0 and told.reasoning == "en"
    assert completion_languages(forced, "fr", reasoning_end="</think>").own > 0
