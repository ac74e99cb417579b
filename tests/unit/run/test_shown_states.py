"""What a run says that it keeps and does again."""

import io

from rich.console import Console

from distill.pipeline import show_states
from distill.run.stage_keys import StageState


def test_the_teacher_that_changed_is_named() -> None:
    out = io.StringIO()
    states = {
        "prompts": StageState("prompts", "k", {}, "done"),
        "generate": StageState("generate", "k", {}, "changed", "teachers[long].num_samples"),
    }
    show_states(Console(file=out, width=120), states)
    assert out.getvalue().splitlines() == [
        "already done: prompts",
        "generate is done again: teachers[long].num_samples changed",
    ]
