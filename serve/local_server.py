"""One model's endpoint without Ray Serve and without a cluster, in processes of its own: for one person on a laptop.

The ingress, admission control and the engine are those of `serve.app`, so that the answers are, too. Only the way from
one to the other is shorter: a call within one process.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cluster.leftovers import scratch_folder
from cluster.vllm_args import engine_env, served_threads
from serve.config import Endpoint, ServeConfig
from serve.errors import ServeError

APP = "serve.local_app"
"""Module of the processes."""
POLL_S = 0.2
STOP_S = 20.0
"""Seconds that the processes have to end by themselves."""


@contextmanager
def local_server(endpoint: Endpoint, config: ServeConfig, log: Path) -> Iterator[str]:
    """The base URL of a model's endpoint (without `/v1`) that runs until the block ends.

    Its processes have a session of their own: Ctrl-C in the terminal is for whoever reads the answers. They end when
    this process does, in whatever way.

    Args:
        endpoint: the model.
        config: how it is served; the port is always a free one.
        log: where its processes write.

    Raises:
        ServeError: it did not start.
    """
    address = log.with_name(f"{log.name}.address")
    address.unlink(missing_ok=True)
    command = [sys.executable, "-m", APP, endpoint.model_dump_json(), config.model_dump_json()]
    threads = config.cpu_threads or served_threads(endpoint.source)
    with scratch_folder(), log.open("wb") as sink:
        process = subprocess.Popen(
            [*command, str(address)],
            env=os.environ | engine_env(config.device, endpoint.source, threads),
            stdin=subprocess.PIPE,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            yield _started(process, address, endpoint, config, log)
            _stop(process)
        finally:
            with suppress(ProcessLookupError):  # its whole session has ended
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            address.unlink(missing_ok=True)


def _started(
    process: subprocess.Popen[bytes], address: Path, endpoint: Endpoint, config: ServeConfig, log: Path
) -> str:
    deadline = time.monotonic() + config.startup_deadline_s
    while time.monotonic() < deadline and process.poll() is None:
        if address.exists():
            return address.read_text()
        time.sleep(POLL_S)
    lines = log.read_text(errors="replace").splitlines()
    why = lines[-1] if process.poll() is not None and lines else f"no answer in {config.startup_deadline_s:.0f} s"
    raise ServeError(f"the engine of {endpoint.name} did not start: {why} -> its log: {log}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Let the server end by itself, which it does where its input ends: its engine then removes its files."""
    assert process.stdin is not None
    process.stdin.close()
    with suppress(subprocess.TimeoutExpired):
        process.wait(STOP_S)
