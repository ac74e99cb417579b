"""Random kills of anything at random moments: in the end every trace is there, once, and none was written again."""

import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.fixtures.teacher_run import rows_on_disk, shards, traces_on_disk, write_recipe

pytestmark = [pytest.mark.long, pytest.mark.timeout(5400)]

NUM_KILLS = 20
NUM_PROMPTS = 3000
NUM_SAMPLES = 2
TARGETS = {"engine": "VLLM::EngineCor", "actor": "ray::MapWorker", "raylet": "raylet", "driver": ""}
"""What is killed -> how the name of its process begins."""


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_recipe(tmp_path_factory.mktemp("chaos"), num_prompts=NUM_PROMPTS, num_samples=NUM_SAMPLES)


@contextmanager
def session(recipe: Path, run: Path) -> Iterator[psutil.Popen]:
    """One start of the command; whatever it has started is gone when the block ends."""
    command = [sys.executable, "-m", "tests.fixtures.generate_only", str(recipe), str(run)]
    driver = psutil.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    family: dict[int, psutil.Process] = {}
    driver.family = family
    try:
        yield driver
    finally:
        remember(driver)
        for process in [driver, *family.values()]:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs([driver, *family.values()], timeout=30)


def remember(driver: psutil.Popen) -> list[psutil.Process]:
    """The driver's processes; kept, since they lose their parent when it dies."""
    with suppress(psutil.NoSuchProcess):
        driver.family |= {child.pid: child for child in driver.children(recursive=True)}
    return [process for process in driver.family.values() if process.is_running()]


def name_of(process: psutil.Process) -> str:
    with suppress(psutil.NoSuchProcess):
        return " ".join([process.name(), *process.cmdline()[:1]])
    return ""


def kill_one(driver: psutil.Popen, target: str) -> bool:
    if target == "driver":
        driver.kill()
        return True
    start = TARGETS[target]
    victims = [one for one in remember(driver) if name_of(one).startswith(start) or f" {start}" in name_of(one)]
    for victim in victims[:1]:
        with suppress(psutil.NoSuchProcess):
            victim.kill()
            return True
    return False


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
