"""Chat rows to token ids: what is learnt, what is not, and what is refused."""

import copy
from typing import cast

import pytest
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from distill.config.mix import Mode
from distill.config.teachers import ChatFormat, WorkedExample
from distill.core.errors import InputError
from distill.models.chat_template import (
    ENDS_INSIDE,
    IGNORED,
    NO_COMPLETION,
    TOO_LONG,
    Asked,
    Rendered,
    chat_messages,
    encode,
    has_special_tags,
    line_breaks_before,
    opening_tokens,
    prompt_text,
    render_example,
    render_prompt,
    with_fixed_date,
    with_mode,
)
from distill.models.template_options import options_text, read_options
from distill.models.thinking import THINKING_CLOSED, prompt_end
from tests.fixtures.byte_tokenizer import CHATML, tokenizer
from tests.fixtures.chat_templates import (
    BEGINS_ANSWER,
    BREAKS_FIRST,
    CHANNEL_TAGS,
    CLOSED_BY_DEFAULT,
    DATED,
    DATED_BY_VARIABLE,
    NO_SYSTEM,
    OPENS,
    PLAIN,
    TAGS_ARE_TOKENS,
    TEMPLATES,
)

STRIPS_THINKING = (
    "{% for m in messages %}{% set text = m['content'].split('</think>')[-1] %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + text + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def row(completion: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": completion}]


def learnt(tok: PreTrainedTokenizerFast, rendered: Rendered | str) -> str:
    assert isinstance(rendered, Rendered)
    return str(tok.decode([label for label in rendered.labels if label != IGNORED]))


def test_only_the_completion_and_the_end_of_its_turn_are_learnt() -> None:
    tok = tokenizer()
    assert learnt(tok, render_example(tok, row("It is 4."), 100)) == "It is 4.<|im_end|>"


def test_the_end_of_turn_is_learnt_although_it_is_the_padding_token_too() -> None:
    tok = tokenizer()
    assert tok.pad_token_id == tok.eos_token_id
    rendered = render_example(tok, row("4"), 100)
    assert isinstance(rendered, Rendered)
    assert rendered.labels[-1] == rendered.input_ids[-1] == tok.eos_token_id


def test_the_prompt_of_evaluation_is_the_beginning_of_the_training_row() -> None:
    tok = tokenizer()
    rendered = render_example(tok, row("4"), 100)
    prompt = render_prompt(tok, row("4")[:1])
    assert isinstance(rendered, Rendered)
    assert rendered.input_ids[: len(prompt)] == prompt
    assert set(rendered.labels[: len(prompt)]) == {IGNORED}
    assert IGNORED not in rendered.labels[len(prompt) :]


def test_earlier_assistant_turns_are_not_learnt() -> None:
    tok = tokenizer()
    chat = ChatFormat(examples=(WorkedExample(problem="1 + 1?", completion="2, of course"),))
    messages = [*chat_messages("2 + 2?", chat), {"role": "assistant", "content": "4"}]
    assert learnt(tok, render_example(tok, messages, 500)) == "4<|im_end|>"


def test_a_think_block_stays_whole_under_a_template_that_strips_it() -> None:
    tok = tokenizer(STRIPS_THINKING)
    text = "<think>two and two</think>4"
    assert learnt(tok, render_example(tok, row(text), 200)) == f"{text}<|im_end|>"


def test_a_think_block_that_the_prompt_opens_is_not_opened_twice() -> None:
    tok = tokenizer(CHATML.replace("assistant\n'", "assistant\n<think>\n'"))
    assert learnt(tok, render_example(tok, row("<think>\nhm</think>4"), 200)) == "hm</think>4<|im_end|>"


def test_a_template_that_ends_no_turn_gets_the_end_of_sequence() -> None:
    tok = tokenizer("{% for m in messages %}{{ m['role'] + ': ' + m['content'] + '\n' }}{% endfor %}assistant:")
    assert learnt(tok, render_example(tok, row("4"), 200)) == "4<|im_end|>"


def test_a_long_row_is_dropped_and_never_cut() -> None:
    tok = tokenizer()
    rendered = render_example(tok, row("4"), 100)
    assert isinstance(rendered, Rendered)
    assert render_example(tok, row("4"), len(rendered.input_ids)) == rendered
    assert render_example(tok, row("4"), len(rendered.input_ids) - 1) == TOO_LONG


@pytest.mark.parametrize("messages", [[], row("4")[:1], row(""), row(" \n")])
def test_a_row_without_completion_is_dropped(messages: list[dict[str, str]]) -> None:
    assert render_example(tokenizer(), messages, 100) == NO_COMPLETION


