"""Sets a checkout up: `.venv` with the locked packages for this machine (CPU or NVIDIA GPU), the `distill` command, and
DeepSpeed's CPU operator compiled ahead. `make setup` runs it; with the word `lock` it writes new locks (`make lock`).

It runs before anything is installed: standard library only, and syntax that a Python too old for the project can still
parse, so that such a Python is answered with one line.
"""

from __future__ import annotations

import ast
import contextlib
import fcntl
import hashlib
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Thread
from typing import IO

from cluster.setup_checks import (
    CPU,
    GPU,
    PYTHON_VERSIONS,
    REQUIREMENTS,
    ROOT,
    VENV,
    Build,
    SetupError,
    find_build,
    machine_problems,
    python_problem,
)

TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"  # PyPI carries no torch without CUDA for Linux
UV = "uv>=0.9,<1"
NETWORK_SIGNS = (
    "from versions: none", "NewConnectionError", "Failed to fetch", "Failed to resolve", "dns error", "connect error",
    "Connection refused", "timed out", "Could not connect", "error sending request", "Network is unreachable",
)  # fmt: skip
NETWORK_REMEDY = (
    "no package registry can be reached: check the network, a proxy, or pip's index-url (`pip config list`)"
)
DISK_REMEDY = "the disk is full: free some space (see `df -h .`), then run it again"


