"""Sets up a checkout: `.venv` with the locked packages for this machine (CPU or NVIDIA GPU), the `distill` command, and
DeepSpeed's CPU operator, compiled in advance. `make setup` runs it; `make lock` runs it with the argument `lock`, which
writes new lock files.

It runs before anything is installed: standard library only, and syntax that even a Python too old for the project can
parse, so that the error is one line.
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

TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"  # PyPI has no Linux build of torch without CUDA
UV = "uv>=0.9,<1"
NETWORK_ERRORS = (
    "from versions: none", "NewConnectionError", "Failed to fetch", "Failed to resolve", "dns error", "connect error",
    "Connection refused", "timed out", "Could not connect", "error sending request", "Network is unreachable",
)  # fmt: skip
NETWORK_REMEDY = "no package index can be reached: check the network, the proxy, or pip's index-url (`pip config list`)"
DISK_REMEDY = "the disk is full: free some space (see `df -h .`), then repeat the command"


def stamp_hash(files: Sequence[Path], python: str) -> str:
    """A hash of everything that decides the content of `.venv`."""
    digest = hashlib.sha256(python.encode())
    for file in files:
        digest.update(file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def override_files(build: Build) -> list[Path]:
    """The files with requirements that the lock of a build leaves out."""
    return [REQUIREMENTS / "overrides.txt", *([REQUIREMENTS / "overrides-cpu.txt"] if build is CPU else [])]


def stamp_path(build: Build) -> Path:
    """The file that marks a finished set-up of exactly these inputs."""
    files = [build.lock, *override_files(build), ROOT / "pyproject.toml", Path(__file__)]
    return VENV / f".setup-{stamp_hash(files, platform.python_version())}"


# Package sources: uv does not read pip's configuration, where company mirrors are set.


def pip_settings(listing: str) -> dict[str, str]:
    """Settings from `pip config list`; the environment overrides [install], which overrides [global]."""
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
    """uv's options for pip's package sources."""
    flags = {
        "index-url": "--default-index", "extra-index-url": "--index", "find-links": "--find-links",
        "trusted-host": "--allow-insecure-host",
    }  # fmt: skip
    pairs = [(flag, value) for name, flag in flags.items() for value in settings.get(name, "").split()]
    options = [part for pair in pairs for part in pair]
    if "--index" in options:  # as pip does: uv by default stops at the first index that has the package
        options += ["--index-strategy", "unsafe-best-match"]
    return options + (["--no-index"] if settings.get("no-index", "").lower() in ("1", "true", "yes", "on") else [])


def uv_environment(settings: dict[str, str], environment: dict[str, str]) -> dict[str, str]:
    """Variables for uv and the compiler: .venv first on PATH (for ninja), pip's certificate, proxy and time-out."""
    from_pip = {
        "SSL_CERT_FILE": "cert", "HTTPS_PROXY": "proxy", "HTTP_PROXY": "proxy", "UV_HTTP_TIMEOUT": "default-timeout",
    }  # fmt: skip
    extra = {variable: settings[name] for variable, name in from_pip.items() if name in settings}
    fixed = {"PATH": f"{VENV / 'bin'}{os.pathsep}{environment.get('PATH', '')}", "VIRTUAL_ENV": str(VENV)}
    return {**extra, **environment, **fixed}


# Steps, with progress


def explain(title: str, output: Sequence[str], log: Path) -> str:
    """One line about a failed command, from its output."""
    text = "\n".join(output)
    if "No space left on device" in text:
        return DISK_REMEDY
    if any(sign in text for sign in NETWORK_ERRORS):
        return f"{title} failed, {NETWORK_REMEDY}"
    if "ensurepip" in text:
        return "Python's venv module is incomplete: install it, e.g. `sudo apt-get install python3-venv`"
    errors = [line for line in output if "error" in line.lower() or "×" in line] or list(output) or ["no output"]
    return f"{title} failed: {errors[0].strip()[:200]} (full output: {log})"


