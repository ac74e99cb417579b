"""Events are lines that a machine reads, with the ids of what they are about."""

import json
from pathlib import Path

import pytest

from distill.core import events
from distill.core.events import events_in, log_event
from distill.core.run_dir import RunDir
from distill.generate.asker import Completion, Refused
from distill.generate.pools import Request
from distill.run.pools import Pool
from distill.train.attempts import note
from tests.unit.test_teachers import LocalHandle, ask, job, pool, prompt


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_has_the_time_the_event_the_run_the_stage_and_the_ids(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    with events_in(path):
        log_event("stage ends", run="/r", stage="mix", rows_in=3, drops={"too long": 1}, why='with "quotes"\nand lines')
        note(RunDir(str(tmp_path)), "s@mix@0", "resume", step=7)
    first, second = lines(path)
    assert first.pop("at") and first == {
        "event": "stage ends",
        "run": "/r",
        "stage": "mix",
        "rows_in": 3,
        "drops": {"too long": 1},
        "why": 'with "quotes"\nand lines',
    }
    assert (second["event"], second["cell"], second["step"]) == ("attempt: resume", "s@mix@0", 7)


def test_a_request_that_is_given_up_is_told_by_its_ids(tmp_path: Path) -> None:
    path, pools = tmp_path / "events.jsonl", [pool("a", num_samples=1)]

    async def refuses(request: Request, pool: Pool, problem: str) -> Completion:
        raise Refused("too long")

    with events_in(path):
        ask(job(tmp_path, pools, LocalHandle()), refuses, [prompt(3)])
    begin, given_up = lines(path)
    assert (begin["event"], begin["pools"]) == ("engine begins", ["a"])
    assert (given_up["event"], given_up["reason"]) == ("request given up", "request refused")
    assert given_up["prompt_id"] == prompt(3)["prompt_id"] and given_up["engine"] == begin["engine"]


def test_outside_a_run_events_go_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    events._logger.cache_clear()
    log_event("engine begins", run="/r", stage="generate")
    assert json.loads(capsys.readouterr().err)["event"] == "engine begins"
    events._logger.cache_clear()
