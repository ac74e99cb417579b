"""Commands that answer from files, in this checkout beside another one: CPU and wall time.

    git worktree add ../before COMMIT
    python -m tests.benchmarks.commands --before ../before [--repeats N] [--only NAME ...]

Every command is a process of its own; the two checkouts take turns, and of each the median of N is taken. `status` and
`report` read a finished run that each checkout writes for itself, from the fixture of its report's tests,
`report-unfinished` the same run without its last stage; `ask` asks an endpoint of this script. One round that is not
measured goes before, which compiles the sources and converts the quickstart's model. `plan-first` is a plan where the
model was converted and nothing was planned with it. The last line is a JSON object; goal <= 0.5 for
`cpu_ratio_*`.
"""

import argparse
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

from tests.fixtures.paths import ROOT

COMMANDS: Mapping[str, tuple[str, ...]] = {
    "help": ("--help",),
    "status": ("status", "RUN"),
    "report": ("report", "RUN"),
    "report-unfinished": ("report", "UNFINISHED"),
    "plan": ("plan", "quickstart"),
    "plan-first": ("plan", "quickstart"),
    "ask": ("ask", "student", "98 - 63 =", "--url", "URL"),
}
"""Name -> arguments; RUN, UNFINISHED and URL are filled in."""

FABRICATE = """
import json, sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from statistics import median

import pyarrow.compute as pc
import pyarrow.parquet as pq

name = "tests.fixtures.report_run"
fixture = import_module(name if find_spec("tests.fixtures") else "tests.unit.test_report")  # its place in older ones
folder, recipe = Path(sys.argv[1]), fixture.make_recipe()
run_dir = fixture.make_run(folder, recipe)
run_dir.write_bytes(recipe.model_dump_json().encode(), "recipe.json")
further = {"num_steps": 60, "grad_norm": 1.0, "tokens": 900, "supervised_tokens": 700, "seconds": 1.0}
for file in folder.glob("train/*/metrics.jsonl"):
    file.write_text("\\n".join(json.dumps({**json.loads(line), **further}) for line in file.open()))
verdicts = pq.read_table(folder / "verify" / "verdicts.parquet")
for pool in ("long", "short"):
    run_dir.write_table(verdicts.filter(pc.equal(verdicts["pool"], pool)), "generate", f"{pool}-f", "0.parquet")
if sys.argv[2:] and hasattr(fixture, "finish"):  # older ones make no difference
    fixture.finish(run_dir, recipe)
"""
PLACE = "mix-distillation"
"""Folder of ours in the user's cache."""


class Cost(NamedTuple):
    """What one process took, seconds."""

    cpu_s: float
    wall_s: float


class Endpoint(BaseHTTPRequestHandler):
    """Serves one model that answers at once."""

    def do_GET(self) -> None:
        """The list of models."""
        models = [{"id": "student", "object": "model", "created": 0, "owned_by": "us", "metadata": {}}]
        self._reply(json.dumps({"object": "list", "data": models}), "application/json")

    def do_POST(self) -> None:
        """A streamed answer."""
        self.rfile.read(int(self.headers["Content-Length"]))
        head = {"id": "1", "object": "chat.completion.chunk", "created": 0, "model": "student"}
        deltas = [{"role": "assistant", "content": text} for text in ("3", "5")]
        chunks = [{**head, "choices": [{"index": 0, "delta": one, "finish_reason": None}]} for one in deltas]
        lines = [*map(json.dumps, chunks), "[DONE]"]
        self._reply("".join(f"data: {line}\n\n" for line in lines), "text/event-stream")

    def _reply(self, text: str, kind: str) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@contextmanager
def endpoint() -> Iterator[str]:
    """The URL of a running endpoint."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Endpoint)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def environment(checkout: Path, cache: str = "") -> dict[str, str]:
    """What a process of a checkout sees; compiled sources are kept, as an installation has them."""
    found = {**os.environ, "PYTHONPATH": str(checkout)} | ({"XDG_CACHE_HOME": cache} if cache else {})
    found.pop("PYTHONDONTWRITEBYTECODE", None)
    return found


def fresh_cache(folder: str) -> str:
    """A cache that holds the converted models of this machine, and nothing else."""
    mine = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / PLACE
    ours = Path(folder) / PLACE
    ours.mkdir()
    for name in ("models", "digests"):
        (ours / name).symlink_to(mine / name)
    return folder


def timed(checkout: Path, arguments: list[str], cache: str = "") -> Cost:
    """One command in a process of its own."""
    command = [sys.executable, "-m", "distill", *arguments]
    with open(os.devnull, "w") as nowhere:
        started = time.perf_counter()
        process = subprocess.Popen(command, cwd=checkout, env=environment(checkout, cache), stdout=nowhere)
        _, status, used = os.wait4(process.pid, 0)
        wall_s = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{checkout}: distill {' '.join(arguments)} ended with {process.returncode}")
    return Cost(used.ru_utime + used.ru_stime, wall_s)


def measure(name: str, checkout: Path, filled: Mapping[str, str]) -> Cost:
    """One command, by name."""
    arguments = [filled.get(word, word) for word in COMMANDS[name]]
    if name != "plan-first":
        return timed(checkout, arguments)
    with TemporaryDirectory() as folder:
        return timed(checkout, arguments, fresh_cache(folder))


def median_of(
    checkouts: Mapping[str, Path], filled: Mapping[str, Mapping[str, str]], name: str, repeats: int
) -> dict[str, Cost]:
    """Side -> the median CPU and the median wall time of a command; sides take turns."""
    rounds = [{side: measure(name, path, filled[side]) for side, path in checkouts.items()} for _ in range(repeats + 1)]
    return {side: Cost(*map(median, zip(*(one[side] for one in rounds[1:]), strict=True))) for side in checkouts}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, required=True, metavar="DIR", help="another checkout")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="+", choices=COMMANDS, default=list(COMMANDS), metavar="NAME")
    arguments = parser.parse_args()
    checkouts = {"before": arguments.before.resolve(), "now": ROOT}
    result: dict[str, float] = {}
    with TemporaryDirectory() as folder, endpoint() as url:
        filled = {
            side: {"RUN": f"{folder}/{side}", "UNFINISHED": f"{folder}/{side}-unfinished", "URL": url}
            for side in checkouts
        }
        for side, path in checkouts.items():
            for run in ([filled[side]["RUN"], "finish"], [filled[side]["UNFINISHED"]]):
                subprocess.run([sys.executable, "-c", FABRICATE, *run], cwd=path, env=environment(path), check=True)
        for name in arguments.only:
            found = median_of(checkouts, filled, name, arguments.repeats)
            before, now = found["before"], found["now"]
            ratios = {"cpu": now.cpu_s / before.cpu_s, "wall": now.wall_s / before.wall_s}
            print(
                f"{name:17}  CPU {ratios['cpu']:.2f} of before  wall {ratios['wall']:.2f}   CPU {now.cpu_s:6.2f} s "
                f"instead of {before.cpu_s:6.2f} s   wall {now.wall_s:6.2f} s instead of {before.wall_s:6.2f} s",
                flush=True,
            )
            result |= {f"{kind}_ratio_{name}": round(ratio, 3) for kind, ratio in ratios.items()}
            result |= {f"cpu_s_{name}": round(now.cpu_s, 2), f"cpu_s_before_{name}": round(before.cpu_s, 2)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