class Steps:
    """Runs commands and shows a line for each: number, title, seconds, last output. The full output goes to a log."""

    def __init__(self, total: int, log: Path, terminal: IO[str]) -> None:
        self.total, self.log, self.terminal = total, log, terminal
        self.number, self.title, self.start = 0, "", 0.0

    def begin(self, title: str) -> None:
        """Start the next step."""
        self.number, self.title, self.start = self.number + 1, title, time.monotonic()

    def show(self, detail: str, end: str) -> None:
        """Write the line of the current step."""
        line = f"[{self.number}/{self.total}] {self.title}  {time.monotonic() - self.start:.0f} s  {detail}".rstrip()
        clear = "\r\x1b[K" if self.terminal.isatty() else ""
        self.terminal.write(f"{clear}{line[: shutil.get_terminal_size().columns - 1] if clear else line}{end}")
        self.terminal.flush()

    def run(self, command: Sequence[str], environment: dict[str, str]) -> list[str] | None:
        """None when the command succeeded, else the end of its output."""
        lines: deque[str] = deque(maxlen=200)
        with self.log.open("a") as log, child_process(command, environment) as process:
            reader = Thread(target=copy_lines, args=(process, lines, log))
            reader.start()
            self.watch(process, lines)
            reader.join()
        return None if process.returncode == 0 else list(lines)

    def watch(self, process: subprocess.Popen[str], lines: deque[str]) -> None:
        """Show the last line of output from time to time until the process ends."""
        interval_s = 0.5 if self.terminal.isatty() else 20.0
        while True:
            try:
                process.wait(interval_s)
                return
            except subprocess.TimeoutExpired:
                last = lines[-1].strip() if lines else ""
                self.show(last, "" if self.terminal.isatty() else "\n")

    def run_or_fail(self, title: str, command: Sequence[str], environment: dict[str, str]) -> None:
        """Run one step.

        Raises:
            SetupError: the command failed.
        """
        self.begin(title)
        output = self.run(command, environment)
        if output is not None:
            raise SetupError(explain(title, output, self.log))
        self.show("done", "\n")


