"""Near-duplicates and contaminated prompts go, with what they matched; templates and other numbers stay."""

import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.clean_prompts import add_counts, clean_prompts
from distill.config import PromptsConfig
from distill.near_duplicates import similarity, tell
from distill.ngrams import NUM_BUCKETS, content, tokens
from distill.schema import Prompt, prompt_id

STORY = "Anna picks 12 apples in the morning and 7 apples in the evening, then she gives 5 of them to her brother Tom."
EXAM = "A train leaves the town of Arden at noon and travels north at sixty miles per hour until it reaches the lake."


def prompt(text: str) -> Prompt:
    return Prompt(prompt_id(text), text, "1", "number", "test", "", "", "")


def config(**fields: float) -> PromptsConfig:
    return PromptsConfig.model_validate({"sources": [{"kind": "file", "path": "x"}], **fields})


def clean(problems: list[str], exam: tuple[str, ...] = (EXAM,), **fields: float) -> tuple[set[str], list[str]]:
    cleaned = clean_prompts([prompt(text) for text in problems], {"exam": [*map(prompt, exam)]}, config(**fields), list)
    return {one.problem for one in cleaned.prompts}, [f"{drop.reason}: {drop.detail}" for drop in cleaned.drops]


def ways(number: int) -> list[str]:
    """Different routes in words, the same at every call."""
    draw = random.Random(7)
    return [" ".join(draw.choices("abcdefghijklmnopqrst", k=12)) for _ in range(number)]


def alike(one: str, other: str, answers: tuple[str, str] = ("1", "1")) -> float:
    nothing_is_common = np.zeros(NUM_BUCKETS, dtype=bool)
    return similarity(
        *(tell(text, answer, nothing_is_common) for text, answer in zip((one, other), answers, strict=True))
    )


def test_the_same_story_in_almost_the_same_words_stays_once_and_names_its_twin() -> None:
    other = STORY.replace("apples in the evening", "Apples in the  evening!")
    stays, lost = clean([STORY, other], near_duplicates=0.7)
    assert len(stays) == 1
    (kept,) = stays
    assert lost[0].startswith("near duplicate: ")
    assert kept in lost[0]


def test_another_number_is_another_problem() -> None:
    assert len(clean([STORY, STORY.replace("12", "13")])[0]) == 2
    assert alike("What is 3 + 4?", "What is 4 + 3?") == 0.0


def test_a_template_set_is_left_whole() -> None:
    sums = [
        f"State the final answer to the following arithmetic problem: {a} + {b} =" for a in range(30) for b in range(9)
    ]
    exam = tuple(f"State the final answer to the following arithmetic problem: {a} - {a} =" for a in range(30, 60))
    assert clean(sums, exam) == (set(sums), [])


def test_a_template_whose_exam_has_other_values_is_left_whole() -> None:
    wording = (
        "Below is a map of an old town. Find the shortest way from the gate to the tower on this map, street by street:"
    )
    problems = [f"{wording} {way}" for way in ways(60)]
    exam = tuple(f"{wording} {way}" for way in ways(90)[60:])
    assert clean(problems, exam) == (set(problems), [])


def test_another_sign_or_another_answer_is_another_problem() -> None:
    assert alike("Let x + y = 4. Find x.", "Let x - y = 4. Find x.") == 0.0
    assert alike("Find the word.", "Find the word.", answers=("moon", "sun")) == 0.0
    assert alike("Find x_1 + 5!", r"Find $x_{1} + 5!$.") == 1.0
    assert content(tokens("Good! Find 5! and n! today!")) == ("5", "!", "!")


def test_a_problem_that_is_wording_throughout_still_stays_once() -> None:
    copies = [f"{STORY}{'.' * number}" for number in range(40)]
    assert len(clean(copies)[0]) == 1


def test_counts_of_a_shingle_that_come_in_one_block_are_added() -> None:
    total = add_counts([(np.array([3, 5, 3], dtype=np.uint64), np.array([2, 1, 4])), (np.array([5]), np.array([1]))])
    assert (total[3], total[5], total.sum()) == (6, 2, 8)


def test_the_code_of_a_figure_is_no_evidence() -> None:
    figure = "[asy] draw((0,0)--(1,0)--(1,1)--(0,1)--cycle); label(s, (0.5,0), S); [/asy]"
    assert len(clean([f"How long is the side? {figure}"], (f"How large is the square? {figure}",))[0]) == 1
    assert clean([f"How long is it? {figure}"], (f"How long is it: {figure}",))[0] == set()


def test_a_prompt_that_holds_a_run_of_an_exam_problem_goes_and_says_which() -> None:
    stays, lost = clean([f"Hint: read well. {EXAM} How long does it take?", STORY])
    assert stays == {STORY}
    assert lost == [f"shares words with a benchmark: exam {prompt_id(EXAM)}: {' '.join(tokens(EXAM)[:13])}"]


def test_wording_that_many_prompts_share_is_no_evidence() -> None:
    wording = "Solve the following problem step by step and give the final answer in a box please:"
    problems = [f"{wording} word{number} thing{number} and {number}" for number in range(60)]
    exam = (f"{wording} something else entirely",)
    assert clean(problems, exam) == (set(problems), [])


def test_a_short_problem_matches_only_as_a_whole() -> None:
    assert clean(["Find x plus one"], ("Find x",))[0] == {"Find x plus one"}
    assert clean(["find X"], ("Find x.",))[0] == set()


def test_each_step_can_be_left_out() -> None:
    problems = [f"{EXAM} How long?", STORY, STORY.lower()]
    assert len(clean(problems, near_duplicates=0, decontaminate_ngram=0)[0]) == 3


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 50))
def test_the_order_of_the_prompts_does_not_matter(seed: int) -> None:
    words = STORY.split()
    variants = [" ".join([*words[:cut], "indeed", *words[cut:]]) for cut in range(0, len(words), 4)]
    problems = [*variants, STORY, EXAM + " Why?"]
    shuffled = random.Random(seed).sample(problems, len(problems))
    assert clean(shuffled, near_duplicates=0.6)[0] == clean(problems, near_duplicates=0.6)[0]
