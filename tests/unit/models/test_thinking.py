"""How a trace goes on from a prompt, and how an engine's text becomes a whole trace. Pure."""

import pytest

from distill.models.thinking import continuation, prompt_end, with_prompt_opening

LONG = "<think>\nOkay, 42.\n</think>\n\nIt is 42."
SHORT = "It is 42."
BARE, OPEN, CLOSED = "ask:\n", "ask:\n<think>\n", "ask:\n<think>\n\n</think>\n\n"


@pytest.mark.parametrize(
    ("prompt", "completion", "taught"),
    [
        (BARE, LONG, LONG),
        (BARE, SHORT, SHORT),
        (BARE, "Okay, 42.\n</think>\n\nIt is 42.", LONG),
        (OPEN, LONG, "Okay, 42.\n</think>\n\nIt is 42."),
        (OPEN, "Okay, 42.\n</think>\n\nIt is 42.", "Okay, 42.\n</think>\n\nIt is 42."),
        (OPEN, SHORT, "\n</think>\n\nIt is 42."),
        (OPEN, "<|begin_of_thought|>Hm.<|end_of_thought|>42", "Hm.</think>42"),
        ("ask:\n<think>", LONG, "\nOkay, 42.\n</think>\n\nIt is 42."),
        ("ask:\n[THINK]", LONG, "\nOkay, 42.\n[/THINK]\n\nIt is 42."),
        (CLOSED, SHORT, SHORT),
        (CLOSED, LONG, None),
        (CLOSED, "<think>\n\n</think>\n\nIt is 42.", SHORT),
        (OPEN, "<think>\n\n</think>\n\nIt is 42.", "\n</think>\n\nIt is 42."),
        (BARE, "<think>\n\n</think>\n\nIt is 42.", "<think>\n\n</think>\n\nIt is 42."),
        (BARE, "Sure. <think>\na</think>42", "Sure. <think>\na</think>42"),
        ("ask:\n[THINK]", "[THINK]the tag </think>[/THINK]42", "the tag </think>[/THINK]42"),
        ("ask:\n<think></think>", LONG, None),
        ("ask:\n<|channel>thought\n", LONG, "Okay, 42.\n<channel|>\n\nIt is 42."),
        ("ask:\n<|channel>thought\n<channel|>", LONG, None),
        (BARE, "Hm.\n<channel|>42", "<|channel>thought\nHm.\n<channel|>42"),
        ("ask:<|START_RESPONSE|>", SHORT, SHORT),
        ("ask:<|START_RESPONSE|>", "<think>\n\n</think>\n\nIt is 42.", SHORT),
        ("ask:<|START_RESPONSE|>", LONG, LONG),
    ],
)
def test_a_trace_goes_on_as_the_model_itself_would(prompt: str, completion: str, taught: str | None) -> None:
    assert continuation(prompt, completion) == taught


def test_what_the_prompt_had_opened_is_part_of_the_trace() -> None:
    text = "Okay, 42.\n</think>\n\nIt is 42."
    assert with_prompt_opening(OPEN, text) == LONG
    assert with_prompt_opening(BARE, LONG) == LONG and with_prompt_opening(CLOSED, SHORT) == SHORT
    assert with_prompt_opening(OPEN, LONG) == LONG, "an engine that opens it again"


@pytest.mark.parametrize("prompt", [BARE, OPEN, "ask:\n<think>", "ask:\n[THINK]"])
def test_a_trace_survives_being_taught_to_the_model_that_wrote_it(prompt: str) -> None:
    written = "Hm.</think>4" if "[" not in prompt else "Hm.[/THINK]4"
    trace = with_prompt_opening(prompt, written if prompt != BARE else f"<think>{written}")
    taught = continuation(prompt, trace)
    assert taught == (trace if prompt == BARE else written)


def test_a_tag_in_the_question_opens_nothing() -> None:
    assert prompt_end("What does <think> mean?\nask:\n").opened is None
