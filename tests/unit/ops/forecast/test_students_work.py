"""What the plan says of answers that students write before they learn from them."""

import io

import pytest
from rich.console import Console

from distill.models.shape import score_memory_bytes
from distill.ops.forecast import cell_plan
from distill.train.machines import described_machines
from tests.fixtures.forecast_run import recipe
from tests.fixtures.model_shapes import shape


def said(name: str, monkeypatch: pytest.MonkeyPatch, *overrides: str) -> str:
    monkeypatch.setattr(cell_plan, "planned_shape", shape)
    console = Console(file=io.StringIO(), width=400)
    cell_plan.show_rounds(recipe(*overrides, name=name), console)
    cell_plan.show_students_work(recipe(*overrides, name=name), described_machines("1x1x80"), console)
    return str(console.file.getvalue())  # type: ignore[attr-defined]  # the file above


def test_the_rounds_of_an_arm_with_the_steps_of_two_stages_are_all_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    words = said("warm-up-rl", monkeypatch)
    assert "rl: 40 rounds, each 4 prompts with 8 answers of at most 64 tokens" in words
    assert "rl-alone: 180 rounds, each 16 prompts" in said("gpu-warm-up-rl", monkeypatch)


def test_who_writes_in_which_pass_and_who_scores_in_how_much_memory_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    words = said("gpu-refine", monkeypatch)
    assert "long: written by tutor@reasoned@0 in pass 2" in words
    # 7.6 billion weights of two bytes, the logits of one answer of 4,000 tokens, and 512 positions compared
    assert "refine-long: before its training the student of sft-long answers every row (at most 4000 tokens)" in words
    assert "scored by long (16.0 GiB)" in words


def test_long_answers_take_more_than_the_logits_of_a_usual_pass() -> None:
    assert score_memory_bytes(49_152, 100, 2) < 0.75 * 2**30
    assert score_memory_bytes(152_064, 8_000, 2) == pytest.approx(2.92 * 2**30, rel=0.01)
