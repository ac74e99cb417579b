"""Hosts that vanish, are cut off or have a poor link, at random moments: nothing is lost and nothing is done twice.

Hosts are network namespaces with Ray nodes of their own (`tests.integration.hosts`). `NODES_SEED` draws other moments.
"""

import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.integration.hosts import Host, Lan, can_make_hosts, lan
from tests.integration.teacher_run import rows_on_disk, shards, traces_on_disk, write_recipe

pytestmark = [
    pytest.mark.integration,
    pytest.mark.long,
    pytest.mark.timeout(5400),
    pytest.mark.skipif(not can_make_hosts(), reason="network namespaces need root and `ip`"),
]

SEED = int(os.environ.get("NODES_SEED", "7"))
FAULTS = ("kill", "kill", "blink", "cut", "thin")
NUM_FAULTS = 8
NUM_PROMPTS, NUM_SAMPLES = 2000, 2
LONGER_THAN_ITS_DEATH_S = 30.0
"""Ray has given a host up that is cut off for so long."""


@pytest.fixture
def net() -> Iterator[Lan]:
    """A head and two workers."""
    with tempfile.TemporaryDirectory(prefix="lan", dir="/tmp") as folder, lan(Path(folder)) as made:
        made.add(cpus=0)
        made.wait_for(made.head)
        for _ in range(2):
            made.add(cpus=1)
        made.wait_for(*made.workers)
        yield made


class Disturber:
    """Chooses a fault and a host by lot, and counts."""

    def __init__(self, net: Lan, works: str) -> None:
        """`works`: how the name of a process begins that makes a host worth disturbing."""
        self.net, self.works, self.draw = net, works, random.Random(SEED)
        self.counts: Counter[str] = Counter()

    def disturb(self) -> None:
        """One fault, from its beginning to its end; a host that is gone for good is replaced by a new one."""
        fault, busy = self.draw.choice(FAULTS), [host for host in self.net.workers if host.runs(self.works)]
        victim = self.draw.choice(busy or self.net.workers)
        getattr(self, fault)(victim)
        self.counts[fault] += 1

    def kill(self, host: Host) -> None:
        self.net.kill(host)
        self.net.add(cpus=1)

    def blink(self, host: Host) -> None:
        self.net.cut(host)
        time.sleep(1 + 4 * self.draw.random())
        self.net.mend(host)

    def cut(self, host: Host) -> None:
        """It works on for a while, unseen by all others, and must not spoil what they do meanwhile."""
        self.net.cut(host)
        self.net.add(cpus=1)
        time.sleep(LONGER_THAN_ITS_DEATH_S * (1 + self.draw.random()))
        self.net.mend(host)
        time.sleep(5 * self.draw.random())
        self.net.kill(host)

    def thin(self, host: Host) -> None:
        self.net.thin(host, kbit=200)
        time.sleep(10 + 10 * self.draw.random())
        self.counts["lost packets"] += self.net.num_lost_packets(host)
        self.net.mend(host)


# Generation


def start_teacher(net: Lan, recipe: Path, run: Path) -> psutil.Popen:
    command = [sys.executable, "-m", "tests.integration.generate_only", str(recipe), str(run)]
    return net.head.start(command, "driver.log", RAY_ADDRESS=net.gcs)


def wait_for_new_shards(driver: psutil.Popen, run: Path, net: Lan) -> bool:
    """Whether traces were written since now, before the driver ended."""
    before, deadline = shards(run), time.monotonic() + 300
    while driver.poll() is None and not shards(run) - before:
        assert time.monotonic() < deadline, f"nothing is written any more: {net.head.log('driver.log')[-2000:]}"
        time.sleep(0.1)
    return driver.poll() is None


def test_teachers_lose_no_trace_and_write_none_twice_when_hosts_go_and_links_fail(
    net: Lan, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(
        tmp_path, num_prompts=NUM_PROMPTS, num_samples=NUM_SAMPLES, is_taught=False, engines=2, max_tokens=100
    )
    run, lot, started = tmp_path / "run", Disturber(net, "ray::MapWorker"), time.monotonic()
    seen: dict[str, dict[str, Any]] = {}
    driver = start_teacher(net, recipe, run)
    while sum(lot.counts[fault] for fault in set(FAULTS)) < NUM_FAULTS and wait_for_new_shards(driver, run, net):
        time.sleep(5 * lot.draw.random())
        seen |= {name: row for name, row in traces_on_disk(run).items() if name not in seen}
        lot.disturb()
    assert driver.wait(timeout=1800) == 0, net.head.log("driver.log")[-3000:]
    took = time.monotonic() - started
    final, rows = traces_on_disk(run), rows_on_disk(run)
    undisturbed = tmp_path / "undisturbed"
    assert start_teacher(net, recipe, undisturbed).wait(timeout=1800) == 0
    reference = traces_on_disk(undisturbed)
    lost, again = reference.keys() - final.keys(), [name for name, row in seen.items() if final.get(name) != row]
    same = sum(final[name]["completion"] == row["completion"] for name, row in reference.items() if name in final)
    with capsys.disabled():
        print(
            f"\nseed {SEED}: {dict(lot.counts)}; {took:.0f} s; traces {len(final)} of {len(reference)}, "
            f"lost {len(lost)}, rows repeated {len(rows) - len(final)}, written again {len(again)} of {len(seen)} seen, same text {same}"
        )
    assert sum(lot.counts[fault] for fault in set(FAULTS)) == NUM_FAULTS, "it ended before all faults: more prompts"
    assert not lost and len(final) == NUM_PROMPTS * NUM_SAMPLES
    assert not again, "a trace that was on disk was lost or written again"
    assert len(rows) == len(final), "a trace stands on disk twice"
