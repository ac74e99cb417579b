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
    # Told in a file of its own: llama.cpp writes its log into the middle of any line of ours.
    address = log.with_name(f"{log.name}.address")
    address.unlink(missing_ok=True)
    command = [sys.executable, "-m", "distill.ops.publish.llama_server", str(file)]
    with log.open("wb") as sink:
        process = subprocess.Popen(
            [*command, str(context_tokens), str(num_parallel), str(address)],
            stdin=subprocess.PIPE,
            stdout=sink,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C in the terminal is for whoever reads the answers
        )
    try:
        _wait_for(address, process, file, log)
        yield address.read_text()
    finally:
        process.terminate()
        process.wait()
        address.unlink(missing_ok=True)


def _wait_for(address: Path, process: "subprocess.Popen[bytes]", file: Path, log: Path) -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and process.poll() is None:
        if address.exists():
            return
        time.sleep(0.2)
    last = "".join(log.read_text(errors="replace").splitlines()[-1:])
    raise StageError(f"llama.cpp did not start on {file.name}: {last} -> its log: {log}")


def main(file: str, context_tokens: int, num_parallel: int, address: Path) -> None:
    """Serve at an address that a file then holds, until standard input closes: its parent may end in any way."""
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
    whole = address.with_name(f"{address.name}.part")
    whole.write_text(server.listening_address)
    whole.replace(address)
    sys.stdin.buffer.read()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