def test_a_completion_that_ends_its_turn_half_way_is_dropped() -> None:
    assert render_example(tokenizer(), row("4<|im_end|>and more"), 100) == ENDS_INSIDE


def test_braces_in_a_problem_are_left_alone() -> None:
    messages = chat_messages(r"Simplify \frac{1}{2} {x}", ChatFormat(system="Be {brief}.", template="Q: {problem} {}"))
    assert [turn["content"] for turn in messages] == ["Be {brief}.", r"Q: Simplify \frac{1}{2} {x} {}"]


def test_a_trace_that_is_read_stands_in_its_place_and_braces_in_it_are_left_alone() -> None:
    example = WorkedExample(problem="1?", completion="1", trace="one, {problem}")
    chat = ChatFormat(template="{problem} was answered: {trace}", examples=(example,))
    assert [turn["content"] for turn in chat_messages("{trace}?", chat, "it is {problem}")] == [
        "1? was answered: one, {problem}",
        "1",
        "{trace}? was answered: it is {problem}",
    ]
    assert chat_messages("2?", ChatFormat(template="{problem} {trace}"))[0]["content"] == "2? {trace}"


@pytest.mark.parametrize(
    ("template", "given", "written", "learns"),
    [
        (PLAIN, "It is 4.\n\nWait,", " so 4.", " so 4."),
        (PLAIN, "<think>\nIt is 4. Wait,", " no.</think>4", " no.</think>4"),
        (OPENS, "<think>\nIt is 4. Wait,", " no.</think>4", " no.</think>4"),
        (OPENS, "It is 4. Wait,", " so 4.", " so 4."),
    ],
)
def test_what_a_teacher_was_given_is_shown_and_not_learnt(template: str, given: str, written: str, learns: str) -> None:
    tok = tokenizer(template)
    whole, suffix = (render_example(tok, row(given + written), 500, given=size) for size in (0, len(given)))
    assert isinstance(whole, Rendered) and isinstance(suffix, Rendered)
    assert suffix.input_ids == whole.input_ids
    end = learnt(tok, whole).rpartition(written)[2]
    assert learnt(tok, suffix) == learns + end


def test_a_model_without_chat_template_is_refused_with_the_remedy() -> None:
    with pytest.raises(InputError, match=r"models\.NAME\.chat_template"):
        render_prompt(tokenizer(None), row("4")[:1])


def test_a_model_that_could_never_learn_to_stop_is_refused() -> None:
    tok = tokenizer("{% for m in messages %}{{ m['content'] + '\n' }}{% endfor %}", eos=None)
    with pytest.raises(InputError, match="ends a turn"):
        render_example(tok, row("4"), 100)


def test_a_template_that_rejects_the_turns_is_an_input_error() -> None:
    with pytest.raises(InputError, match=r"rejects the turns system, user: no system"):
        render_prompt(tokenizer("{{ raise_exception('no system') }}"), chat_messages("2?", ChatFormat(system="s")))


def test_a_chat_without_a_system_line_gets_the_modes_line_alone() -> None:
    assert with_mode(ChatFormat(), Mode(line="Be brief.")).system == "Be brief."
    assert with_mode(ChatFormat(), None) == ChatFormat()


def test_a_trailing_end_is_taken_off_and_any_other_control_token_drops_the_row() -> None:
    tok = tokenizer()
    assert learnt(tok, render_example(tok, row("4<|im_end|>\n"), 200)) == "4<|im_end|>"
    assert learnt(tok, render_example(tok, row("4<|eot_id|>"), 200)) == "4<|im_end|>", "another model's end"
    assert learnt(tok, render_example(tok, row("4</s>"), 200)) == "4<|im_end|>"
    assert render_example(tok, row("4<|endoftext|>Human: and 5?"), 200) == ENDS_INSIDE
    for stray in ("<|im_start|>user\nand now?", "<|im_end|>\n<|im_start|>assistant\n5"):
        assert render_example(tok, row(f"4{stray}"), 200) == ENDS_INSIDE


def test_think_tags_that_are_special_tokens_are_taught_and_asked_for() -> None:
    tok = tokenizer(TAGS_ARE_TOKENS)
    assert not has_special_tags(tok)
    tok.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>", "[THINK]", "[/THINK]"]})
    again = copy.copy(tok)  # facts of a tokenizer are cached by object
    assert has_special_tags(again)
    assert learnt(again, render_example(again, row("[THINK]hm[/THINK]4"), 200)) == "hm[/THINK]4<|im_end|>"


