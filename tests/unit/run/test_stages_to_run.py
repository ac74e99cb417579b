"""Which stages `distill run` does: all that are stale, those up to `--until`, or `--only` one."""

from collections.abc import Mapping

import pytest

from distill.core.errors import InputError
from distill.core.run_dir import StageName
from distill.run.stage_keys import StageState, stages_to_run

PROMPTS, MIX, TRAIN, REPORT = StageName.PROMPTS, StageName.MIX, StageName.TRAIN, StageName.REPORT
READS = {PROMPTS: (), MIX: (PROMPTS,), TRAIN: (MIX,), REPORT: (PROMPTS, MIX, TRAIN)}


def states(*done: StageName) -> Mapping[StageName, StageState]:
    """All four stages, some of them done."""
    return {name: StageState(name, "k", {}, "done" if name in done else "new") for name in READS}


def test_all_stale_stages_are_run_in_order() -> None:
    assert stages_to_run(READS, states(PROMPTS)) == [MIX, TRAIN, REPORT]


def test_until_stops_after_the_stage_it_names() -> None:
    assert stages_to_run(READS, states(PROMPTS), until=TRAIN) == [MIX, TRAIN]
    assert stages_to_run(READS, states(PROMPTS, MIX), until=MIX) == []


def test_only_runs_one_stage_whose_inputs_are_done() -> None:
    assert stages_to_run(READS, states(PROMPTS, MIX), only=TRAIN) == [TRAIN]
    assert stages_to_run(READS, states(PROMPTS, MIX, TRAIN), only=TRAIN) == [], "it is done already"


def test_only_is_refused_where_an_input_is_not_done() -> None:
    with pytest.raises(InputError, match="mix must be done first -> run with --until train"):
        stages_to_run(READS, states(PROMPTS), only=TRAIN)
