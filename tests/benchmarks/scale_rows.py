"""One size of `tests.benchmarks.scale`: so many prompts through the generate and verify stages on a local cluster.

    python -m tests.benchmarks.scale_rows --rows N [--row-ms 2] [--nodes 3]

Three Ray nodes in this machine, each with an object store of 150 MB. Everything is the project's own (survey, Ray Data
job, asking, verifier, shards, progress actor, manifest) but the engine: a stub that answers after some milliseconds.
Prints what it used as one JSON line: time, CPU, memory of the driver and of the object stores, files.
"""

import argparse
import asyncio
import json
import os
import re
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
from rich.console import Console

from distill.config.load import find_recipe, load_recipe
from distill.core.run_dir import PROMPTS, RunDir, rows_table
from distill.core.schema import AnswerKind, Prompt, arrow_schema, prompt_id
from distill.generate import ask_job
from distill.generate.asker import Asker, Completion, TeacherJob
from distill.generate.pools import Request
from distill.generate.progress_actor import start_progress_actor
from distill.generate.stage import generate_stage
from distill.run.context import RunContext
from distill.run.pools import Pool
from distill.verify.stage import verify_stage

STORE_BYTES = 150_000_000
"""Object store of one node: twice what Ray accepts at least."""
SAMPLE_S = 1.0
WINDOW = 64
"""Requests that one stub engine works on."""
WRITE_ROWS = 50_000


class StubEngine:
    """An engine actor without a model: right three times out of four."""

    def __init__(self, job: TeacherJob, row_ms: float) -> None:
        self.row_s = row_ms / 1000
        self.window = asyncio.Semaphore(WINDOW)
        self.asker = Asker(job, self.write)
        job.progress.engine_ready.remote()

    async def __call__(self, batch: pa.Table) -> pa.Table:
        """Ask a chunk of prompts; the same row with their new states."""
        return await self.asker.answer_table(batch)

    async def write(self, request: Request, pool: Pool, problem: str) -> Completion:
        """One completion, after the time that a sequence takes in a batch of `WINDOW`."""
        async with self.window:
            await asyncio.sleep(self.row_s)
        first, second = map(int, re.findall(r"\d+", problem))
        answer = first + second + (request.seed % 4 == 0)
        text = f"We add {second} to {first}. " * 8 + f"The answer is \\boxed{{{answer}}}."
        return Completion(text, "stop", prompt_tokens=24, completion_tokens=96, engine="stub")


def stub_engines(num_engines: int, row_ms: float, engine: type[StubEngine] = StubEngine) -> Any:
    """What takes the place of `ask_vllm`."""
    from ray.data import ActorPoolStrategy

    def ask(chunks: Any, job: TeacherJob, device: str) -> Any:
        return chunks.map_batches(
            engine,
            fn_constructor_args=(job, row_ms),
            batch_size=1,
            batch_format="pyarrow",
            compute=ActorPoolStrategy(size=num_engines),
            max_concurrency=8,
            num_cpus=0.5,
        )

    return ask


def write_prompts(run_dir: RunDir, num_rows: int) -> None:
    """The prompts file of a run."""
    with run_dir.table_writer(arrow_schema(Prompt), *PROMPTS) as writer:
        for start in range(0, num_rows, WRITE_ROWS):
            stop = min(num_rows, start + WRITE_ROWS)
            writer.write_table(rows_table(map(prompt, range(start, stop)), Prompt), row_group_size=8192)


def prompt(number: int) -> Prompt:
    """One of the sums."""
    problem = f"What is {number} + {number % 97}?"
    return Prompt(
        prompt_id=prompt_id(problem),
        problem=problem,
        reference=str(number + number % 97),
        answer_kind=AnswerKind.NUMBER,
        source="stub",
        level="",
        subject="",
        entry="",
    )


