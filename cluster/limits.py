"""What of this machine the process may use: a container's share, and the cores that it is pinned to.

`psutil` and `os.cpu_count` tell the whole host's, of which a container may have a small part: planned by those, the
kernel would end the run for its memory.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import psutil

CGROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")


def usable_memory_bytes(groups: Path = CGROUPS, own: Path = OWN_GROUPS) -> int:
    """Bytes of main memory: the machine's, or the least that a control group leaves of it."""
    total = int(psutil.virtual_memory().total)
    names = ("memory.max", "memory.limit_in_bytes")
    limits = [int(text) for text in _settings(groups, own, "memory", names) if text.isdigit()]
    return min([total, *(limit for limit in limits if limit > 0)])


def usable_cpus(groups: Path = CGROUPS, own: Path = OWN_GROUPS) -> int:
    """Whole CPUs, at least one: those that the process may run on, or fewer where a control group has a quota."""
    pinned = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shares = [_quota(text.split()) for text in _settings(groups, own, "cpu", ("cpu.max",))]
    quotas = _settings(groups, own, "cpu", ("cpu.cfs_quota_us",))
    periods = _settings(groups, own, "cpu", ("cpu.cfs_period_us",))
    shares += [_quota([quota, period]) for quota, period in zip(quotas, periods, strict=False)]
    return max(1, int(min([float(pinned), *shares])))


def _quota(words: list[str]) -> float:
    """CPUs by quota and period, both in microseconds; infinite where there is none (`max`, or -1)."""
    if len(words) != 2 or not (words[0].isdigit() and words[1].isdigit()) or "0" in words:
        return float("inf")
    return int(words[0]) / int(words[1])


def _settings(groups: Path, own: Path, controller: str, names: tuple[str, ...]) -> list[str]:
    """The values of some files in the process's control groups and those above them, of both versions of the kernel's
    interface; none where it has none."""
    found = []
    for folder in dict.fromkeys(_folders(groups, own, controller)):
        for name in names:
            try:
                found.append((folder / name).read_text().strip())
            except OSError:  # not there, or not for us
                continue
    return found


def _folders(groups: Path, own: Path, controller: str) -> Iterator[Path]:
    """The folders of the process's groups. Inside a container its own group is the root, whatever it is called."""
    try:
        lines = own.read_text().splitlines()
    except OSError:  # no such interface: not Linux
        lines = []
    for root, wanted in ((groups, ""), (groups / controller, controller)):
        yield root
        for line in lines:
            _, names, path = line.split(":", 2)
            if wanted in names.split(","):  # the second version names no controller
                inner = root / path.strip("/")
                yield from (inner, *(above for above in inner.parents if above.is_relative_to(root)))
