"""`distill submit`: runs a recipe as a Ray job on a remote cluster.

Only this code and the recipe are uploaded, a few hundred kilobytes, never data. The run directory decides what is left
to do, so the same command starts a run, continues a failed one, or attaches to an active one.
"""

import asyncio
import shlex
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console

from cluster.storage import canonical_address, is_uri
from cluster.units import MIB
from distill.config.recipe import Recipe, benchmark_configs
from distill.config.sources import FileSource
from distill.config.teachers import DatasetTeacher
from distill.core.errors import InputError, StageError
from distill.core.run_dir import RunDir
from distill.core.schema import content_hash

ROOT = Path(__file__).parents[3]
CODE = ("cluster", "distill", "serve")
EXCLUDED_FILES = shutil.ignore_patterns("__pycache__", "*.pyc", "*.png")
RECIPE = "recipe.json"
MAX_UPLOAD_MIB = 20.0
"""Ray allows 100; this code and a recipe need less than 2."""
ACTIVE_STATES = ("PENDING", "RUNNING")


def job_base(run_uri: str, name: str) -> str:
    """Common name of the jobs of a run directory, in whatever spelling; a number follows, since Ray accepts no name
    twice."""
    return f"distill-{name}-{content_hash(canonical_address(run_uri))[:8]}"


def next_job(base: str, jobs: Iterable[tuple[str, str]]) -> tuple[str, bool]:
    """(job name, whether it is active already) from the (name, status) of all jobs of a cluster.

    Jobs of one run directory are one run's, also where the recipe has got another name in between.
    """
    run = base.rpartition("-")[2]
    mine = [(name, status) for name, status in jobs if name.startswith("distill-") and name.split("-")[-2] == run]
    running = [name for name, status in mine if status in ACTIVE_STATES]
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
    """Input files that only this machine has: paths relative to the recipe."""
    return [path for path in input_files(recipe) if not is_uri(path) and not path.startswith("/")]


def validate_reachable(recipe: Recipe, run_dir: RunDir, run_uri: str) -> None:
    """Check that a cluster can read the run directory and all input files.

    Raises:
        InputError: a relative run directory, or input files relative to the recipe.
    """
    if run_dir.is_local and not run_uri.startswith(("/", "file:")):
        raise InputError(
            f"--run-dir {run_uri} is a folder of this machine -> use shared storage: s3://..., gs://... or a mounted "
            "path"
        )
    if files := local_files(recipe):
        raise InputError(
            f"{', '.join(files)}: relative to the recipe, and data is not uploaded -> put it on shared storage and "
            "use its URI or absolute path"
        )


def pack(recipe: Recipe, folder: Path) -> None:
    """Copy the code and the recipe into a folder for upload.

    Raises:
        InputError: it is too large.
    """
    for package in CODE:
        shutil.copytree(ROOT / package, folder / package, ignore=EXCLUDED_FILES)
    (folder / RECIPE).write_text(recipe.model_dump_json(indent=1))
    validate_upload_size(
        {str(path.relative_to(folder)): path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    )


def validate_upload_size(sizes: dict[str, int]) -> None:
    """Check that an upload holds no more than code.

    Raises:
        InputError: it does; names the largest files.
    """
    total = sum(sizes.values()) / MIB
    if total > MAX_UPLOAD_MIB:
        largest = sorted(sizes, key=lambda name: -sizes[name])[:3]
        named = ", ".join(f"{name} ({sizes[name] / MIB:.1f} MiB)" for name in largest)
        raise InputError(f"the upload has {total:.1f} MiB, {MAX_UPLOAD_MIB:g} are allowed: {named} -> move them away")


def submit(recipe: Recipe, run_uri: str, address: str | None, console: Console, *, wait: bool) -> int:
    """Start the run as a job, or attach to its active job; stream its log.

    Raises:
        InputError: the cluster cannot be reached, or could not read the run's files.
        StageError: the job failed.
    """
    run_dir = RunDir(run_uri)
    validate_reachable(recipe, run_dir, run_uri)
    client = _client(address)
    job, is_active = next_job(job_base(run_uri, recipe.name), _jobs(client))
    if is_active:
        console.print(f"attached to {job}, which is active already", markup=False)
    else:
        with TemporaryDirectory(prefix="distill-submit-") as folder:
            pack(recipe, Path(folder) / "upload")
            client.submit_job(
                entrypoint=f"python -m distill run {RECIPE} --run-dir {shlex.quote(run_dir.address)}",
                submission_id=job,
                runtime_env={"working_dir": str(Path(folder) / "upload")},
                metadata={"run": run_dir.address, "recipe": recipe.name},
            )
        console.print(f"{job} submitted", markup=False)
    return _follow(client, job, console) if wait else 0


def stop(recipe: Recipe, run_uri: str, address: str | None, console: Console) -> int:
    """Stop the run's job; finished work stays, and submitting again continues it."""
    client = _client(address)
    job, is_active = next_job(job_base(run_uri, recipe.name), _jobs(client))
    if not is_active:
        console.print("this run has no active job")
        return 0
    client.stop_job(job)
    console.print(f"stopping {job}; finished work stays in {run_uri}", markup=False)
    return 0


def _client(address: str | None) -> Any:
    from ray.exceptions import AuthenticationError
    from ray.job_submission import JobSubmissionClient

    try:
        return JobSubmissionClient(address)
    except AuthenticationError as error:
        told = str(error).partition(" Note:")[0]
        raise InputError(
            f"the Ray cluster at {address or 'RAY_ADDRESS'} wants a token: {told} -> set RAY_AUTH_MODE=token, and have "
            "its token in ~/.ray/auth_token"
        ) from error
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
        console.print(
            f"\ndetached; {job} continues. The same command attaches to it again; --stop stops it", markup=False
        )
        return 0
    status = client.get_job_info(job)
    if str(status.status.value) == "SUCCEEDED":
        return 0
    raise StageError(f"{job}: {status.status.value}: {status.message or 'no message'}")


async def _stream(client: Any, job: str, console: Console) -> None:
    async for lines in client.tail_job_logs(job):
        console.print(lines, end="", markup=False, highlight=False)
