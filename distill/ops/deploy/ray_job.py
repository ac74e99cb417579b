"""`distill submit`: a run as a Ray job, on a cluster that this machine only talks to.

What travels is this code and the recipe, a few hundred kilobytes; data never does. The run directory decides what is
left to do, so the same command starts a run, goes on with a broken one, or looks at one that is under way.
"""

import asyncio
import shlex
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from cluster.storage import is_address
from distill.config.recipe import Recipe, benchmark_configs
from distill.config.sources import FileSource
from distill.config.teachers import DatasetTeacher
from distill.core.errors import InputError, StageError
from distill.core.run_dir import RunDir
from distill.core.schema import content_hash

ROOT = Path(__file__).parents[3]
CODE = ("cluster", "distill", "serve")
LEFT_OUT = shutil.ignore_patterns("__pycache__", "*.pyc", "*.png")
RECIPE = "recipe.json"
MAX_UPLOAD_MIB = 20.0
"""Ray takes 100; this code and a recipe need less than 2."""
UNDER_WAY = ("PENDING", "RUNNING")


def job_base(run_uri: str, name: str) -> str:
    """What the jobs of a run directory are called; a number follows, as Ray takes no name twice."""
    return f"distill-{name}-{content_hash(run_uri)[:8]}"


def next_job(base: str, jobs: Iterable[tuple[str, str]]) -> tuple[str, bool]:
    """(job, whether it is under way already) from the (name, status) of all jobs of a cluster."""
    mine = [(name, status) for name, status in jobs if name and name.rpartition("-")[0] == base]
    running = [name for name, status in mine if status in UNDER_WAY]
    if running:
        return running[-1], True
    numbers = [int(name.rpartition("-")[2]) for name, _ in mine if name.rpartition("-")[2].isdigit()]
    return f"{base}-{max(numbers, default=0) + 1}", False


def input_files(recipe: Recipe) -> list[str]:
    """The files that prompts, imported traces and benchmarks are read from, as the recipe names them."""
    imported = [teacher.source for teacher in recipe.teachers if isinstance(teacher, DatasetTeacher)]
    benchmarks = [one.source for one in benchmark_configs(recipe).values()]
    return [one.path for one in [*recipe.prompts.sources, *imported, *benchmarks] if isinstance(one, FileSource)]


def local_files(recipe: Recipe) -> list[str]:
    """Input files that only this machine has: named relative to the recipe."""
    return [path for path in input_files(recipe) if not is_address(path) and not path.startswith("/")]


def refuse_unreachable(recipe: Recipe, run_dir: RunDir, told: str) -> None:
    """What a cluster could not see.

    Raises:
        InputError: a relative run directory, or input files that lie beside the recipe.
    """
    if run_dir.is_local and not told.startswith(("/", "file:")):
        raise InputError(
            f"--run-dir {told} is a folder of this machine -> name shared storage: s3://..., gs://... or a mounted path"
        )
    if files := local_files(recipe):
        raise InputError(
            f"{', '.join(files)}: relative to the recipe, and data is not uploaded -> put it on shared storage and "
            "name it by its URI or absolute path"
        )


def pack(recipe: Recipe, folder: Path) -> None:
    """Put the code and the recipe into a folder.

    Raises:
        InputError: it is larger than a job should be; names the largest files.
    """
    for package in CODE:
        shutil.copytree(ROOT / package, folder / package, ignore=LEFT_OUT)
    (folder / RECIPE).write_text(recipe.model_dump_json(indent=1))
    refuse_large({str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()})


def refuse_large(sizes: dict[str, int]) -> None:
    """An upload that has more in it than code.

    Raises:
        InputError: names the largest files.
    """
    total = sum(sizes.values()) / 2**20
    if total > MAX_UPLOAD_MIB:
        largest = sorted(sizes, key=lambda name: -sizes[name])[:3]
        named = ", ".join(f"{name} ({sizes[name] / 2**20:.1f} MiB)" for name in largest)
        raise InputError(f"the upload has {total:.1f} MiB, {MAX_UPLOAD_MIB:g} are allowed: {named} -> move them away")


def submit(recipe: Recipe, told: str, address: str | None, console: Console, *, wait: bool) -> int:
    """Start the run as a job, or attach to it where it is under way; stream what it says.

    Raises:
        InputError: the cluster is not there, or could not see the run's files.
        StageError: the job failed.
    """
    run_dir = RunDir(told)
    refuse_unreachable(recipe, run_dir, told)
    client = _client(address)
    job, is_under_way = next_job(job_base(run_dir.uri, recipe.name), _jobs(client))
    if is_under_way:
        console.print(f"{job} is under way; attached", markup=False)
    else:
        with TemporaryDirectory(prefix="distill-submit-") as folder:
            pack(recipe, Path(folder) / "upload")
            client.submit_job(
                entrypoint=f"python -m distill run {RECIPE} --run-dir {shlex.quote(run_dir.uri)}",
                submission_id=job,
                runtime_env={"working_dir": str(Path(folder) / "upload")},
                metadata={"run": run_dir.uri, "recipe": recipe.name},
            )
        console.print(f"{job} submitted", markup=False)
    return _follow(client, job, console) if wait else 0


def stop(recipe: Recipe, told: str, address: str | None, console: Console) -> int:
    """Stop the run's job; what is finished stays, and the same command goes on later."""
    client = _client(address)
    job, is_under_way = next_job(job_base(RunDir(told).uri, recipe.name), _jobs(client))
    if not is_under_way:
        console.print("no job of this run is under way")
        return 0
    client.stop_job(job)
    console.print(f"{job} is being stopped; what is finished is in {told}", markup=False)
    return 0


def _client(address: str | None) -> Any:
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except (ConnectionError, RuntimeError) as error:
        raise InputError(
            f"no Ray dashboard at {address or 'RAY_ADDRESS'}: {error} -> --address http://HEAD:8265, or a tunnel to it "
            "(ray dashboard CLUSTER.yaml)"
        ) from error


def _jobs(client: Any) -> Sequence[tuple[str, str]]:
    return [(job.submission_id or "", str(job.status.value)) for job in client.list_jobs()]


def _follow(client: Any, job: str, console: Console) -> int:
    try:
        asyncio.run(_stream(client, job, console))
    except KeyboardInterrupt:
        console.print(f"\nleft; {job} goes on. The same command comes back to it, with --stop it ends", markup=False)
        return 0
    status = client.get_job_info(job)
    if str(status.status.value) == "SUCCEEDED":
        return 0
    raise StageError(f"{job}: {status.status.value}: {status.message or 'no message'}")


async def _stream(client: Any, job: str, console: Console) -> None:
    async for lines in client.tail_job_logs(job):
        console.print(lines, end="", markup=False, highlight=False)
