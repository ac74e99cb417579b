"""Prompts whose reference the verifier cannot grade against are dropped with the reason."""

from distill.core.schema import Prompt, prompt_id
from distill.prompts.gradable import NO_ANSWER, NOT_ITSELF, without_ungradable
from distill.prompts.load import Loaded


def row(reference: str, kind: str = "math") -> Prompt:
    problem = f"What is {reference}?"
    return Prompt(
        prompt_id=prompt_id(problem),
        problem=problem,
        reference=reference,
        answer_kind=kind,
        source="own.jsonl",
        level="",
        subject="",
        entry="",
    )


def test_rows_without_a_gradable_reference_are_dropped_and_counted() -> None:
    loaded = without_ungradable(Loaded([row("4"), row("proof"), row("\\frac{1}{"), row("4", "number")], []))
    assert [prompt.reference for prompt in loaded.prompts] == ["4", "4"]
    assert [drop.reason for drop in loaded.drops] == [NO_ANSWER, NOT_ITSELF]
    assert "malformed_box" in loaded.drops[1].detail and "own.jsonl" in loaded.drops[1].where
