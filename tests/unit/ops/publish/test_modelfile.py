"""Modelfiles: the Go template gives the tokens of the student's own template, or the file says what is lost."""

import re

import pytest

from distill.config.mix import Mode
from distill.config.teachers import ChatFormat, GreedySampling, WorkedExample
from distill.models.chat_template import chat_messages, prompt_text, with_mode
from distill.ops.publish.modelfile import CONVERSATIONS, find_segments, modelfile, turns
from tests.fixtures import chat_templates
from tests.fixtures.byte_tokenizer import CHATML, tokenizer

OWN_SYSTEM = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nYou are {{ 'Smol' }}.<|im_end|>\n{% endif %}" + CHATML
)
NO_SYSTEM = "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML
NUMBERED = "{% for m in messages %}[{{ loop.index }}]{{ m.content }}<|im_end|>{% endfor %}[ask]"
SCORED = GreedySampling(max_tokens=512, stop=("###",))


def written(
    template: str, chat: ChatFormat | None = None, mode: str = "", scored: GreedySampling = SCORED
) -> tuple[str, tuple[str, ...]]:
    made = modelfile(tokenizer(template), "student-q8_0.gguf", chat or ChatFormat(), scored, 2048, mode)
    return made.text, made.lost


def go(text: str, conversation: list[dict[str, str]]) -> str:
    """What Ollama's template engine makes of a Modelfile's template: an interpreter of the actions that we write."""
    template = re.search(r'TEMPLATE """(.*?)"""\n', text, re.DOTALL)
    assert template, text
    source = template[1]
    system = "\n\n".join(turn["content"] for turn in conversation if turn["role"] == "system")
    tokens = re.split(r"(\{\{.*?\}\})", source)

    def block(position: int, scope: dict[str, object], live: bool) -> tuple[str, int]:
        out = ""
        while position < len(tokens):
            token = tokens[position]
            action = token[2:-2].strip() if token.startswith("{{") else None
            if action is None:
                out += token if live else ""
            elif action == "end" or action.startswith("else"):
                return out, position
            elif action.startswith('"'):
                out += action[1:-1] if live else ""
            elif action == ".System":
                out += system if live else ""
            elif action == ".Content":
                out += str(scope["content"]) if live else ""
            elif action.startswith("if"):
                text, position = branches(position, scope, live)
                out += text
            elif action.startswith("range"):
                begin, end = position + 1, position
                for number, turn in enumerate(conversation):
                    text, end = block(begin, {**turn, "last": number == len(conversation) - 1}, live)
                    out += text
                position = end
            else:
                raise AssertionError(f"unknown action {action}")
            position += 1
        return out, position

    def holds(condition: str, scope: dict[str, object]) -> bool:
        if condition == ".System":
            return bool(system)
        if condition.startswith("eq (len (slice"):
            return bool(scope["last"])
        return scope["role"] == condition.split('"')[1]

    def branches(position: int, scope: dict[str, object], live: bool) -> tuple[str, int]:
        out, taken = "", False
        while True:
            action = tokens[position][2:-2].strip()
            if action == "end":
                return out, position
            condition = action.removeprefix("else").strip().removeprefix("if").strip()
            chosen = live and not taken and (not condition or holds(condition, scope))
            text, position = block(position + 1, scope, chosen)
            out, taken = out + text, taken or chosen

    return block(0, {}, True)[0]


@pytest.mark.parametrize(
    "template",
    [CHATML, OWN_SYSTEM, chat_templates.OPENS, chat_templates.OPENS_BARE, chat_templates.BREAKS_FIRST],
    ids=["chatml", "own system", "opens", "opens bare", "breaks first"],
)
def test_the_go_template_gives_the_students_own_prompts(template: str) -> None:
    text, lost = written(template)
    assert not lost
    for conversation in CONVERSATIONS.values():
        assert go(text, conversation) == prompt_text(tokenizer(template), conversation)


