"""Attempts of a cell from the events that its workers and the controller noted."""

from pathlib import Path
from typing import Any

from distill.core.run_dir import RunDir
from distill.train.attempts import failure_recorder, parse_attempts, read_attempts, record_begin, record_event


def begin(at: float, pid: int = 1) -> dict[str, Any]:
    return {"event": "begin", "at": at, "host": "h", "pid": pid, "num_workers": 2}


def test_recorded_and_unrecorded_deaths_end_an_attempt() -> None:
    events = [
        begin(1.0),
        {"event": "end", "at": 5.0, "outcome": "lost", "detail": "killed"},
        begin(6.0, pid=2),
        {"event": "resume", "at": 7.0, "step": 8},
        begin(20.0, pid=3),
        {"event": "resume", "at": 21.0, "step": 12},
    ]
    attempts = parse_attempts(events)
    assert [(one.outcome, one.ended_at, one.first_step, one.pid) for one in attempts] == [
        ("lost", 5.0, 0, 1),
        ("lost", None, 8, 2),
        ("running", None, 12, 3),
    ]


def test_events_are_kept_beside_the_cell_and_read_back(tmp_path: Path) -> None:
    run_dir = RunDir(str(tmp_path))
    assert read_attempts(run_dir, "s@mix") == []
    record_begin(run_dir, "s@mix", 1)
    failure_recorder(run_dir.uri, "s@mix").after_exception(None, {0: RuntimeError("first\nThe worker died")})
    record_begin(run_dir, "s@mix", 1)
    record_event(run_dir, "s@mix", "end", outcome="done")
    lost, done = read_attempts(run_dir, "s@mix")
    assert (lost.outcome, lost.detail, done.outcome) == ("lost", "The worker died", "done")
