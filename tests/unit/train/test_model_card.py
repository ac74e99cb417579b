"""What a student's card tells of its prompts."""

import json

import pytest

from distill.config.teachers import ChatFormat, WorkedExample
from distill.models.chat_template import chat_messages
from distill.train.model_card import describe_prompt
from tests.fixtures.report_run import make_recipe


def test_a_card_shows_every_turn_before_the_problem() -> None:
    chat = ChatFormat(template="Q: {problem}", examples=(WorkedExample(problem="1 + 1?", completion="It is\n2."),))
    told = describe_prompt(make_recipe().model_copy(update={"student_chat": chat}))
    assert [json.loads(line) for line in told.split("```")[1].splitlines() if line] == chat_messages("?", chat)[:-1]


@pytest.mark.parametrize(
    ("system", "words"), [(None, "The problem goes"), ("", "The system prompt is empty; "), ("S.", "prompt is `S.`; ")]
)
def test_a_card_tells_an_empty_system_prompt_from_none(system: str | None, words: str) -> None:
    told = describe_prompt(make_recipe().model_copy(update={"student_chat": ChatFormat(system=system)}))
    assert words in told and "worked examples" not in told
