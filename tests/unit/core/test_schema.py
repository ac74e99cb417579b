"""Identities of rows."""

import dataclasses

from distill.core.schema import dropped, prompt_id, seed_for, trace_id


def test_identities_are_content() -> None:
    assert prompt_id("What is\n 1 + 1?") == prompt_id("What is 1 + 1? ")
    assert trace_id("p", "f", 0) != trace_id("p", "f", 1)
    assert 0 <= seed_for("a") < 2**31
    assert len(dataclasses.asdict(dropped("mix", "w", "r", row={"x": "y" * 9000}))["row"]) == 2000
