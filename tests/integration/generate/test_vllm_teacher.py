"""What an engine of this cluster is asked, and what becomes of its text. Real tokenizers, no engine."""

from pathlib import Path

import pytest

from distill.config.teachers import ChatFormat, VllmTeacher
from distill.core.schema import Style
from distill.generate.vllm_teacher import end_params, prompt_of, trace_text
from distill.models.chat_template import Rendered, render_example
from distill.models.resolve import load_tokenizer
from distill.run.pools import Pool
from tests.fixtures.byte_tokenizer import tokenizer
from tests.fixtures.chat_templates import OPENS, PLAIN, SWITCHED, TAGS_ARE_TOKENS

WRITTEN = "Okay, 4.\n</think>\n\nIt is 4."
"""What an engine writes behind a prompt that ends in `<think>` and a line break."""


def pool(folder: Path, template: str, special: tuple[str, ...] = (), **options: bool) -> Pool:
    made = tokenizer(template)
    made.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>", *special]})
    made.save_pretrained(folder)
    chat = ChatFormat(template_options=options)
    return Pool(VllmTeacher(name="t", style=Style.LONG, model="m", chat=chat), str(folder), "f")


def test_a_trace_of_a_model_whose_prompt_opens_the_reasoning_teaches_any_student(tmp_path: Path) -> None:
    asked = pool(tmp_path / "teacher", OPENS)
    prompt = prompt_of(asked, "2 + 2?")
    trace = trace_text(asked, prompt, WRITTEN)
    assert prompt.text.endswith("<think>\n") and trace == f"<think>\n{WRITTEN}"
    for template, taught in {PLAIN: f"<think>\n{WRITTEN}<|im_end|>", OPENS: f"{WRITTEN}<|im_end|>"}.items():
        student = tokenizer(template)
        turns = [{"role": "user", "content": "2 + 2?"}, {"role": "assistant", "content": trace}]
        row = render_example(student, turns, 500)
        assert isinstance(row, Rendered)
        assert student.decode([label for label in row.labels if label >= 0]) == taught


@pytest.mark.parametrize(("enable_thinking", "expected"), [(True, f"<think>\n{WRITTEN}"), (False, "It is 4.")])
def test_one_hybrid_model_is_the_long_and_the_short_teacher(
    tmp_path: Path, enable_thinking: bool, expected: str
) -> None:
    asked = pool(tmp_path / "hybrid", SWITCHED, enable_thinking=enable_thinking)
    prompt = prompt_of(asked, "2 + 2?")
    assert trace_text(asked, prompt, WRITTEN if enable_thinking else "It is 4.") == expected


def test_think_tags_that_are_special_tokens_stay_in_the_text_and_ends_do_not(tmp_path: Path) -> None:
    asked = pool(tmp_path / "special", TAGS_ARE_TOKENS, special=("[THINK]", "[/THINK]"))
    end = load_tokenizer(str(tmp_path / "special")).convert_tokens_to_ids("<|im_end|>")
    assert end_params(asked) == {"stop_token_ids": [end], "skip_special_tokens": False}
    text = trace_text(asked, prompt_of(asked, "2 + 2?"), "Okay.[/THINK]It is 4.<|im_end|>")
    assert text == "[THINK]Okay.[/THINK]It is 4."
    assert end_params(pool(tmp_path / "plain", PLAIN))["skip_special_tokens"] is True
