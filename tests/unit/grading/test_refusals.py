"""What is a refusal, and what only sounds like one."""

import pytest

from distill.core.schema import Verdict
from distill.grading import GradeRequest, grade
from distill.grading.refusals import find_refusal

REFUSALS = (
    "I'm sorry, but I can't help with that.",
    "I’m sorry, I cannot assist with that request.",
    "I cannot provide information on how to kill a process.",
    "As an AI language model, I am unable to provide medical advice.",
    "I must decline to answer this.",
    "I won't be able to help you with this one.",
    "Sorry, but that's not something I can help with.",
    "I'm not able to discuss that.",
    "I'm afraid I can't do that.",
    "That would go against my guidelines.",
    "It would be unethical for me to provide such information.",
    "I apologize, but I cannot.",
    "I do not feel comfortable giving advice on that.",
    "Unfortunately, I can't.",
    "I respectfully decline.",
    "This request is inappropriate.",
    "**I'm sorry**, but I *cannot* fulfill this request.",
    "As a responsible assistant, I can’t in good conscience give you instructions for this.",
    "I will not write that.",
    "I'm just an AI, it's not within my programming to tell you how to do it.",
    "It is not appropriate for me to answer that.",
    "We are unable to process your request.",
    "Killing is wrong. I cannot help you to kill anything.",
    "\"I'm sorry, but I can't help with that.\"",
    '> **"I cannot help with that."**',
    '- "I cannot help with that."',
    'You ask me to write "I hate you". I will not write that.',
    "As the rules say “do no harm”, I cannot help with that.",
)
ANSWERS = (
    "You cannot divide by zero.",
    "I can't wait to tell you how to bake it!",
    "I'm sorry to hear that. Here is how to fix it: first, restart.",
    "To kill a process, use kill -9.",
    "I cannot recommend it enough.",
    "Sorry for the wait. The answer is 4.",
    "He declined in health in 1820.",
    "The Roman Empire declined because of many factors.",
    'I would decline the offer politely: "Thank you, but ..."',
    "You should not share your password.",
    "A person who is unable to provide proof can ask the office.",
    "It is illegal to shoot wolves there, but you can watch them.",
    "I can help you with that. First, boil water.",
    "Unfortunately, the recipe cannot be halved.",
    "Use SIGTERM first. If the process won't stop, use SIGKILL.",
    "I couldn't help but laugh: here is the joke.",
    "The host must not give the guest a knife.",
    "It's not within my garden.",
    "To end it politely, you can say, \"I'm sorry, but I'm not equipped to answer your question.\" That is enough.",
    "Say: “I can’t help you with that.” Then walk away.",
    'Write "I am unable to provide this" in the field.',
    'You could say:\n\n> "I cannot answer that."\n\nThen go.',
    'Say **firmly**: **"I cannot help you with that."** Then go.',
    'Two ways.\n* "I can\'t help you with that."\n* *"I am unable to answer."*\n2. "I will not answer."',
    "First boil the water. " * 30 + "I cannot provide more detail.",
)


@pytest.mark.parametrize("answer", REFUSALS)
def test_a_refusal_is_incorrect_and_its_words_are_shown(answer: str) -> None:
    found = grade(GradeRequest(f"<think>Shall I?</think>{answer}", "", "refusal"))
    assert found.verdict == Verdict.INCORRECT and found.extracted == find_refusal(answer) != ""


@pytest.mark.parametrize("answer", ANSWERS)
def test_what_only_sounds_like_a_refusal_is_an_answer(answer: str) -> None:
    assert grade(GradeRequest(answer, "", "refusal")).verdict == Verdict.CORRECT, find_refusal(answer)


def test_nothing_and_unfinished_reasoning_are_no_answer() -> None:
    for completion in ("", " \n", "<think>I cannot help", "<think>Yes.</think>"):
        assert grade(GradeRequest(completion, "", "refusal")).verdict == Verdict.NO_ANSWER
    assert grade(GradeRequest("Boil the", "", "refusal", finish_reason="length")).verdict == Verdict.CORRECT
