"""A mix with modes: every row has the line of its style, and must fit with the longest."""

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from distill.config.mix import Mode
from distill.config.teachers import ChatFormat
from distill.core.schema import Example, Trace
from distill.mix.examples import message_column
from distill.mix.filters import USABLE
from distill.mix.source import MixSource
from distill.mix.stage import filtered_index, mix_stage, mode_tokens
from distill.models.chat_template import render_example, with_mode
from distill.models.template_options import read_options
from distill.run.context import RunContext
from tests.fixtures.byte_tokenizer import CHATML, tokenizer
from tests.fixtures.mix_run import MODES, make_run, trace, with_modes


def test_every_row_of_a_mix_with_modes_asks_for_its_style_under_the_students_own_line(tmp_path: Path) -> None:
    traces = [trace(number, pool) for number in range(20) for pool in ("long", "short")]
    run = make_run(tmp_path, traces, num_prompts=20, change=with_modes)
    details = mix_stage(run).details["mixes"]["mix-long"]
    rows = run.run_dir.read_table("mix", "mix-long.parquet", row_type=Example).to_pylist()
    assert {(row["style"], row["messages"][0]["content"]) for row in rows} == {
        (style, f"Be brief.\n{line}") for style, line in MODES.items()
    }
    assert {mode: entry["rows"] for mode, entry in details["modes"].items()} == {"long": 4, "short": 16}
    assert sum(entry["tokens"] for entry in details["modes"].values()) == details["tokens"]
    plain = run.run_dir.read_table("mix", "short.parquet", row_type=Example).to_pylist()
    assert {row["messages"][0]["content"] for row in plain} == {"Be brief."}


def test_a_row_must_fit_with_the_longest_line(tmp_path: Path) -> None:
    line = "word " * 80
    short = make_run(tmp_path / "a", [trace(1, "long"), trace(1, "short")], num_prompts=2)
    long = make_run(
        tmp_path / "b",
        [trace(1, "long"), trace(1, "short")],
        num_prompts=2,
        change=lambda raw: with_modes(raw, long=line, short="Be brief."),
    )
    assert mode_tokens(short.recipe, [tokenizer()]) == 0
    assert mode_tokens(long.recipe, [tokenizer()]) == len(line) + 1, "a token per byte, and the line break"
    assert (reasons_of(short) == USABLE).all()
    assert not (reasons_of(long) == USABLE).any()


def reasons_of(run: RunContext) -> Any:
    source = MixSource(run.recipe, run.run_dir, tuple(pool.folder for pool in run.pools), run.models)
    return filtered_index(source, run.console).reasons


def test_modes_with_and_without_a_line_keep_each_row_to_itself() -> None:
    modes = [Mode(line="Think."), Mode(template_options={"enable_thinking": False}), None]
    chats = [with_mode(ChatFormat(), mode) for mode in modes]
    codes = np.array([0, 1, 2, 0])
    column = message_column(["a?", "b?", "c?", "d?"], pa.array(["1 ", "2", "3", "4"]), chats, codes)
    turns = [[(turn["role"], turn["content"]) for turn in row] for row in column.to_pylist()]
    think = ("system", "Think.")
    assert turns == [
        [think, ("user", "a?"), ("assistant", "1")],
        [("user", "b?"), ("assistant", "2")],
        [("user", "c?"), ("assistant", "3")],
        [think, ("user", "d?"), ("assistant", "4")],
    ]


def test_a_mode_in_the_completion_begins_the_rows_of_its_style_and_leaves_the_prompts_alike(tmp_path: Path) -> None:
    def change(raw: dict[str, Any]) -> dict[str, Any]:
        *others, last = with_modes(raw)["mixes"]
        return raw | {"mixes": [*others, last | {"modes_in": "completion"}]}

    traces = [trace(number, pool) for number in range(20) for pool in ("long", "short")]
    run = make_run(tmp_path, traces, num_prompts=20, change=change)
    mix_stage(run)
    rows = run.run_dir.read_table("mix", "mix-long.parquet", row_type=Example).to_pylist()
    assert {row["messages"][0]["content"] for row in rows} == {"Be brief."}
    assert {(row["style"], row["messages"][-1]["content"][: row["opening"]]) for row in rows} == {
        (style, f"{line}\n") for style, line in MODES.items()
    }
    written = {one.trace_id: one.completion for one in traces}
    for row in rows:
        assert row["messages"][-1]["content"][row["opening"] :] == written[row["trace_id"]].strip()
    plain = run.run_dir.read_table("mix", "short.parquet", row_type=Example).to_pylist()
    assert {row["opening"] for row in plain} == {0}
    assert mode_tokens(run.recipe, [tokenizer()]) == max(len(line) + 1 for line in MODES.values())


SWITCHED = CHATML.replace(
    "assistant\n' }}", "assistant\n' }}{% if enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}"
)


def test_a_mode_that_closes_the_reasoning_takes_no_trace_that_reasons(tmp_path: Path) -> None:
    def reasoned(number: int, pool: str) -> Trace:
        thought = f"<think>\n{number}.\n</think>\n\n" if pool == "long" or number < 5 else "<think>\n\n</think>\n\n"
        return trace(number, pool, completion=f"{thought}It is {number + 1}.")

    modes = {"long": {"line": "Think."}, "short": {"template_options": {"enable_thinking": False}}}
    traces = [reasoned(number, pool) for number in range(20) for pool in ("long", "short")]
    run = make_run(tmp_path, traces, num_prompts=20, change=lambda raw: with_modes(raw, **modes))
    student = tokenizer(SWITCHED)
    student.save_pretrained(tmp_path / "model")
    details = mix_stage(run).details
    assert details["traces"] == {"long": {"usable": 20}, "short": {"usable": 15, "thinking_closed": 5}}
    rows = run.run_dir.read_table("mix", "mix-long.parquet", row_type=Example).to_pylist()
    rendered = [render_example(student, row["messages"], 400, read_options(row["template_options"])) for row in rows]
    assert len(rows) == 15 and not [one for one in rendered if isinstance(one, str)], "training drops none of them"
