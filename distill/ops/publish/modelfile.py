"""A Modelfile (Ollama) for a student: its chat template as a Go template, its end tokens, system line and examples.

Ollama does not read Jinja. What the student's template writes around the turns is found by rendering turns with marks,
and written down as a Go template. That template is then compared with the student's own on conversations; where the
two differ, the Modelfile says what is lost.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from distill.core.errors import InputError
from distill.models.chat_template import control_tokens, end_of_turn, example_turns, prompt_text, render_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from distill.config.teachers import ChatFormat, GreedySampling

SYSTEM, FIRST, ANSWER, SECOND = "systemmarkhere", "firstmarkhere", "answermarkhere", "secondmarkhere"
Turns = Sequence[Mapping[str, str]]
QUOTES = '"""'

NO_TEMPLATE = "the chat template: Ollama would have to guess it from the GGUF file"


def turns(*contents: tuple[str, str]) -> list[dict[str, str]]:
    """Turns from pairs of role and content."""
    return [{"role": role, "content": content} for role, content in contents]


@dataclass(frozen=True)
class Segments:
    """What a chat template writes around the turns of a conversation that ends with the user."""

    begin: str
    """At the very beginning where there is a system turn."""
    after_system: str
    begin_without_system: str
    """At the very beginning where there is none: often a system turn of the template's own."""
    before_user: str
    before_answer: str
    """Between a user's turn and an earlier answer."""
    after_answer: str
    ask: str
    """Behind the last user turn, up to where the model begins; an opening think tag is part of it."""

    def render(self, conversation: Turns) -> str:
        """The prompt, as Ollama renders the Go template."""
        system = "\n\n".join(turn["content"] for turn in conversation if turn["role"] == "system")
        text = self.begin + system + self.after_system if system else self.begin_without_system
        rest = [turn for turn in conversation if turn["role"] != "system"]
        for number, turn in enumerate(rest, 1):
            if turn["role"] == "user":
                text += self.before_user + turn["content"] + (self.ask if number == len(rest) else self.before_answer)
            else:
                text += turn["content"] + ("" if number == len(rest) else self.after_answer)
        return text

    @property
    def go_template(self) -> str:
        """The same as a Go template with Ollama's variables."""
        own, quoted = "{{ .Content }}", {name: go_literal(value) for name, value in vars(self).items()}
        last = "{{ if eq (len (slice $.Messages $i)) 1 }}"
        return (
            f"{{{{ if .System }}}}{quoted['begin']}{{{{ .System }}}}{quoted['after_system']}"
            f"{{{{ else }}}}{quoted['begin_without_system']}{{{{ end }}}}"
            "{{ range $i, $_ := .Messages }}"
            f'{{{{ if eq .Role "user" }}}}{quoted["before_user"]}{own}'
            f"{last}{quoted['ask']}{{{{ else }}}}{quoted['before_answer']}{{{{ end }}}}"
            f'{{{{ else if eq .Role "assistant" }}}}{own}{last}{{{{ else }}}}{quoted["after_answer"]}{{{{ end }}}}'
            "{{ end }}{{ end }}"
        )


def go_literal(text: str) -> str:
    """A text inside a Go template. Braces would begin an action, and three quotes would end the Modelfile's text."""
    return text.replace("{{", '{{ "{{" }}').replace(QUOTES, '{{ "\\"\\"\\"" }}')


def find_segments(tokenizer: PreTrainedTokenizerBase, options: Mapping[str, Any]) -> Segments | None:
    """What a chat template writes around turns; None where it cannot be taken apart into fixed texts.

    `options`: variables of the template.
    """

    def prompt(*contents: tuple[str, str]) -> str:
        return prompt_text(tokenizer, turns(*contents), options)

    user, system = ("user", FIRST), ("system", SYSTEM)
    try:
        alone = prompt(user).split(FIRST)
        several = prompt(user, ("assistant", ANSWER), ("user", SECOND))
    except InputError:
        return None
    try:
        told = _parts(prompt(system, user), (SYSTEM, FIRST))
    except InputError:  # a template that refuses a system turn
        told = ["", "", ""]
    parts = _parts(several, (FIRST, ANSWER, SECOND))
    if len(alone) != 2 or not parts or not told:
        return None
    before_user = _common_end(alone[0], parts[2], *([told[1]] if told[0] or told[1] else []))
    before_user = behind_end(before_user, end_text(tokenizer))
    begin, after_system = told[0], told[1].removesuffix(before_user)
    return without_bos(
        Segments(
            begin=begin,
            after_system=after_system,
            begin_without_system=alone[0].removesuffix(before_user),
            before_user=before_user,
            before_answer=parts[1],
            after_answer=parts[2].removesuffix(before_user),
            ask=alone[1],
        ),
        tokenizer,
    )


def _parts(text: str, marks: Sequence[str]) -> list[str]:
    """The texts around marks that occur in this order; none where one is missing or there twice."""
    found = []
    for mark in marks:
        before, hit, text = text.partition(mark)
        if not hit:
            return []
        found.append(before)
    return [] if any(mark in text for mark in marks) else [*found, text]


def _common_end(*texts: str) -> str:
    columns = zip(*map(reversed, texts), strict=False)
    return "".join(letters[0] for letters in takewhile(lambda one: len(set(one)) == 1, columns))[::-1]


def behind_end(text: str, end: str) -> str:
    """The text from behind the last end of a turn on: what closes one turn is no part of what opens the next."""
    _, found, rest = text.rpartition(end)
    return rest.lstrip("\n") if found else text


