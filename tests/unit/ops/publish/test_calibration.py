"""A student is calibrated on rows of its own training: chosen by a seed, whole, with prompts and reasoning."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from distill.core.run_dir import RunDir, arm_examples
from distill.core.schema import Example, Message, content_hash
from distill.models.chat_template import render_example
from distill.ops.publish.calibration import Calibration, calibration_rows
from tests.fixtures.tiny_models import build_tokenizer

TOKENIZER = build_tokenizer()
THOUGHT = "<think>\nI add them.\n</think>\n\n"


def example(number: int, mix: str = "long", **changes: Any) -> Example:
    messages = [Message("user", f"{number} + 1?"), Message("assistant", f"{THOUGHT}It is {number + 1}.")]
    identity = content_hash("trace", number)
    return Example(identity, content_hash("prompt", number), mix, "long", "long", **{"messages": messages} | changes)


def run_with(folder: Path, **arms: Sequence[Example]) -> RunDir:
    run_dir = RunDir(str(folder))
    for name, rows in arms.items():
        run_dir.write_rows(rows, Example, *arm_examples(name))
    return run_dir


def chosen(run_dir: RunDir, *arms: str, num_tokens: int = 400, seed: int = 0, max_length: int = 200) -> Calibration:
    found = calibration_rows(run_dir, arms, TOKENIZER, max_length=max_length, seed=seed, num_tokens=num_tokens)
    assert found is not None
    return found


def test_rows_are_those_of_training_with_their_reasoning(tmp_path: Path) -> None:
    rows = [example(number) for number in range(40)]
    found = chosen(run_with(tmp_path, long=rows), "long")
    rendered = {
        tuple(render_example(TOKENIZER, [vars(turn) for turn in row.messages], 200).input_ids)  # type: ignore[union-attr]
        for row in rows
    }
    assert set(found.rows[:-1]) <= rendered
    assert all(THOUGHT in TOKENIZER.decode(row) for row in found.rows[:-1])


def test_so_many_tokens_are_taken_and_the_last_row_is_cut(tmp_path: Path) -> None:
    run_dir = run_with(tmp_path, long=[example(number) for number in range(40)])
    found = chosen(run_dir, "long")
    assert found.num_tokens == 400 and len(found.rows[-1]) < len(found.rows[0])
    assert found.words == f"400 tokens of {len(found.rows)} verified traces of long ({len(found.rows)} long)"
    assert chosen(run_dir, "long", num_tokens=10**6).num_tokens < 40 * 200, "all of a small arm"


def test_the_choice_hangs_on_the_seed_alone(tmp_path: Path) -> None:
    rows = [example(number) for number in range(40)]
    first = chosen(run_with(tmp_path / "one", long=rows), "long")
    assert chosen(run_with(tmp_path / "other", long=rows[::-1]), "long") == first
    assert chosen(run_with(tmp_path / "one", long=rows), "long", seed=1) != first


def test_all_arms_of_the_student_are_drawn_from_and_a_trace_counts_once(tmp_path: Path) -> None:
    run_dir = run_with(
        tmp_path,
        long=[example(number) for number in range(10)],
        both=[example(number, "both") for number in range(20)],
    )
    found = chosen(run_dir, "long", "both", "gone", num_tokens=10**6)
    assert len(found.rows) == 20 and found.arms == ("long", "both")


def test_what_was_not_learnt_is_left_out(tmp_path: Path) -> None:
    long = example(1, messages=[Message("user", "?"), Message("assistant", "so " * 200)])
    rejected = example(2, side="rejected")
    run_dir = run_with(tmp_path, long=[long, rejected, example(3, side="chosen")])
    (row,) = chosen(run_dir, "long").rows
    assert "It is 4." in TOKENIZER.decode(row)


def test_without_rows_there_is_none(tmp_path: Path) -> None:
    run_dir = run_with(tmp_path, long=[example(1, messages=[])])
    for arm in ("long", "gone"):
        assert calibration_rows(run_dir, [arm], TOKENIZER, max_length=200, seed=0) is None
