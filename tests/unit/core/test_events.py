"""Events are lines that a machine reads, with the ids of what they are about."""

import json
from pathlib import Path

import pytest

from distill.core import events
from distill.core.events import events_in, log_event
from distill.core.run_dir import RunDir
from distill.train.attempts import record_event
from tests.fixtures.json_lines import json_lines


def test_a_line_has_the_time_the_event_the_run_the_stage_and_the_ids(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with events_in(path):
        log_event("stage ends", run="/r", stage="mix", rows_in=3, drops={"too long": 1}, why='with "quotes"\nand lines')
        record_event(RunDir(str(tmp_path)), "s@mix@0", "resume", step=7)
    first, second = json_lines(path)
    assert first.pop("at") and first == {
        "event": "stage ends",
        "run": "/r",
        "stage": "mix",
        "rows_in": 3,
        "drops": {"too long": 1},
        "why": 'with "quotes"\nand lines',
    }
    assert (second["event"], second["cell"], second["step"]) == ("attempt: resume", "s@mix@0", 7)


def test_outside_a_run_events_are_written_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    events._logger.cache_clear()
    log_event("engine begins", run="/r", stage="generate")
    assert json.loads(capsys.readouterr().err)["event"] == "engine begins"
    events._logger.cache_clear()