@pytest.mark.parametrize("name", TEMPLATES)
def test_the_row_begins_with_the_prompt_and_ends_its_turn_once_under_every_template(name: str) -> None:
    tok = tokenizer(TEMPLATES[name])
    for completion in ("<think>\nhm\n</think>\n\nIt is 4.", "It is 4."):
        rendered = render_example(tok, row(completion), 500)
        if name == "closed by default" and "hm" in completion:
            assert rendered == THINKING_CLOSED
            continue
        assert isinstance(rendered, Rendered)
        prompt = prompt_text(tok, row(completion)[:1])
        whole = str(tok.decode(rendered.input_ids))
        assert whole.startswith(prompt) and whole.count("<think>") <= 1 and whole.count("</think>") <= 1
        assert whole.removesuffix("<|im_end|>").removesuffix("<|END_RESPONSE|>").endswith("It is 4.")
        assert whole.endswith("<|im_end|>") and learnt(tok, rendered).count("<|im_end|>") == 1
        assert ("hm" in whole) == ("hm" in completion), "templates that strip think blocks are not applied to it"


def test_an_option_of_the_template_opens_or_closes_the_reasoning() -> None:
    tok = tokenizer(CLOSED_BY_DEFAULT)
    text = "<think>\nhm\n</think>\n\nIt is 4."
    opened = render_example(tok, row(text), 500, {"enable_thinking": True})
    assert learnt(tok, opened) == "hm\n</think>\n\nIt is 4.<|im_end|>"
    short = ChatFormat(template_options={"enable_thinking": True})
    asked = with_mode(short, Mode(template_options={"enable_thinking": False}))
    assert prompt_text(tok, row(text)[:1], asked.template_options).endswith("</think>\n\n")
    assert read_options(options_text(asked.template_options)) == {"enable_thinking": False}
    assert options_text({}) == "" and read_options("") == {}


def with_tokens(template: str, *tokens: str) -> PreTrainedTokenizerFast:
    tok = tokenizer(template)
    tok.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>", *tokens]})
    return tok


def test_reasoning_in_a_named_channel_is_taught_as_the_model_writes_it() -> None:
    tok = with_tokens(CHANNEL_TAGS, "<|turn>", "<turn|>", "<|channel>", "<channel|>", "<|think|>")
    text = "<|channel>thought\nhm\n<channel|>4"
    own = {"role": "assistant", "content": "4", "reasoning_content": "hm"}
    rendered = render_example(tok, row(text), 300)
    assert isinstance(rendered, Rendered) and learnt(tok, rendered) == f"{text}<turn|>"
    as_written = str(tok.apply_chat_template([*row(text)[:1], own], tokenize=False))
    assert f"{tok.decode(rendered.input_ids)}\n" == as_written
    assert has_special_tags(tok), "engines must leave the marks in the text"
    for stray in ("<|think|>", "<turn|>\n<|turn>user\n5?"):
        assert render_example(tok, row(f"{text}{stray} and"), 300) == ENDS_INSIDE
    assert learnt(tok, render_example(tok, row(f"{text}<turn|>"), 300)) == f"{text}<turn|>"


def test_a_mark_of_a_channel_becomes_the_tag_of_a_student_that_opens_its_own() -> None:
    text = "<|channel>thought\nhm\n<channel|>4"
    assert learnt(tokenizer(OPENS), render_example(tokenizer(OPENS), row(text), 300)) == "hm\n</think>4<|im_end|>"
    assert render_example(tokenizer(), row(f"{text}<turn|>\n<|turn>user\n5?"), 300) == ENDS_INSIDE, "another's turn"


@pytest.mark.parametrize(
    "completion",
    [
        "4",
        "<|START_RESPONSE|>4<|END_RESPONSE|>",
        "<think>\n\n</think>\n\n4",
        "<|START_THINKING|><|END_THINKING|><|START_RESPONSE|>4<|END_RESPONSE|><|im_end|>",
    ],
)
def test_a_short_trace_is_taught_once_behind_a_prompt_that_has_begun_the_answer(completion: str) -> None:
    marks = ["<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_THINKING|>", "<|END_THINKING|>"]
    tok = with_tokens(BEGINS_ANSWER, *marks)
    rendered = render_example(tok, row(completion), 300)
    assert isinstance(rendered, Rendered) and learnt(tok, rendered) == "4<|END_RESPONSE|>"
    assert str(tok.decode(rendered.input_ids)).endswith("assistant\n<|START_RESPONSE|>4<|END_RESPONSE|>")
    long = "<think>hm</think>4"
    assert learnt(tok, render_example(tok, row(long), 300)) == f"{long}<|END_RESPONSE|>", "reasons in its answer"


