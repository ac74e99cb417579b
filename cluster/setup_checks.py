"""Checks of the set-up: which build fits this machine, and one line with a remedy for everything that is missing.

Standard library only (see cluster/setup.py).
"""

from __future__ import annotations

import glob
import platform
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from cluster.units import GIB

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
REQUIREMENTS = ROOT / "cluster" / "requirements"
PYTHON_VERSIONS = ((3, 11), (3, 12), (3, 13))  # a test compares it with pyproject's requires-python


class SetupError(Exception):
    """A failure of the set-up with its remedy, on one line."""


class Build(NamedTuple):
    """One of the two sets of packages."""

    name: str
    disk_gib: int
    torch_local: str  # local version that the lock appends to pyproject's torch pin

    @property
    def lock(self) -> Path:
        return REQUIREMENTS / f"{self.name}.txt"


CPU = Build("cpu", disk_gib=6, torch_local="+cpu")
GPU = Build("gpu", disk_gib=15, torch_local="")


def choose_build(device_nodes: Sequence[str], smi_listing: str) -> Build:
    """The GPU build where the driver lists a device. A CUDA toolkit (nvcc) is neither sufficient nor needed."""
    return GPU if device_nodes or "GPU 0:" in smi_listing else CPU


def find_build() -> Build:
    """The build for this machine."""
    # WSL has no /dev/nvidia0, only nvidia-smi, which takes up to a second: device nodes are looked for first.
    nodes = glob.glob("/dev/nvidia[0-9]*")
    if nodes or shutil.which("nvidia-smi") is None:
        return choose_build(nodes, "")
    listing = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, timeout=30, check=False)
    return choose_build(nodes, listing.stdout)


def platform_problem(system: str, machine: str) -> str | None:
    if system == "Linux" and machine in ("x86_64", "aarch64"):
        return None
    needed = "vLLM and DeepSpeed need Linux on x86_64 or aarch64"
    return f"{needed}, but this is {system} on {machine}: use a Linux machine, a container or WSL 2"


def python_problem(version: Sequence[int]) -> str | None:
    if tuple(version[:2]) in PYTHON_VERSIONS:
        return None
    wanted = ", ".join(f"{major}.{minor}" for major, minor in PYTHON_VERSIONS)
    remedy = "install it, e.g. `sudo apt-get install python3.11-venv python3.11-dev`"
    return f"Python {version[0]}.{version[1]} is not supported, one of {wanted} is needed: {remedy}"


def tool_problem(tool: str, debian: str, fedora: str, which: Callable[[str], str | None]) -> str | None:
    if which(tool):
        return None
    return f"{tool} is missing: install it, e.g. `sudo apt-get install {debian}` or `sudo dnf install {fedora}`"


def header_problem(include: Path) -> str | None:
    if (include / "Python.h").is_file():
        return None
    missing = f"Python's headers are missing ({include}/Python.h), and DeepSpeed compiles against them"
    return f"{missing}: install them, e.g. `sudo apt-get install python3-dev` or `sudo dnf install python3-devel`"


def disk_problem(free_bytes: int, needed_gib: int, folder: Path) -> str | None:
    if free_bytes >= needed_gib * GIB:
        return None
    found = f"{folder} has {free_bytes / GIB:.1f} GiB free, about {needed_gib} GiB are needed"
    return f"not enough disk space: {found}: free some, or clone onto a larger disk"


def disk_needs(build: Build) -> dict[Path, int]:
    """GiB needed per folder: packages are unpacked in uv's cache, then linked into .venv, or copied to another disk."""
    installed = any(VENV.glob("lib/python*/site-packages/torch"))
    needed = 1 if installed else build.disk_gib
    needs = {ROOT: needed}
    cache = Path.home()
    if cache.is_dir() and cache.stat().st_dev != ROOT.stat().st_dev:
        needs[cache] = needed
    return needs


def machine_problems(build: Build) -> list[str]:
    """What this machine lacks for a build, one line each; empty where it can be set up."""
    checks = [
        platform_problem(platform.system(), platform.machine()),
        python_problem(sys.version_info[:2]),
        tool_problem("g++", "g++", "gcc-c++", shutil.which),
        tool_problem("make", "make", "make", shutil.which),
        header_problem(Path(sysconfig.get_paths()["include"])),
        *(disk_problem(shutil.disk_usage(path).free, gib, path) for path, gib in disk_needs(build).items()),
    ]
    return [check for check in checks if check]