def stamp_hash(files: Sequence[Path], python: str) -> str:
    """Changes when anything that shaped `.venv` changes."""
    digest = hashlib.sha256(python.encode())
    for file in files:
        digest.update(file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def stamp_path(build: Build) -> Path:
    files = [build.lock, REQUIREMENTS / "overrides.txt", ROOT / "pyproject.toml", Path(__file__)]
    return VENV / f".setup-{stamp_hash(files, platform.python_version())}"


# Where packages come from: uv does not read pip's configuration, and company mirrors are written there.


def pip_settings(listing: str) -> dict[str, str]:
    """Settings out of `pip config list`; the environment wins over [install], which wins over [global]."""
    ranks = {"global": 0, "install": 1, ":env:": 2}
    found: dict[str, tuple[int, str]] = {}
    for line in listing.splitlines():
        key, _, value = line.partition("=")
        section, _, name = key.partition(".")
        rank = ranks.get(section)
        if rank is not None and rank >= found.get(name, (-1, ""))[0]:
            found[name] = (rank, str(ast.literal_eval(value)))
    return {name: value for name, (_, value) in found.items()}


def uv_options(settings: dict[str, str]) -> list[str]:
    flags = {
        "index-url": "--default-index", "extra-index-url": "--index", "find-links": "--find-links",
        "trusted-host": "--allow-insecure-host",
    }  # fmt: skip
    pairs = [(flag, value) for name, flag in flags.items() for value in settings.get(name, "").split()]
    options = [word for pair in pairs for word in pair]
    if "--index" in options:  # as pip does: uv alone would look no further than the first index that has the name
        options += ["--index-strategy", "unsafe-best-match"]
    return options + (["--no-index"] if settings.get("no-index", "").lower() in ("1", "true", "yes", "on") else [])


def uv_environment(settings: dict[str, str], environment: dict[str, str]) -> dict[str, str]:
    """For uv and the compiler: .venv first on PATH (ninja lives there), pip's certificate, proxy and time limit."""
    from_pip = {
        "SSL_CERT_FILE": "cert", "HTTPS_PROXY": "proxy", "HTTP_PROXY": "proxy", "UV_HTTP_TIMEOUT": "default-timeout",
    }  # fmt: skip
    extra = {variable: settings[name] for variable, name in from_pip.items() if name in settings}
    fixed = {"PATH": f"{VENV / 'bin'}{os.pathsep}{environment.get('PATH', '')}", "VIRTUAL_ENV": str(VENV)}
    return {**extra, **environment, **fixed}


# Steps, with progress


def explain(title: str, output: Sequence[str], log: Path) -> str:
    """One line out of a failed command's output."""
    text = "\n".join(output)
    if "No space left on device" in text:
        return DISK_REMEDY
    if any(sign in text for sign in NETWORK_SIGNS):
        return f"{title} failed, {NETWORK_REMEDY}"
    if "ensurepip" in text:
        return "Python's venv module is incomplete: install it, e.g. `sudo apt-get install python3-venv`"
    errors = [line for line in output if "error" in line.lower() or "×" in line] or list(output) or ["no output"]
    return f"{title} failed: {errors[0].strip()[:200]} (all of it: {log})"


class Steps:
    """Runs commands, a line each: number, title, seconds, latest news. Their full output goes to a log file."""

    def __init__(self, total: int, log: Path, terminal: IO[str]) -> None:
        self.total, self.log, self.terminal = total, log, terminal
        self.number, self.title, self.start = 0, "", 0.0

    def begin(self, title: str) -> None:
        self.number, self.title, self.start = self.number + 1, title, time.monotonic()

    def show(self, news: str, end: str) -> None:
        line = f"[{self.number}/{self.total}] {self.title}  {time.monotonic() - self.start:.0f} s  {news}".rstrip()
        clear = "\r\x1b[K" if self.terminal.isatty() else ""
        self.terminal.write(f"{clear}{line[: shutil.get_terminal_size().columns - 1] if clear else line}{end}")
        self.terminal.flush()

    def run(self, command: Sequence[str], environment: dict[str, str]) -> list[str] | None:
        """None when the command succeeded, else what it said."""
        lines: deque[str] = deque(maxlen=200)
        with self.log.open("a") as log, stopping(command, environment) as process:
            reader = Thread(target=copy_lines, args=(process, lines, log))
            reader.start()
            self.watch(process, lines)
            reader.join()
        return None if process.returncode == 0 else list(lines)

    def watch(self, process: subprocess.Popen[str], lines: deque[str]) -> None:
        beat_s = 0.5 if self.terminal.isatty() else 20.0
        while True:
            try:
                process.wait(beat_s)
                return
            except subprocess.TimeoutExpired:
                news = lines[-1].strip() if lines else ""
                self.show(news, "" if self.terminal.isatty() else "\n")

    def must(self, title: str, command: Sequence[str], environment: dict[str, str]) -> None:
        self.begin(title)
        output = self.run(command, environment)
        if output is not None:
            raise SetupError(explain(title, output, self.log))
        self.show("done", "\n")


@contextlib.contextmanager
def stopping(command: Sequence[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A child that never outlives this process's interest in it."""
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait()


def copy_lines(process: subprocess.Popen[str], lines: deque[str], log: IO[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        log.write(line)
        if line.strip():
            lines.append(line.rstrip())


# The set-up itself


def venv_fits() -> bool:
    """Is there a usable .venv of this very Python? An interrupted creation or a removed Python is not one."""
    try:
        config = (VENV / "pyvenv.cfg").read_text()
    except FileNotFoundError:
        return False
    tools = [VENV / "bin" / "python", VENV / "bin" / "pip"]
    return f"version = {platform.python_version()}\n" in config and all(tool.exists() for tool in tools)


def make_venv(steps: Steps) -> None:
    if not venv_fits():
        steps.must(".venv", [sys.executable, "-m", "venv", "--clear", str(VENV)], dict(os.environ))
        return
    steps.begin(".venv")
    steps.show("already there", "\n")


def install_uv(steps: Steps, settings: dict[str, str]) -> None:
    """Without a network this is where it shows: one retry, so that nobody waits minutes for the message."""
    if (VENV / "bin" / "uv").exists():
        steps.begin("uv, the installer")
        steps.show("already there", "\n")
        return
    command = [str(VENV / "bin" / "pip"), "install", "--retries", "1", "--disable-pip-version-check", UV]
    if not {"timeout", "default-timeout"} & settings.keys():
        command += ["--timeout", "20"]
    steps.must("uv, the installer", command, dict(os.environ))


def read_pip_settings() -> dict[str, str]:
    command = [str(VENV / "bin" / "pip"), "config", "list"]
    return pip_settings(subprocess.run(command, capture_output=True, text=True, check=False).stdout)


def locked_torch(lock: str) -> str:
    return next(line.split(";")[0].strip() for line in lock.splitlines() if line.startswith("torch=="))


def install_torch(steps: Steps, build: Build, options: list[str], environment: dict[str, str]) -> None:
    """The CPU wheel from where pip looks, else from PyTorch's own index; alone, so that index serves nothing else."""
    torch = locked_torch(build.lock.read_text())
    install = [str(VENV / "bin" / "uv"), "pip", "install", "--no-deps", torch]
    steps.begin(torch)
    output = steps.run([*install, *options], environment)
    if output is not None and build is CPU:
        steps.show(f"not where pip looks, trying {TORCH_CPU_INDEX}", "\n")
        output = steps.run([*install, "--default-index", TORCH_CPU_INDEX], environment)
    if output is not None:
        raise SetupError(explain(f"installing {torch}", output, steps.log))
    steps.show("done", "\n")


def install(build: Build) -> None:
    """Every step may be repeated, so an interrupted set-up goes on where it stopped."""
    log = ROOT / ".setup.log"
    log.write_text("")
    steps = Steps(6 if build is CPU else 5, log, sys.stderr)
    make_venv(steps)
    settings = read_pip_settings()
    install_uv(steps, settings)
    options, environment = uv_options(settings), uv_environment(settings, dict(os.environ))
    uv_install = [str(VENV / "bin" / "uv"), "pip", "install", "--no-deps", *options]
    install_torch(steps, build, options, environment)
    # Compiled once here: an engine imports vLLM in 11-12 s instead of 23-28 s, in each of its processes.
    steps.must("packages", [*uv_install, "--compile-bytecode", "-r", str(build.lock)], environment)
    # The lock has setuptools, so the build needs no download of its own.
    steps.must("distill", [*uv_install, "--no-build-isolation", "--editable", str(ROOT)], environment)
    if build is CPU:
        steps.must(
            "DeepSpeed's CPU operator", [str(VENV / "bin" / "python"), "-m", "cluster.deepspeed_op"], environment
        )


def set_up() -> None:
    build = find_build()
    if stamp_path(build).exists():
        return
    problems = machine_problems(build)
    if problems:
        raise SetupError("\nsetup: ".join(problems))
    with alone():
        if stamp_path(build).exists():  # another set-up finished while this one waited
            return
        print(f"setting up .venv for {build.name.upper()} (once; about {build.disk_gib} GiB)", file=sys.stderr)
        install(build)
        for old in VENV.glob(".setup-*"):
            old.unlink()
        stamp_path(build).touch()


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """One set-up of a checkout at a time: `make -j` or two terminals start several. The lock dies with its holder."""
    with Path(__file__).open() as this_file:
        fcntl.flock(this_file, fcntl.LOCK_EX)
        yield


def compile_lock(build: Build) -> None:
    """Writes the lock of one build from pyproject.toml; it names no index, host or path."""
    settings = read_pip_settings()
    torch = next(line for line in (ROOT / "pyproject.toml").read_text().split('"') if line.startswith("torch=="))
    overrides = VENV / f".overrides-{build.name}.txt"
    overrides.write_text(f"{(REQUIREMENTS / 'overrides.txt').read_text()}\n{torch}{build.torch_local}\n")
    command = [
        str(VENV / "bin" / "uv"), "pip", "compile", "--quiet", "--universal", "--python-version", "3.11",
        "--no-annotate", "--no-header", "--no-emit-index-url", "--no-emit-find-links",
        "--extra", build.name, "--extra", "quickstart", "--extra", "dev",
        "--override", str(overrides), *uv_options(settings), str(ROOT / "pyproject.toml"),
    ]  # fmt: skip
    environment = uv_environment(settings, dict(os.environ))
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode and build is CPU:
        command += ["--index", TORCH_CPU_INDEX, "--index-strategy", "unsafe-best-match"]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SetupError(f"resolving the {build.name} lock failed: {done.stderr.strip()}")
    build.lock.write_text(lock_text(build.name, done.stdout))


def lock_text(name: str, resolved: str) -> str:
    """The lock as written: a header, and without the rows that overrides.txt turned off."""
    rows = [row for row in resolved.splitlines() if "sys_platform == 'never'" not in row or " or " in row]
    note = "" if name == "cpu" else "# Resolved from metadata; not yet installed on a GPU machine.\n"
    made = (
        f"# Made by `make lock` from pyproject.toml (extras {name}, quickstart, dev) and overrides.txt; do not edit.\n"
    )
    return made + note + "\n".join(rows) + "\n"


def use_fitting_python() -> None:
    """Hands over to a Python of a fitting version where `python3` is too old or too new, if the machine has one."""
    if python_problem(sys.version_info[:2]) is None:
        return
    for major, minor in PYTHON_VERSIONS:
        python = shutil.which(f"python{major}.{minor}")
        # A version manager's shim exists for versions that are not switched on, so ask it to run.
        if python and subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0:
            os.execv(python, [python, "-m", "cluster.setup", *sys.argv[1:]])


def main(arguments: Sequence[str]) -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        use_fitting_python()
        set_up()
        if "lock" in arguments:
            compile_lock(CPU)
            compile_lock(GPU)
    except (SetupError, OSError) as error:
        print(f"setup: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nsetup: interrupted; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
