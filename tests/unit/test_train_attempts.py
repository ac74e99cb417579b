"""Attempts of a cell from the events that its workers and the controller noted."""

from pathlib import Path
from typing import Any

from distill.core.run_dir import RunDir
from distill.train.attempts import loss_recorder, note, note_begin, read_attempts, to_attempts


def begin(at: float, pid: int = 1) -> dict[str, Any]:
    return {"event": "begin", "at": at, "host": "h", "pid": pid, "num_workers": 2}


def test_a_death_that_was_noted_and_one_that_was_not() -> None:
    events = [
        begin(1.0),
        {"event": "end", "at": 5.0, "outcome": "lost", "detail": "killed"},
        begin(6.0, pid=2),
        {"event": "resume", "at": 7.0, "step": 8},
        begin(20.0, pid=3),
        {"event": "resume", "at": 21.0, "step": 12},
    ]
    attempts = to_attempts(events)
    assert [(one.outcome, one.ended_at, one.first_step, one.pid) for one in attempts] == [
        ("lost", 5.0, 0, 1),
        ("lost", None, 8, 2),
        ("running", None, 12, 3),
    ]


def test_events_are_kept_beside_the_cell_and_read_back(tmp_path: Path) -> None:
    run_dir = RunDir(str(tmp_path))
    assert read_attempts(run_dir, "s@mix") == []
    note_begin(run_dir, "s@mix", 1)
    loss_recorder(run_dir.uri, "s@mix").after_exception(None, {0: RuntimeError("first\nThe worker died")})
    note_begin(run_dir, "s@mix", 1)
    note(run_dir, "s@mix", "end", outcome="done")
    lost, done = read_attempts(run_dir, "s@mix")
    assert (lost.outcome, lost.detail, done.outcome) == ("lost", "The worker died", "done")
