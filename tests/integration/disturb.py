"""Faults drawn by lot for a cluster of several hosts: which, where and when follows from `NODES_SEED`."""

import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from serve.proxy_settings import ENVIRONMENT
from tests.integration.hosts import Host, Lan, lan

SEED = int(os.environ.get("NODES_SEED", "7"))
FAULTS = ("kill", "kill", "blink", "cut", "thin")
LONGER_THAN_ITS_DEATH_S = 30.0
"""Ray has given a host up that is cut off for so long."""


@contextmanager
def three_hosts(*, worker_cpus: int = 1) -> Iterator[Lan]:
    """A head and two workers."""
    with (
        tempfile.TemporaryDirectory(prefix="lan", dir="/tmp") as folder,
        lan(Path(folder), worker_cpus=worker_cpus, **ENVIRONMENT) as made,
    ):
        made.add()
        made.wait_for(made.head)
        for _ in range(2):
            made.add()
        made.wait_for(*made.workers)
        yield made


class Disturber:
    """Chooses a fault and a host by lot, and counts."""

    def __init__(self, net: Lan, works: str) -> None:
        """`works`: how the name of a process begins that makes a host worth disturbing."""
        self.net, self.works, self.draw = net, works, random.Random(SEED)
        self.counts: Counter[str] = Counter()

    @property
    def num_faults(self) -> int:
        """So far."""
        return sum(self.counts[fault] for fault in set(FAULTS))

    def disturb(self) -> None:
        """One fault, from its beginning to its end; a host that is gone for good is replaced by a new one."""
        fault, busy = self.draw.choice(FAULTS), [host for host in self.net.workers if host.runs(self.works)]
        victim = self.draw.choice(busy or self.net.workers)
        getattr(self, fault)(victim)
        self.counts[fault] += 1

    def kill(self, host: Host) -> None:
        self.net.kill(host)
        self.net.add()

    def blink(self, host: Host) -> None:
        self.net.cut(host)
        time.sleep(1 + 4 * self.draw.random())
        self.net.mend(host)

    def cut(self, host: Host) -> None:
        """It works on for a while, unseen by all others, and must not spoil what they do meanwhile."""
        self.net.cut(host)
        self.net.add()
        time.sleep(LONGER_THAN_ITS_DEATH_S * (1 + self.draw.random()))
        self.net.mend(host)
        time.sleep(5 * self.draw.random())
        self.net.kill(host)

    def thin(self, host: Host) -> None:
        self.net.thin(host, kbit=200)
        time.sleep(10 + 10 * self.draw.random())
        self.counts["lost packets"] += self.net.num_lost_packets(host)
        self.net.mend(host)


def start_driver(net: Lan, module: str, *words: object) -> psutil.Popen:
    """A module of ours on the head."""
    command = [sys.executable, "-m", f"tests.integration.{module}", *map(str, words)]
    return net.head.start(command, "driver.log", RAY_ADDRESS=net.gcs)


def wait_for_new_files(driver: psutil.Popen, run: Path, pattern: str, net: Lan) -> bool:
    """Whether such files appeared since now, before the driver ended."""
    before, deadline = set(run.glob(pattern)), time.monotonic() + 300
    while driver.poll() is None and not set(run.glob(pattern)) - before:
        assert time.monotonic() < deadline, f"nothing is written any more: {net.head.log('driver.log')[-2000:]}"
        time.sleep(0.05)
    return driver.poll() is None