def without_bos(segments: Segments, tokenizer: PreTrainedTokenizerBase) -> Segments:
    """Without the beginning of the sequence that llama.cpp adds by itself, as the tokenizer does."""
    bos = tokenizer.bos_token
    ids = tokenizer("x")["input_ids"]
    if not bos or not ids or ids[0] != tokenizer.bos_token_id:
        return segments
    return Segments(
        **vars(segments)
        | {name: getattr(segments, name).removeprefix(bos) for name in ("begin", "begin_without_system")}
    )


def end_text(tokenizer: PreTrainedTokenizerBase) -> str:
    """The token that ends a turn, as text."""
    return str(tokenizer.convert_ids_to_tokens(end_of_turn(tokenizer)[-1]))


# What is lost


def losses(
    tokenizer: PreTrainedTokenizerBase, segments: Segments | None, options: Mapping[str, Any], chat: ChatFormat
) -> list[str]:
    """What of the student's prompts Ollama does not do, in words; nothing where it does all of it."""
    found = [] if segments else [NO_TEMPLATE]
    if segments:
        found += [what for what, asked in CONVERSATIONS.items() if not _is_same(tokenizer, segments, asked, options)]
        untold = turns(("system", ""), ("user", "2+2?"))
        if chat.system == "" and not _is_same(tokenizer, segments, untold, options):
            found.append("that the system line is empty: the chat template's own one is written")
    if chat.template != "{problem}":
        found.append(f"the text around a problem, which whoever asks has to write: {json.dumps(chat.template)}")
    if chat.system is not None and chat.system_as == "user":
        found.append("the system line inside the first user turn: it is written as a system turn, if at all")
    if QUOTES in (chat.system or ""):
        found.append("the system line, which holds three quotation marks")
    if _is_quoted(example_turns(chat)):
        found.append("the worked examples, which hold three quotation marks")
    return found


CONVERSATIONS = {
    "the prompt of a single question": turns(("user", "2+2?")),
    "the prompt with a system line": turns(("system", "Be brief."), ("user", "2+2?")),
    "earlier turns": turns(
        ("user", "2+2?"), ("assistant", "4"), ("user", "And 3+3?"), ("assistant", "6"), ("user", "And 4+4?")
    ),
    "that reasoning is left out of earlier turns": turns(
        ("user", "2+2?"), ("assistant", "<think>\n2+2 is 4.\n</think>\n\n4"), ("user", "And 3+3?")
    ),
    "that white space around a turn is left out": turns(("user", " 2+2?\n")),
}
"""What would be lost -> a conversation that shows it."""


def _is_same(
    tokenizer: PreTrainedTokenizerBase, segments: Segments, conversation: Turns, options: Mapping[str, Any]
) -> bool:
    """Whether both templates give the same tokens; also where the student's own refuses the conversation."""
    try:
        expected = render_prompt(tokenizer, conversation, options)
    except InputError:
        return True
    return list(tokenizer(segments.render(conversation))["input_ids"]) == expected


# The file


@dataclass(frozen=True)
class Modelfile:
    """The text of a Modelfile."""

    text: str
    lost: tuple[str, ...]
    """What of the student's prompts it cannot say."""


def modelfile(
    tokenizer: PreTrainedTokenizerBase,
    gguf: str,
    chat: ChatFormat,
    sampling: GreedySampling,
    context_tokens: int,
    mode: str = "",
) -> Modelfile:
    """The Modelfile that runs a GGUF file as the student was trained and scored.

    Args:
        tokenizer: of the student, with its chat template.
        gguf: name of the file.
        chat: how it is asked, in the mode that it is asked for.
        sampling: what it was scored with.
        context_tokens: longest prompt plus completion that it was scored with; Ollama's own is shorter.
        mode: name of the mode; empty where it has none.
    """
    segments = find_segments(tokenizer, chat.template_options)
    shown = example_turns(chat)
    stops = (*stop_texts(tokenizer), *sampling.stop)
    lost = (*losses(tokenizer, segments, chat.template_options, chat), *lost_stops(stops))
    lines = [
        *([f"# Answers in the mode {mode!r}."] if mode else []),
        *(f"# Not expressed here: {what}." for what in lost),
        f"FROM ./{gguf}",
        *([f"TEMPLATE {QUOTES}{segments.go_template}{QUOTES}"] if segments else []),
        *([f"SYSTEM {QUOTES}{chat.system}{QUOTES}"] if chat.system and QUOTES not in chat.system else []),
        *(f"MESSAGE {turn['role']} {QUOTES}{turn['content']}{QUOTES}" for turn in shown if not _is_quoted(shown)),
        *(f"PARAMETER stop {QUOTES}{text}{QUOTES}" for text in stops if QUOTES not in text),
        f"PARAMETER temperature {sampling.temperature:g}",
        f"PARAMETER top_p {sampling.top_p:g}",
        "PARAMETER top_k 0",
        "PARAMETER min_p 0",
        "PARAMETER repeat_penalty 1",
        f"PARAMETER num_predict {sampling.max_tokens}",
        f"PARAMETER num_ctx {context_tokens}",
    ]
    return Modelfile("\n".join(lines) + "\n", lost)


def lost_stops(stops: Sequence[str]) -> list[str]:
    """The texts that end an answer and that a Modelfile cannot hold: it knows quotes but no escapes."""
    return [f"the stop {json.dumps(text)}, which holds three quotation marks" for text in stops if QUOTES in text]


def _is_quoted(shown: Turns) -> bool:
    """Whether a turn holds what ends a text in a Modelfile."""
    return any(QUOTES in turn["content"] for turn in shown)


def stop_texts(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The end of a turn, then the tokenizer's end of sequence, as far as they are control tokens."""
    known = control_tokens(tokenizer).values()
    ends = [end_text(tokenizer), *([str(tokenizer.eos_token)] if tokenizer.eos_token else [])]
    return [end for end in dict.fromkeys(ends) if end in known]