class Watcher(threading.Thread):
    """Memory of the driver, Ray's own processes and the object stores, sampled."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.driver = psutil.Process()
        self.ended = threading.Event()
        self.samples: list[dict[str, float]] = []

    def run(self) -> None:
        """Until told to end."""
        while not self.ended.wait(SAMPLE_S):
            self.samples.append({"driver": self.driver.memory_info().rss, **ray_memory(), **object_stores()})

    def peak(self, name: str) -> float:
        """Largest value, MB."""
        return round(max((sample.get(name, 0.0) for sample in self.samples), default=0.0) / 1e6, 1)

    def at(self, name: str, share: float, last: int | None = None) -> float:
        """Value after a share of the samples, or of the first `last` of them, MB."""
        end = len(self.samples) if last is None else last
        return round(self.samples[int(share * (end - 1))].get(name, 0.0) / 1e6, 1)


def ray_memory() -> dict[str, float]:
    """Resident bytes of the control process, of the fullest raylet and of the progress actor."""
    found: dict[str, float] = {}
    for process in psutil.Process().children(recursive=True):
        try:
            name, rss = " ".join(process.cmdline()[:1]), float(process.memory_info().rss)
        except psutil.Error:
            continue
        for word in ("gcs_server", "raylet", "ProgressActor", "StubEngine"):
            if word in name:
                found[word] = max(found.get(word, 0.0), rss)
    return found


def object_stores() -> dict[str, float]:
    """Bytes used and spilt, the fullest node."""
    import ray
    from ray._private.internal_api import node_stats

    used = spilled = 0.0
    for node in ray.nodes():
        if node["Alive"]:
            stats = node_stats(
                node["NodeManagerAddress"], node["NodeManagerPort"], include_memory_info=False
            ).store_stats
            used, spilled = max(used, stats.object_store_bytes_used), spilled + stats.spilled_bytes_total
    return {"store": used, "spilled": spilled}


def cpu_seconds() -> float:
    """Of this process and all below it."""
    total = sum(psutil.Process().cpu_times()[:2])
    for process in psutil.Process().children(recursive=True):
        try:
            total += sum(process.cpu_times()[:2])
        except psutil.Error:
            continue
    return float(total)


def progress_reports_per_s(num_reports: int = 5000) -> float:
    """Progress reports that the progress actor takes from one sender."""
    import ray

    progress = start_progress_actor(complete=0, enough_prompts=None, spent_tokens={})
    ray.get(progress.snapshot.remote())
    started = time.monotonic()
    for _ in range(num_reports):
        progress.add.remote({"traces": 32, "tokens": 3200, "correct": 20, "prompts": 32}, 16)
    ray.get(progress.snapshot.remote())
    return round(num_reports / (time.monotonic() - started), 1)


def start_cluster(num_nodes: int, resources: ExitStack) -> None:
    """Several nodes in this machine, joined as a run joins a cluster."""
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 2, "object_store_memory": STORE_BYTES}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    for _ in range(num_nodes - 1):
        cluster.add_node(**node)
    os.environ["RAY_ADDRESS"] = cluster.address
    resources.callback(cluster.shutdown)


def stub_run(folder: Path, rows: int, resources: ExitStack) -> RunContext:
    """So many prompts before one teacher, whose engine is to be a stub."""
    path = find_recipe("quickstart")
    recipe = load_recipe(path, ["teachers.short.num_samples=1"])
    recipe = recipe.model_copy(update={"teachers": recipe.teachers[:1], "mixes": recipe.mixes[:1]})
    current = RunContext(recipe, path.parent, RunDir(str(folder)), Console(stderr=True), resources)
    vars(current)["pools"] = (Pool(recipe.teachers[0], "stub", "0000000000000000"),)
    write_prompts(current.run_dir, rows)
    return current


def measure(folder: Path, rows: int, row_ms: float, num_nodes: int) -> dict[str, Any]:
    """Both stages; what they used."""
    ask_job.ask_vllm = stub_engines(num_nodes, row_ms)
    with ExitStack() as resources:
        start_cluster(num_nodes, resources)
        current = stub_run(folder, rows, resources)
        assert current.session.num_cpus == 2 * num_nodes
        found = staged(current, rows, folder) | {"progress_reports_per_s": progress_reports_per_s()}
        resources.pop_all().close()
    return found


def staged(current: RunContext, rows: int, folder: Path) -> dict[str, Any]:
    """The stages under the eye of a watcher."""
    watcher, cpu, started = Watcher(), cpu_seconds(), time.monotonic()
    consume, written = ask_job.consume, list[int]()

    def consume_and_record(*arguments: Any) -> None:
        consume(*arguments)
        written.append(len(watcher.samples))

    ask_job.consume = consume_and_record
    watcher.start()
    manifest = generate_stage(current)
    wall_s, cpu_s, generated = time.monotonic() - started, cpu_seconds() - cpu, len(watcher.samples)
    started = time.monotonic()
    verify_stage(current)
    verify_s = time.monotonic() - started
    watcher.ended.set()
    watcher.join()
    verifying = watcher.samples[generated:]
    watcher.samples = watcher.samples[:generated]
    busy_s = manifest.details["busy_s"]
    assert manifest.rows_out == rows, manifest
    return {
        "rows": rows,
        "rows_per_s": round(rows / busy_s, 1),
        "wall_ms_per_row": round(1000 * wall_s / rows, 3),
        "cpu_ms_per_row": round(1000 * cpu_s / rows, 3),
        "wall_s": round(wall_s, 1),
        "busy_s": round(busy_s, 1),
        "verify_s": round(verify_s, 1),
        "driver_mb": {
            "begin": watcher.at("driver", 0.0),
            "quarter": watcher.at("driver", 0.25, written[0]),
            "written": watcher.at("driver", 1.0, written[0]),
            "peak": watcher.peak("driver"),
        },
        "verify_driver_mb": round(max((one["driver"] for one in verifying), default=0.0) / 1e6, 1),
        "store_mb": {
            "half": watcher.at("store", 0.5),
            "peak": watcher.peak("store"),
            "spilled": watcher.peak("spilled"),
        },
        "gcs_mb": watcher.peak("gcs_server"),
        "raylet_mb": watcher.peak("raylet"),
        "progress_actor_mb": watcher.peak("ProgressActor"),
        "engine_mb": {"half": watcher.at("StubEngine", 0.5), "peak": watcher.peak("StubEngine")},
        "shards": sum(1 for _ in (folder / "generate").glob("*/*.parquet")),
    }


def main() -> None:
    """Print the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000, metavar="N")
    parser.add_argument("--row-ms", type=float, default=2.0, help="what the stub engine takes for a row")
    parser.add_argument("--nodes", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(measure(Path(folder), arguments.rows, arguments.row_ms, arguments.nodes)))


if __name__ == "__main__":
    main()
