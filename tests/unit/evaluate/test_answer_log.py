"""Answers survive a kill, and only under the key of the score they are for."""

from typing import Any

import pytest

import distill.evaluate.answer_log
from distill.core.run_dir import RunDir
from distill.evaluate.answer_log import AnswerLog


def request(number: int, sample: int = 0) -> dict[str, Any]:
    return {"model": "m", "benchmark": "b", "prompt_id": f"p{number}", "sample_index": sample, "sampling": {"seed": 5}}


def answered(number: int, error: str = "") -> dict[str, Any]:
    common = {"finish_reason": "stop", "prompt_tokens": 2, "completion_tokens": 3}
    return request(number) | common | {"completion": f"answer {number}", "error": error}


def test_written_answers_are_reused_and_failed_ones_are_not(run_dir: RunDir) -> None:
    log = AnswerLog(run_dir, "m", "b", "key")
    for row in (answered(1), answered(2, error="timeout"), answered(3)):
        log.add(row)
    log.flush()
    again = AnswerLog(run_dir, "m", "b", "key")
    found = list(again.answered([request(1), request(1, sample=1), request(2), request(3)]))
    assert [(row["prompt_id"], row["completion"], row["error"]) for row in found] == [
        ("p1", "answer 1", ""),
        ("p3", "answer 3", ""),
    ]
    assert found[0]["sampling"] == {"seed": 5}


def test_answers_of_another_key_are_not_reused_and_are_removed_with_the_score(run_dir: RunDir) -> None:
    old, new = (AnswerLog(run_dir, "m", "b", key) for key in ("old", "new"))
    old.add(answered(1))
    old.flush()
    assert list(new.answered([request(1)])) == []
    new.clear()
    assert list(old.answered([request(1)])) == []


def test_answers_reach_the_disk_while_rows_keep_coming(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distill.evaluate.answer_log, "FLUSH_ROWS", 2)
    log = AnswerLog(run_dir, "m", "b", "key")
    log.add(answered(1))
    assert not run_dir.shards("evaluate", "m", "b.answers")
    log.add(answered(2))
    assert len(run_dir.shards("evaluate", "m", "b.answers")) == 1
