"""Random kills of anything at random moments: in the end every trace is there, once, and none was written again."""

import random
import time
from collections import Counter
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.fixtures.killed_run import TARGETS, kill_one, remember, session
from tests.fixtures.teacher_run import rows_on_disk, shards, traces_on_disk, write_recipe

pytestmark = [pytest.mark.long, pytest.mark.timeout(5400)]

NUM_KILLS = 20
NUM_PROMPTS = 3000
NUM_SAMPLES = 2


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("chaos"), num_prompts=NUM_PROMPTS, num_samples=NUM_SAMPLES)


def wait_for_new_traces(driver: psutil.Popen, run: Path, *, timeout_s: float) -> bool:
    """Whether traces were written since now, before the driver ended or time ran out."""

    before, deadline = shards(run), time.monotonic() + timeout_s
    while time.monotonic() < deadline and driver.poll() is None:
        remember(driver)
        if shards(run) - before:
            return True
        time.sleep(0.1)
    return False


def test_after_random_kills_every_trace_is_there_once_and_none_was_written_again(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    draw, run, kills = random.Random(7), tmp_path / "run", Counter[str]()
    seen: dict[str, dict[str, Any]] = {}
    while kills.total() < NUM_KILLS:
        with session(recipe, run) as driver:
            while kills.total() < NUM_KILLS and wait_for_new_traces(driver, run, timeout_s=180):
                time.sleep(draw.random() * 2)
                seen |= {name: row for name, row in traces_on_disk(run).items() if name not in seen}
                target = draw.choice(list(TARGETS))
                kills[target] += kill_one(driver, target)
                if target in ("driver", "raylet"):
                    break
            if driver.poll() == 0:
                break
    with session(recipe, run) as driver:
        assert driver.wait(timeout=1200) == 0
    final = traces_on_disk(run)
    undisturbed = tmp_path / "undisturbed"
    with session(recipe, undisturbed) as driver:
        assert driver.wait(timeout=1200) == 0
    reference = traces_on_disk(undisturbed)
    same = sum(final[name]["completion"] == row["completion"] for name, row in reference.items())
    with capsys.disabled():
        print(f"\nkills {dict(kills)}; traces {len(final)}, on disk before some kill {len(seen)}, same text {same}")
    assert kills.total() == NUM_KILLS, "the run ended before all kills: raise NUM_PROMPTS"
    assert final.keys() == reference.keys()
    assert len(final) == NUM_PROMPTS * NUM_SAMPLES
    assert all(final[name] == row for name, row in seen.items()), "a trace that was on disk was lost or written again"
    assert len(rows_on_disk(run)) == len(final), "a trace stands on disk twice"
