"""Near-duplicates and contaminated prompts are dropped with what they matched; templates and other numbers stay."""

import dataclasses
import random

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from distill.config.prompts import PromptsConfig
from distill.core.schema import Prompt, prompt_id
from distill.prompts.clean import add_counts, clean_prompts
from distill.prompts.near_duplicates import distinctive_shingles, similarity
from distill.prompts.ngrams import NUM_BUCKETS, content, tokens

STORY = "Anna picks 12 apples in the morning and 7 apples in the evening, then she gives 5 of them to her brother Tom."
ARDEN = "A train leaves the town of Arden at noon and travels north at sixty miles per hour until it reaches the lake."


def prompt(text: str) -> Prompt:
    return Prompt(prompt_id(text), text, "1", "number", "test", "", "", "")


def config(**fields: float) -> PromptsConfig:
    return PromptsConfig.model_validate({"sources": [{"kind": "file", "path": "x"}], **fields})


def clean(problems: list[str], benchmark: tuple[str, ...] = (ARDEN,), **fields: float) -> tuple[set[str], list[str]]:
    cleaned = clean_prompts(
        [prompt(text) for text in problems], {"benchmark": [*map(prompt, benchmark)]}, config(**fields), list
    )
    return {one.problem for one in cleaned.prompts}, [f"{drop.reason}: {drop.detail}" for drop in cleaned.drops]


def ways(number: int) -> list[str]:
    """Different routes in words, the same at every call."""
    draw = random.Random(7)
    return [" ".join(draw.choices("abcdefghijklmnopqrst", k=12)) for _ in range(number)]


def alike(one: str, other: str, answers: tuple[str, str] = ("1", "1")) -> float:
    nothing_is_common = np.zeros(NUM_BUCKETS, dtype=bool)
    return similarity(
        *(
            distinctive_shingles(text, answer, nothing_is_common)
            for text, answer in zip((one, other), answers, strict=True)
        )
    )


def test_a_near_duplicate_is_dropped_and_names_the_kept_prompt() -> None:
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
    benchmark = tuple(f"State the final answer to the following arithmetic problem: {a} - {a} =" for a in range(30, 60))
    assert clean(sums, benchmark) == (set(sums), [])


def test_a_template_whose_benchmark_has_other_values_is_left_whole() -> None:
    wording = (
        "Below is a map of an old town. Find the shortest way from the gate to the tower on this map, street by street:"
    )
    problems = [f"{wording} {way}" for way in ways(60)]
    benchmark = tuple(f"{wording} {way}" for way in ways(90)[60:])
    assert clean(problems, benchmark) == (set(problems), [])


def test_another_sign_or_another_answer_is_another_problem() -> None:
    assert alike("Let x + y = 4. Find x.", "Let x - y = 4. Find x.") == 0.0
    assert alike("Find the word.", "Find the word.", answers=("moon", "sun")) == 0.0
    assert alike("Find x_1 + 5!", r"Find $x_{1} + 5!$.") == 1.0
    assert alike("What is |x - 7|?", r"What is $\left|x - 7\right|$?", answers=("7-2x", r"\mathbf{7 - 2x}")) == 1.0
    assert content(tokens("Good! Find 5! and n! today!")) == ("5", "!", "!")


def test_answers_of_brackets_alone_make_problems_different() -> None:
    closing = "Close all brackets:"
    assert alike(f"{closing} ( [ {{", f"{closing} ( {{ [", answers=("} ] )", "] } )")) == 0.0
    assert alike(f"{closing} [ {{", f"{closing} [", answers=("} ]", "]")) == 0.0
    assert alike("Which sign ends it?", "Which sign ends it ...", answers=("?", "...")) == 0.0
    assert alike("Find the half.", "Find the  half.", answers=(r"\dfrac{1}{2}", r"$\frac{1}{2}$")) == 1.0


def test_a_problem_of_common_wording_alone_is_kept_once() -> None:
    copies = [f"{STORY}{'.' * number}" for number in range(40)]
    assert len(clean(copies)[0]) == 1


def test_counts_of_a_shingle_that_come_in_one_block_are_added() -> None:
    total = add_counts([(np.array([3, 5, 3], dtype=np.uint64), np.array([2, 1, 4])), (np.array([5]), np.array([1]))])
    assert (total[3], total[5], total.sum()) == (6, 2, 8)


def test_the_code_of_a_figure_does_not_count() -> None:
    figure = "[asy] draw((0,0)--(1,0)--(1,1)--(0,1)--cycle); label(s, (0.5,0), S); [/asy]"
    assert len(clean([f"How long is the side? {figure}"], (f"How large is the square? {figure}",))[0]) == 1
    assert clean([f"How long is it? {figure}"], (f"How long is it: {figure}",))[0] == set()


def test_a_prompt_that_contains_a_run_of_a_benchmark_problem_is_dropped_and_names_it() -> None:
    stays, lost = clean([f"Hint: read well. {ARDEN} How long does it take?", STORY])
    assert stays == {STORY}
    assert lost == [f"shares words with a benchmark: benchmark {prompt_id(ARDEN)}: {' '.join(tokens(ARDEN)[:13])}"]


def test_wording_that_many_prompts_share_does_not_count() -> None:
    wording = "Solve the following problem step by step and give the final answer in a box please:"
    problems = [f"{wording} word{number} thing{number} and {number}" for number in range(60)]
    benchmark = (f"{wording} something else entirely",)
    assert clean(problems, benchmark) == (set(problems), [])


def test_a_short_problem_matches_only_as_a_whole() -> None:
    assert clean(["Find x plus one"], ("Find x",))[0] == {"Find x plus one"}
    assert clean(["find X"], ("Find x.",))[0] == set()


