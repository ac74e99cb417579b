"""How a worker of a cell ends by an error that a retry would not cure."""

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest

from distill.core.errors import InputError
from distill.core.run_dir import RunDir, Training
from distill.train.worker import loop


def fail(job: Any, run_dir: RunDir) -> loop.Outcome:
    raise InputError("/models/m: no usable causal language model")


@pytest.fixture
def second_worker(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """The config of a worker that is not the first, on a machine without the model's folder."""
    monkeypatch.setattr(loop, "worker_log", lambda job, run_dir: nullcontext())
    monkeypatch.setattr(loop, "prepare_process", lambda job: None)
    monkeypatch.setattr(loop, "rank", lambda: 1)
    monkeypatch.setattr(loop, "FIRST_ENDS_S", 0.0)
    monkeypatch.setattr(loop, "_train", fail)
    return {"job": SimpleNamespace(cell="cell", key="key", run_uri=run_dir.uri, num_workers=2)}


def test_an_error_of_one_worker_ends_the_others_which_would_wait_for_it(second_worker: dict[str, Any]) -> None:
    with pytest.raises(InputError, match="no usable causal language model"):
        loop.train_worker(second_worker)


def test_an_error_of_all_workers_is_told_by_the_first_and_not_tried_again(
    run_dir: RunDir, second_worker: dict[str, Any]
) -> None:
    run_dir.write_bytes(b"{}", *Training("cell").outcome)
    loop.train_worker(second_worker)
