"""Hosts of a Ray cluster on one machine: network namespaces with addresses, names and links of their own.

    bridge --- link --- head     no CPU for tasks; the driver runs here
           --- link --- worker   may lose its power (`kill`) or its link (`cut`), or have a poor one (`thin`)

All hosts share the file system, as hosts that mount the run directory do; a host that is cut off still writes there.
Needs root and `ip`.
"""

import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
STORE_BYTES = 128 << 20
GCS_PORT = 6379
START_S = 60.0
QUICK_DEATHS = {
    "RAY_health_check_initial_delay_ms": "2000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "5",
}
"""Ray then takes a host that does not answer for dead after about ten seconds, not after a minute."""


def can_make_hosts() -> bool:
    """Whether this process may make network namespaces."""
    return os.geteuid() == 0 and shutil.which("ip") is not None


@dataclass
class Host:
    """One host of the cluster."""

    name: str
    address: str
    folder: Path
    env: Mapping[str, str]
    link: str
    """The bridge's end of its cable."""
    started: list[psutil.Popen] = field(default_factory=list)

    def start(self, command: Sequence[str], log: str, **env: str) -> psutil.Popen:
        """A process of this host; what it says goes to a file of the host's folder."""
        inside = ["ip", "netns", "exec", self.name, "unshare", "--uts", "sh", "-c"]
        named = f'echo {self.name} > /proc/sys/kernel/hostname; exec "$@"'
        with (self.folder / log).open("ab") as file:
            process = psutil.Popen(
                [*inside, named, "sh", *command], env={**self.env, **env}, cwd=ROOT, stdout=file, stderr=file
            )
        self.started.append(process)
        return process

    def processes(self) -> list[psutil.Process]:
        """All processes that run in this host now, orphans included."""
        found = []
        for pid in run("ip", "netns", "pids", self.name).split():
            try:
                found.append(psutil.Process(int(pid)))
            except psutil.NoSuchProcess:
                continue
        return found

    def runs(self, name: str) -> list[psutil.Process]:
        """Its processes whose name, or whose first word, begins so."""
        return [one for one in self.processes() if begins(one, name)]

    def log(self, name: str) -> str:
        """What a process has said so far."""
        return (self.folder / name).read_text(errors="replace")


def begins(process: psutil.Process, name: str) -> bool:
    try:
        return any(word.startswith(name) for word in (process.name(), *process.cmdline()[:1]))
    except psutil.Error:  # it has ended meanwhile
        return False


def run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


BRIDGE_ADDRESS = "02:00:00:00:00:01"


