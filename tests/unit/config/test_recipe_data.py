"""The data files beside the recipes: own items, complete in every language, and readable as prompts."""

import json
from collections import Counter
from typing import Any

import pytest
from pydantic import ValidationError

from distill.config.shipped import RECIPES_DIR
from distill.config.sources import FileSource
from distill.prompts.load import Loaded, load_prompts
from tests.fixtures.language_sums import FILE, QUESTIONS, SIZES, rows, value_of, written


def items(name: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (RECIPES_DIR / name).read_text(encoding="utf-8").splitlines()]


def test_the_sums_are_what_their_script_writes() -> None:
    assert FILE.read_text(encoding="utf-8") == written(), "run: python -m tests.fixtures.language_sums"


def test_every_sum_is_asked_in_all_languages_and_is_in_one_split() -> None:
    by_number: dict[int, list[dict[str, Any]]] = {}
    for row in rows():
        by_number.setdefault(row["number"], []).append(row)
    assert len(by_number) == sum(SIZES.values())
    for number, same in by_number.items():
        assert [row["language"] for row in same] == list(QUESTIONS), number
        assert len({(row["answer"], row["split"], row["level"]) for row in same}) == 1
    asked = Counter(row["problem"] for row in rows())
    assert max(asked.values()) == 1


def test_a_sum_has_the_value_that_it_is_written_with() -> None:
    assert [value_of(text) for text in ("48 + 27 - 5", "3 - 8", "7")] == [70, -5, 7]


def test_the_choice_items_are_balanced_over_levels_and_languages_and_each_has_one_answer() -> None:
    found = items("levels.jsonl")
    assert Counter((row["level"], row["language"]) for row in found) == {
        (level, language): 5 for level in "123" for language in ("en", "zh")
    }
    for row in found:
        assert len(set(row["options"])) == 4 and row["answer"] in "ABCD"
    letters = {(row["id"].partition("-")[0], row["answer"]) for row in found}
    assert len(letters) == 15, "both languages of an item have the same answer"
    assert max(Counter(letter for _, letter in letters).values()) <= 6, "no letter is a good guess"


def read(**source: Any) -> Loaded:
    settings: dict[str, Any] = {"max_problem_chars": 1000, "num_prompts": None, "seed": 0}
    return load_prompts([FileSource.model_validate(source)], base=RECIPES_DIR, **settings)


def test_the_files_are_read_as_prompts_of_one_language_and_split() -> None:
    columns = {"problem": "problem", "reference": "answer", "level": "level"}
    where = {"language": "de", "split": "train"}
    sums = read(path=FILE.name, columns=columns, where=where)
    assert len(sums.prompts) == SIZES["train", 2] + SIZES["train", 3] and not sums.drops
    assert all(prompt.problem.startswith("Was ergibt") for prompt in sums.prompts)
    columns = {"problem": "question", "reference": "answer", "choices": "options", "level": "level"}
    choices = read(path="levels.jsonl", columns=columns, where={"language": "zh"})
    assert Counter(prompt.level for prompt in choices.prompts) == {"1": 5, "2": 5, "3": 5} and not choices.drops
    assert all("\nD) " in prompt.problem for prompt in choices.prompts)
    assert {prompt.answer_kind for prompt in choices.prompts} == {"choice"}, "a letter, though no recipe says so"
    with pytest.raises(ValidationError, match=r"columns\.choices makes letters of the answers"):
        read(path="levels.jsonl", columns=columns, answer_kind="math")