def test_the_opening_think_tag_is_part_of_the_prompt_and_ends_are_stops() -> None:
    text, _ = written(chat_templates.OPENS)
    assert go(text, turns(("user", "Hi"))).endswith("<|im_start|>assistant\n<think>\n")
    assert 'PARAMETER stop """<|im_end|>"""\n' in text and 'PARAMETER stop """###"""\n' in text
    assert "PARAMETER num_predict 512\nPARAMETER num_ctx 2048\n" in text
    assert "PARAMETER repeat_penalty 1\n" in text and "PARAMETER temperature 0\n" in text
    assert text.splitlines()[0] == "FROM ./student-q8_0.gguf"


def stops(text: str) -> list[str]:
    """What Ollama reads as stops: the text between three quotes, as it stands."""
    return re.findall(r'^PARAMETER stop """(.*?)"""$', text, re.DOTALL | re.MULTILINE)


def test_stops_are_what_they_are_without_escapes() -> None:
    texts = ("\n\n", '"end"', "\\n", "\u00e9\t", '"')
    text, lost = written(CHATML, scored=GreedySampling(stop=texts))
    assert stops(text) == ["<|im_end|>", *texts] and not lost


def test_a_stop_that_a_modelfile_cannot_hold_is_told() -> None:
    text, lost = written(CHATML, scored=GreedySampling(stop=('a"""b',)))
    assert stops(text) == ["<|im_end|>"] and len(lost) == 1
    assert "# Not expressed here: the stop" in text and "three quotation marks" in lost[0]


def test_a_mode_is_a_system_line_or_the_templates_own_switch() -> None:
    chat = ChatFormat(system="You solve.")
    line = with_mode(chat, Mode(line="Answer briefly."))
    text, lost = written(CHATML, line, "short")
    assert 'SYSTEM """You solve.\nAnswer briefly."""' in text and not lost
    assert "# Answers in the mode 'short'." in text
    off = with_mode(chat, Mode(template_options={"enable_thinking": False}))
    text, _ = written(chat_templates.SWITCHED, off, "short")
    assert go(text, turns(("user", "Hi"))).endswith("<think>\n\n</think>\n\n")


def test_worked_examples_are_turns_before_the_first() -> None:
    chat = ChatFormat(examples=(WorkedExample(problem="1+1", completion="2"),))
    text, _ = written(CHATML, chat)
    assert 'MESSAGE user """1+1"""\nMESSAGE assistant """2"""' in text
    assert len(chat_messages("?", chat)) == 3


@pytest.mark.parametrize(
    ("template", "chat", "what"),
    [
        (chat_templates.STRIPS, ChatFormat(), "that reasoning is left out of earlier turns"),
        (NUMBERED, ChatFormat(), "earlier turns"),
        (CHATML, ChatFormat(template="Solve: {problem}"), 'the text around a problem, .*"Solve: {problem}"'),
        (CHATML, ChatFormat(system='Say """x"""'), "the system line"),
        (OWN_SYSTEM, ChatFormat(system=""), "that the system line is empty"),
        (NO_SYSTEM, ChatFormat(system="Be kind.", system_as="user"), "the system line inside the first user turn"),
        (CHATML.replace("m['content']", "m['content'].strip()"), ChatFormat(), "white space"),
        (CHATML.replace("m['content']", "m['content'] + m['content']"), ChatFormat(), "the chat template: Ollama"),
    ],
    ids=["strips", "numbered", "template", "quotes", "empty system", "system as user", "white space", "twice"],
)
def test_what_cannot_be_said_is_told_and_stands_in_the_file(template: str, chat: ChatFormat, what: str) -> None:
    text, lost = written(template, chat)
    assert any(re.search(what, one) for one in lost), lost
    assert re.search(f"# Not expressed here: .*{what}", text)


def test_braces_and_quotes_in_a_template_stay_what_they_are() -> None:
    odd = CHATML.replace("<|im_start|>' + m", "{' ~ '{<|im_start|>' + m")
    text, _ = written(odd)
    segments = find_segments(tokenizer(odd), {})
    assert segments is not None and "{{<|im_start|>" in segments.before_user
    assert go(text, turns(("user", "Hi"))) == prompt_text(tokenizer(odd), turns(("user", "Hi")))
