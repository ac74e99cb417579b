"""llama.cpp's own server for one GGUF file, on this machine, in a process of its own."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from distill.core.errors import StageError
from distill.ops.publish.gguf import require_packages

PACKAGES = ("xllamacpp",)
READY = "listening at "
START_S = 600.0
"""Longest start: weights are read and a first token is computed."""


@contextmanager
def llama_server(file: Path, *, context_tokens: int, num_parallel: int, log: Path) -> Iterator[str]:
    """The base URL of a server (without `/v1`) that runs until the block ends.

    Args:
        file: the GGUF file.
        context_tokens: longest prompt with its completion.
        num_parallel: requests that it answers at the same time.
        log: where it writes.

    Raises:
        InputError: the runtime is not installed.
        StageError: it did not start.
    """
    require_packages(PACKAGES)
    command = [sys.executable, "-m", "distill.ops.publish.llama_server", str(file)]
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [*command, str(context_tokens), str(num_parallel)],
            stdin=subprocess.PIPE,
            stdout=sink,
            stderr=subprocess.STDOUT,
        )
    try:
        yield _address(process, file, log)
    finally:
        process.terminate()
        process.wait()


def _address(process: "subprocess.Popen[bytes]", file: Path, log: Path) -> str:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        for line in log.read_text(errors="replace").splitlines():
            if line.startswith(READY):
                return line.removeprefix(READY)
        time.sleep(0.2)
    last = "".join(log.read_text(errors="replace").splitlines()[-1:])
    raise StageError(f"llama.cpp did not start on {file.name}: {last} -> its log: {log}")


def main(file: str, context_tokens: int, num_parallel: int) -> None:
    """Serve until standard input closes: the server ends with the process that started it, however that ends."""
    import xllamacpp

    settings = xllamacpp.CommonParams()
    settings.model.path = file
    settings.n_ctx, settings.n_parallel, settings.port = context_tokens * num_parallel, num_parallel, 0
    settings.cpuparams.n_threads = settings.cpuparams_batch.n_threads = os.cpu_count() or 1
    # The verifier reads the reasoning in the text, as that of our own endpoints.
    settings.reasoning_format = xllamacpp.common_reasoning_format.COMMON_REASONING_FORMAT_NONE
    # What requests leave out is off, as in our engines: llama.cpp would cut to the 40 likeliest tokens.
    settings.sampling.top_k, settings.sampling.min_p, settings.sampling.top_p = 0, 0.0, 1.0
    server = xllamacpp.Server(settings)
    print(f"\n{READY}{server.listening_address}", flush=True)
    sys.stdin.buffer.read()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