@contextlib.contextmanager
def child_process(command: Sequence[str], environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A child process that is terminated when the block ends."""
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
    """Copy a process's output to the log and its non-empty lines to `lines`."""
    assert process.stdout is not None
    for line in process.stdout:
        log.write(line)
        if line.strip():
            lines.append(line.rstrip())


# The set-up itself


def venv_fits() -> bool:
    """Whether there is a usable .venv of this very Python, and not an interrupted one or one of a removed Python."""
    try:
        config = (VENV / "pyvenv.cfg").read_text()
    except FileNotFoundError:
        return False
    tools = [VENV / "bin" / "python", VENV / "bin" / "pip"]
    return f"version = {platform.python_version()}\n" in config and all(tool.exists() for tool in tools)


def make_venv(steps: Steps) -> None:
    """Create .venv where there is no usable one."""
    if not venv_fits():
        steps.run_or_fail(".venv", [sys.executable, "-m", "venv", "--clear", str(VENV)], dict(os.environ))
        return
    steps.begin(".venv")
    steps.show("already done", "\n")


def install_uv(steps: Steps, settings: dict[str, str]) -> None:
    """Install uv. A missing network shows here first: one retry, so that nobody waits minutes for the message."""
    if (VENV / "bin" / "uv").exists():
        steps.begin("uv, the installer")
        steps.show("already done", "\n")
        return
    command = [str(VENV / "bin" / "pip"), "install", "--retries", "1", "--disable-pip-version-check", UV]
    if not {"timeout", "default-timeout"} & settings.keys():
        command += ["--timeout", "20"]
    steps.run_or_fail("uv, the installer", command, dict(os.environ))


def read_pip_settings() -> dict[str, str]:
    command = [str(VENV / "bin" / "pip"), "config", "list"]
    return pip_settings(subprocess.run(command, capture_output=True, text=True, check=False).stdout)


def locked_torch(lock: str) -> str:
    return next(line.split(";")[0].strip() for line in lock.splitlines() if line.startswith("torch=="))


def torch_options(build: Build, options: list[str]) -> list[str]:
    """uv's options for torch alone. A folder of wheels may hold the CPU build, which sorts above the index's."""
    if build is CPU or "--no-index" in options:
        return options
    pairs = zip(options[::2], options[1::2], strict=True)
    return [part for pair in pairs if pair[0] != "--find-links" for part in pair]


def install_torch(steps: Steps, build: Build, options: list[str], environment: dict[str, str]) -> None:
    """Install torch from pip's index, or the CPU wheel from PyTorch's own; alone, so nothing else comes from there."""
    torch = locked_torch(build.lock.read_text())
    install = [str(VENV / "bin" / "uv"), "pip", "install", "--no-deps", "--compile-bytecode", torch]
    steps.begin(torch)
    output = steps.run([*install, *torch_options(build, options)], environment)
    if output is not None and build is CPU:
        steps.show(f"not in pip's index, trying {TORCH_CPU_INDEX}", "\n")
        output = steps.run([*install, "--default-index", TORCH_CPU_INDEX], environment)
    if output is not None:
        raise SetupError(explain(f"installing {torch}", output, steps.log))
    steps.show("done", "\n")


def install(build: Build) -> None:
    """All steps. Each may be repeated, so an interrupted set-up continues where it stopped."""
    log = ROOT / ".setup.log"
    log.write_text("")
    steps = Steps(6 if build is CPU else 5, log, sys.stderr)
    make_venv(steps)
    settings = read_pip_settings()
    install_uv(steps, settings)
    options, environment = uv_options(settings), uv_environment(settings, dict(os.environ))
    uv_install = [str(VENV / "bin" / "uv"), "pip", "install", "--no-deps", *options]
    install_torch(steps, build, options, environment)
    # Compiled once here, as torch is: an engine imports vLLM in 11-12 s instead of 23-28 s, in each of its processes.
    steps.run_or_fail("packages", [*uv_install, "--compile-bytecode", "-r", str(build.lock)], environment)
    # The lock includes setuptools, so the build downloads nothing.
    steps.run_or_fail("distill", [*uv_install, "--no-build-isolation", "--editable", str(ROOT)], environment)
    if build is CPU:
        steps.run_or_fail(
            "DeepSpeed's CPU operator", [str(VENV / "bin" / "python"), "-m", "cluster.deepspeed_op"], environment
        )


def set_up() -> None:
    """Set up .venv, unless it is done already.

    Raises:
        SetupError: the machine lacks something, or a step failed.
    """
    build = find_build()
    if stamp_path(build).exists():
        return
    problems = machine_problems(build)
    if problems:
        raise SetupError("\nsetup: ".join(problems))
    with setup_lock():
        if stamp_path(build).exists():  # another set-up finished while this one waited
            return
        print(f"setting up .venv for {build.name.upper()} (once; about {build.disk_gib} GiB)", file=sys.stderr)
        install(build)
        for old in VENV.glob(".setup-*"):
            old.unlink()
        stamp_path(build).touch()


@contextlib.contextmanager
def setup_lock() -> Iterator[None]:
    """One set-up of a checkout at a time, even with `make -j` or in two terminals. Released if its holder dies."""
    with Path(__file__).open() as this_file:
        fcntl.flock(this_file, fcntl.LOCK_EX)
        yield


def compile_lock(build: Build) -> None:
    """Write the lock of one build from pyproject.toml; it names no index, host or path."""
    settings = read_pip_settings()
    torch = next(line for line in (ROOT / "pyproject.toml").read_text().split('"') if line.startswith("torch=="))
    overrides = VENV / f".overrides-{build.name}.txt"
    turned_off = "\n".join(file.read_text() for file in override_files(build))
    overrides.write_text(f"{turned_off}\n{torch}{build.torch_local}\n")
    command = [
        str(VENV / "bin" / "uv"), "pip", "compile", "--quiet", "--universal", "--python-version", "3.11",
        "--no-annotate", "--no-header", "--no-emit-index-url", "--no-emit-find-links",
        "--extra", build.name, "--extra", "quickstart", "--extra", "publish", "--extra", "dev",
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
    """The lock file: a header, and the rows that the overrides do not disable."""
    rows = [row for row in resolved.splitlines() if "sys_platform == 'never'" not in row or " or " in row]
    note = "" if name == "cpu" else "# Resolved from metadata; not yet installed on a GPU machine.\n"
    extras = f"extras {name}, quickstart, publish, dev"
    made = f"# Made by `make lock` from pyproject.toml ({extras}) and overrides*.txt; do not edit.\n"
    return made + note + "\n".join(rows) + "\n"


def use_fitting_python() -> None:
    """Run again with a supported Python, if this one is too old or too new and the machine has one."""
    if python_problem(sys.version_info[:2]) is None:
        return
    for major, minor in PYTHON_VERSIONS:
        python = shutil.which(f"python{major}.{minor}")
        # A version manager has shims for versions that are not enabled, so the shim is tried.
        if python and subprocess.run([python, "-c", ""], capture_output=True, check=False).returncode == 0:
            os.execv(python, [python, "-m", "cluster.setup", *sys.argv[1:]])


def main(arguments: Sequence[str]) -> int:
    """`python -m cluster.setup [lock]`."""
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
        print("\nsetup: interrupted; the same command continues from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
