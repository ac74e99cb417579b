"""Features of traces: what rendering says of each alone, and shares that are known."""

import sys
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from distill.config.teachers import ChatFormat
from distill.core.run_dir import RunDir
from distill.core.schema import Prompt, content_hash
from distill.mix.prompt_facts import read_prompt_facts
from distill.mix.scripts import foreign_share, scripts_of
from distill.mix.seeded_order import keys_of
from distill.mix.trace_features import TEXTS_AT_ONCE, repeated_share, repeated_shares, trace_features
from distill.models.chat_template import chat_messages, render_example
from distill.models.token_counts import TokenCounter
from tests.fixtures.byte_tokenizer import CHATML, tokenizer

OPENED = CHATML.replace("assistant\n' }}", "assistant\n<think>\n' }}")
CLOSED = CHATML.replace("assistant\n' }}", "assistant\n<think>\n\n</think>\n\n' }}")
CHAT = ChatFormat(system="Be brief.", template="Q: {problem}")
COMPLETIONS = [
    " 3 + 4 = 7. ",
    "<think>\nThree and four.\n</think>\n\n7",
    "Three and four.\n</think>\n\n7",
    "<think></think>7",
    "",
    "  ",
    "7<|im_end|> \n",
    "it is <|im_end|> 7",
    "it is <start_of_turn> 7",
    "7</s>",
]


@pytest.mark.parametrize("templates", [(CHATML,), (OPENED,), (CLOSED,), (CHATML, OPENED), (CLOSED, CHATML)])
def test_lengths_and_refusals_are_those_of_taught_rows(run_dir: RunDir, templates: tuple[str, ...]) -> None:
    problems = [f"What is {number}?" for number in range(len(COMPLETIONS))]
    ids = [content_hash(problem) for problem in problems]
    prompts = [Prompt(*pair, "7", "number", "s", "", "", "") for pair in zip(ids, problems, strict=True)]
    run_dir.write_rows(prompts, Prompt, "prompts", "prompts.parquet")
    counters = [TokenCounter(tokenizer(template)) for template in templates]
    facts = read_prompt_facts(run_dir, np.sort(keys_of(pa.array(ids), "prompt id")), CHAT, counters)
    traces = pa.RecordBatch.from_pydict({"trace_id": ids, "prompt_id": ids, "completion": COMPLETIONS})
    for row, problem, completion in zip(
        trace_features(traces, facts, counters).to_pylist(), problems, COMPLETIONS, strict=True
    ):
        turns = [*chat_messages(problem, CHAT), {"role": "assistant", "content": completion.strip()}]
        rendered = [render_example(counter.tokenizer, turns, sys.maxsize) for counter in counters]
        assert lengths(row) == expected(rendered), completion


def lengths(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("refusal", "tokens", "most_tokens", "row_tokens"))


def expected(rendered: list[Any]) -> tuple[Any, ...]:
    for one in rendered:
        if isinstance(one, str):
            return one, 0, 0, 0
    learnt = [sum(label >= 0 for label in one.labels) for one in rendered]
    return "", learnt[0], max(learnt), max(len(one.input_ids) for one in rendered)


def test_the_share_of_repeated_runs_is_counted_text_by_text() -> None:
    rng = np.random.default_rng(0)
    texts = [list(map(str, rng.integers(0, 3, size=size))) for size in rng.integers(0, 40, size=TEXTS_AT_ONCE + 50)]
    for share, words in zip(repeated_shares(pa.array(texts, pa.list_(pa.string()))), texts, strict=True):
        runs = [tuple(words[start : start + 8]) for start in range(len(words) - 7)]
        assert share == (1 - len(set(runs)) / len(runs) if runs else 0)


def test_runs_that_differ_in_their_last_word_alone_are_two() -> None:
    words = [word for number in range(500) for word in (*"abcdefg", str(number))]
    assert repeated_share(words) == 1 - len({tuple(words[at : at + 8]) for at in range(3993)}) / 3993


@pytest.mark.parametrize(
    ("text", "problem", "share"),
    [
        ("plain words", "", 0.0),
        ("x² ≥ α, naïve", "", 0.0),
        ("数学 is it", "", 2 / 6),
        ("数学 is it", "数学?", 0.0),
        ("Да or 数", "Да?", 1 / 5),
        ("→ 😀", "", 0.0),
    ],
)
def test_letters_of_a_script_that_the_problem_does_not_use_are_foreign(text: str, problem: str, share: float) -> None:
    assert foreign_share(text, scripts_of(problem)) == share