class Lan:
    """Hosts on one bridge; the first one is the head of their Ray cluster."""

    def __init__(self, folder: Path, env: Mapping[str, str], worker_cpus: int) -> None:
        self.number = os.getpid()
        self.subnet, self.bridge = f"10.77.{self.number % 250}", f"dlan{self.number}"
        self.folder, self.env, self.worker_cpus = folder, env, worker_cpus
        self.hosts: list[Host] = []
        self._made = 0
        # A bridge takes the lowest address of its ports unless it has one of its own: with every host that came or went
        # the test itself would move, and answers to it would go where nobody is.
        run("ip", "link", "add", self.bridge, "address", BRIDGE_ADDRESS, "type", "bridge")
        run("ip", "address", "add", f"{self.subnet}.254/24", "dev", self.bridge)
        run("ip", "link", "set", self.bridge, "up")

    @property
    def head(self) -> Host:
        return self.hosts[0]

    @property
    def workers(self) -> list[Host]:
        return self.hosts[1:]

    @property
    def gcs(self) -> str:
        """Address of the cluster."""
        return f"{self.subnet}.1:{GCS_PORT}"

    def add(self) -> Host:
        """A further host, with its Ray node starting; the first one is the head and has no CPU for tasks."""
        self._made += 1
        host = self._wired(self._made)
        self.hosts.append(host)
        as_head = ["--head", f"--port={GCS_PORT}", "--include-dashboard=false", "--num-cpus=0"]
        role = as_head if host is self.head else [f"--address={self.gcs}", f"--num-cpus={self.worker_cpus}"]
        ray = [sys.executable, "-m", "ray.scripts.scripts", "start", *role, "--block", "--disable-usage-stats"]
        sizes = [f"--object-store-memory={STORE_BYTES}", f"--temp-dir={host.folder}"]
        host.start([*ray, *sizes, f"--node-ip-address={host.address}"], "ray.log")
        return host

    def _wired(self, number: int) -> Host:
        name, address = f"h{self.number}-{number}", f"{self.subnet}.{number}"
        near, folder = f"v{self.number}-{number}", self.folder / f"h{number}"
        folder.mkdir(parents=True)
        names = Path("/etc/netns", name, "hosts")  # `ip netns exec` puts it over /etc/hosts
        names.parent.mkdir(parents=True)
        names.write_text(f"127.0.0.1 localhost\n{address} {name}\n")
        run("ip", "netns", "add", name)
        run("ip", "link", "add", near, "type", "veth", "peer", "name", "eth0", "netns", name)
        run("ip", "link", "set", near, "master", self.bridge, "up")
        run("ip", "-n", name, "address", "add", f"{address}/24", "dev", "eth0")
        run("ip", "-n", name, "link", "set", "lo", "up")
        run("ip", "-n", name, "link", "set", "eth0", "up")
        run("ip", "-n", name, "route", "add", "default", "via", f"{self.subnet}.254")
        return Host(name, address, folder, self.env, near)

    def wait_for(self, *hosts: Host, timeout_s: float = START_S) -> None:
        """Until their Ray nodes run."""
        deadline = time.monotonic() + timeout_s
        while missing := [host for host in hosts if "Ray runtime started" not in host.log("ray.log")]:
            assert time.monotonic() < deadline, [host.log("ray.log")[-800:] for host in missing]
            time.sleep(0.2)

    def kill(self, host: Host) -> None:
        """As when its power goes: it says goodbye to nobody."""
        self.cut(host)
        gone = host.processes()
        for process in [*gone, *host.started]:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs([*gone, *host.started], timeout=30)
        self.hosts.remove(host)
        run("ip", "link", "delete", host.link)
        run("ip", "netns", "delete", host.name)
        shutil.rmtree(Path("/etc/netns", host.name))

    def cut(self, host: Host) -> None:
        """Pull the cable: nothing goes through, and nobody is told."""
        run("ip", "link", "set", host.link, "down")

    def mend(self, host: Host) -> None:
        """Put the cable back, as good as new."""
        subprocess.run(["tc", "qdisc", "delete", "dev", host.link, "root"], capture_output=True)
        run("ip", "link", "set", host.link, "up")

    def thin(self, host: Host, *, kbit: int) -> None:
        """A slow link with room for two packets only, so that it loses what comes in a burst."""
        shape = f"tbf rate {kbit}kbit burst 3200 limit 6400".split()
        run("tc", "qdisc", "replace", "dev", host.link, "root", *shape)

    def num_lost_packets(self, host: Host) -> int:
        """Packets that the thin link has lost."""
        words = run("tc", "-s", "qdisc", "show", "dev", host.link).replace(",", "").split()
        return int(words[words.index("(dropped") + 1])

    def close(self) -> None:
        """Everything is gone afterwards."""
        for host in reversed(self.hosts.copy()):
            self.kill(host)
        run("ip", "link", "delete", self.bridge)


@contextmanager
def lan(folder: Path, *, worker_cpus: int, **env: str) -> Iterator[Lan]:
    """An empty network; a worker offers Ray so many CPUs. `folder` must have a short path: sockets lie below it."""
    ours = {"PYTHONPATH": str(ROOT), "RAY_USAGE_STATS_ENABLED": "0", **QUICK_DEATHS}
    ours |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    net = Lan(folder, {**os.environ, **ours, **env}, worker_cpus)
    try:
        yield net
    finally:
        net.close()