POLYNOMIALS = r"""$\quad$ Let $u$ and $v$ be real numbers such that
$$
u^{3}-12 u^{2}+17 u-40=0 \quad \text { and } \quad 5 v^{3}-30 v^{2}-170 v+1515=0
$$
Compute $u+v$."""
TYPESET = r"""Let $u$ and $v$ be real numbers such that
\[u^3 - 12u^2 + 17u - 40 = 0 \quad \text{and} \quad 5v^3 - 30v^2 - 170v + 1515 = 0.\]Compute $u + v.$"""


def test_layout_does_not_change_the_tokens_of_a_problem() -> None:
    assert tokens(POLYNOMIALS) == tokens(TYPESET)
    assert tokens(r"\left(\dfrac{1}{2}\right) \leq \mathbb{R}") == ["(", "frac", "1", "2", ")", "leq", "r"]
    assert clean([TYPESET], (POLYNOMIALS,))[0] == set()
    stays, _ = clean([r"Find $x_1$ where $$x_1 + x_2 = 7.$$", r"Find \(x_1\) where \[x_1 + x_2 = 7.\]"], ())
    assert len(stays) == 1


def test_mathematics_that_many_prompts_write_alike_still_distinguishes_polynomials() -> None:
    others = [f"Find the roots of x^3 - {n}x^2 + {n + 1}x - {n + 2} = 0, and their sum." for n in range(60)]
    stays, lost = clean([*others, TYPESET], (POLYNOMIALS,))
    assert stays == set(others)
    assert len(lost) == 1


def test_closing_words_in_common_are_no_leak() -> None:
    closing = "can be written as m/n, where m and n are relatively prime positive integers. Find m + n."
    train = (
        "A dart lands in the unit square, anywhere as likely as elsewhere. Given that it has missed the circle "
        f"around the centre that touches all sides, the chance that it lies nearer to the left than the right {closing}"
    )
    benchmark = (
        "Seven knights sit at a round table. Three of them, chosen by lot, leave for the woods before supper. "
        f"The chance that nobody who stays has an empty chair on either side of him when the meal begins {closing}"
    )
    assert clean([train], (benchmark,))[0] == {train}


def test_a_story_with_other_numbers_is_no_leak_but_one_with_a_number_more_is() -> None:
    story = (
        "A tram runs 360 miles in 3 hours. At that speed, how many more hours would it take to run another 240 miles?"
    )
    other = story.replace("360", "1200").replace("240", "2000").replace("tram", "plane")
    assert clean([story], (other,))[0] == {story}
    assert clean([story], (f"{story} Write it as 1/2.",))[0] == set()


def test_one_number_of_three_that_differs_makes_another_problem() -> None:
    angle = "Find the whole number n from 0 to 180 for which the cosine of n degrees equals the cosine of 259 degrees."
    assert clean([angle], (angle.replace("259", "568"),))[0] == {angle}
    assert clean([angle], (f"Work without a table. {angle}",))[0] == set()


def test_generated_problems_with_another_answer_are_other_problems() -> None:
    wording = "On this island all people are knights, who tell the truth, or knaves, who lie. You meet Ann and Bo."
    train = Prompt("t", f"{wording} Ann says: Bo is a knave.", "Ann", "reasoning_gym", "s", "", "", "")
    benchmark = Prompt("e", f"{wording} Ann says: Bo is a knight.", "both", "reasoning_gym", "s", "", "", "")
    assert clean_prompts([train], {"benchmark": [benchmark]}, config(), list).prompts == [train]
    written = [dataclasses.replace(one, answer_kind="text") for one in (train, benchmark)]
    assert clean_prompts(written[:1], {"benchmark": written[1:]}, config(), list).prompts == []


def test_each_step_can_be_left_out() -> None:
    problems = [f"{ARDEN} How long?", STORY, STORY.lower()]
    assert len(clean(problems, near_duplicates=0, decontaminate_ngram=0)[0]) == 3


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 50))
def test_the_order_of_the_prompts_does_not_matter(seed: int) -> None:
    words = STORY.split()
    variants = [" ".join([*words[:cut], "indeed", *words[cut:]]) for cut in range(0, len(words), 4)]
    problems = [*variants, STORY, ARDEN + " Why?"]
    shuffled = random.Random(seed).sample(problems, len(problems))
    assert clean(shuffled, near_duplicates=0.6)[0] == clean(problems, near_duplicates=0.6)[0]


def test_a_power_in_one_character_reads_like_one_that_is_spelt_out() -> None:
    assert tokens("Solve x² + y₁ = 10⁻²") == tokens("Solve $x^2 + y_1 = 10^{−2}$")
    assert tokens("3⁴") != tokens("34") and tokens("3½ m") != tokens("31⁄2 m")


def test_separators_of_thousands_do_not_change_a_number() -> None:
    plain = "A shop sells 1500 books for 12 dollars each and 12000 pens for 2 dollars each, so how much does it take?"
    for thousand in ("1,500", "1{,}500", r"1\,500", r"1,\!500"):
        written = plain.replace("1500", thousand).replace("12000", thousand.replace("1", "12").replace("500", "000"))
        assert tokens(written) == tokens(plain)
        assert clean([written], (plain,))[0] == set()
    assert tokens("f(100,200) {1,200} 3,5 1,500,20 1,5000 0,500 2.1,000 1,000.5") == [
        *("f", "(", "100", "200", ")", "1", "200", "3", "5", "1", "500", "20", "1", "5000", "0", "500", "2.1", "000"),
        "1000.5",
    ]