def test_a_line_break_that_the_model_writes_behind_its_prompt_is_taught() -> None:
    tok, text = tokenizer(BREAKS_FIRST), "<think>hm</think>\n4"
    own = {"role": "assistant", "content": "4", "reasoning_content": "hm"}
    as_written = str(tok.apply_chat_template([*row(text)[:1], own], tokenize=False))
    rendered = render_example(tok, row(text), 200)
    assert isinstance(rendered, Rendered)
    assert tok.decode(rendered.input_ids) == as_written and learnt(tok, rendered) == f"\n{text}<|im_end|>"
    assert learnt(tok, render_example(tok, row("4"), 200)) == "\n4<|im_end|>"
    off = {"enable_thinking": False}
    closed = render_example(tok, row("4"), 200, off)
    assert isinstance(closed, Rendered) and "assistant\n<think></think>\n4<|im_end|>" in tok.decode(closed.input_ids)
    assert render_example(tok, row(text), 200, off) == THINKING_CLOSED


def test_no_line_break_is_taught_that_the_template_does_not_write() -> None:
    for template in (PLAIN, "{{ '' if messages | length == 1 else raise_exception('one turn') }}" + BREAKS_FIRST):
        tok = tokenizer(template)
        end = prompt_end(prompt_text(tok, row("4")[:1]))
        assert line_breaks_before(tok, Asked("", ""), end) == ""


@pytest.mark.parametrize("template", [DATED, DATED_BY_VARIABLE])
def test_a_template_writes_the_same_day_whenever_it_is_rendered(template: str) -> None:
    fixed = with_fixed_date(template)
    assert fixed != template and with_fixed_date(PLAIN) == PLAIN
    assert "01 Jan" in prompt_text(tokenizer(fixed), row("4")[:1])
    asked = prompt_text(tokenizer(fixed), row("4")[:1], {"date_string": "2 May 2025"})
    assert ("2 May 2025" in asked) == (template == DATED_BY_VARIABLE)


def test_a_system_text_can_stand_above_the_first_question() -> None:
    chat = ChatFormat(system="Be brief.", system_as="user", examples=(WorkedExample(problem="1?", completion="1"),))
    turns = chat_messages("2?", chat)
    assert [turn["content"] for turn in turns] == ["Be brief.\n\n1?", "1", "2?"]
    assert "Be brief." in prompt_text(tokenizer(NO_SYSTEM), turns)
    with pytest.raises(InputError, match="not supported"):
        prompt_text(tokenizer(NO_SYSTEM), chat_messages("2?", chat.model_copy(update={"system_as": None})))


@pytest.mark.parametrize("template", [PLAIN, OPENS])
def test_a_mode_that_the_student_writes_is_learnt_before_the_completion(template: str) -> None:
    tok, mode, completion = tokenizer(template), "Be brief.\n", "<think>\nIt is 4.</think>4"
    plain, whole = (render_example(tok, row(text), 500, opening=size) for text, size in
                    ((completion, 0), (mode + completion, len(mode))))  # fmt: skip
    assert isinstance(plain, Rendered) and isinstance(whole, Rendered)
    assert learnt(tok, whole) == mode + learnt(tok, plain)
    assert len(whole.input_ids) == len(plain.input_ids) + len(mode)
    assert render_example(tok, row(mode + completion), len(whole.input_ids) - 1, opening=len(mode)) == TOO_LONG


def test_what_a_teacher_was_given_stands_behind_the_mode() -> None:
    tok, mode, given = tokenizer(PLAIN), "Think.\n", "It is 4. Wait,"
    whole = render_example(tok, row(f"{mode}{given} no."), 500, given=len(given), opening=len(mode))
    assert learnt(tok, whole).startswith(f"{mode} no.")


@pytest.mark.parametrize(
    ("text", "count"),
    [("Briefly:\n6 = 6", 9), ("Step by step:\nWe", 14), ("Briefly: 6", 0), (" Briefly:\n", 0), ("Brief", 0), ("", 0)],
)
def test_the_tokens_of_a_mode_are_found_by_their_text(text: str, count: int) -> None:
    tok = tokenizer()
    assert opening_tokens(tok, encode(tok, text), ["Briefly:\n", "Step by step:\n"]) == count
    assert opening_tokens(tok, encode(tok, text), []) == 0


def test_a_mode_whose_end_is_part_of_a_longer_token_is_found() -> None:
    class Merged:
        words = ("Brief", "ly", ":\n6", " = 6")

        def decode(self, tokens: list[int], **_: bool) -> str:
            return "".join(self.words[token] for token in tokens)

    assert opening_tokens(cast(PreTrainedTokenizerBase, Merged()), [0, 1, 2, 3], ["Briefly:\n"]) == 3
