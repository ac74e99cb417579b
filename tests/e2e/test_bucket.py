"""A whole run whose directory is a bucket, killed twice: nothing but a cache of models is on the machine's disk.

Needs an S3 server, named so: `TEST_S3_ENDPOINT=http://127.0.0.1:5000 pytest -m long tests/e2e/test_bucket.py`.
MinIO is one; `moto_server` another, out of an environment of its own (its libraries want older versions of ours).
"""

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from pyarrow.fs import S3FileSystem

from distill.core.run_dir import RunDir, StageName
from distill.core.schema import Trace
from distill.run.run_recipe import load_run_recipe
from distill.train.attempts import read_attempts
from distill.train.cells import all_cells
from tests.fixtures.pipeline_run import NUM_SOLVABLE, Setup

ENDPOINT = os.environ.get("TEST_S3_ENDPOINT", "")
CHECKPOINTS = "train/*/checkpoints/*/complete.json"

pytestmark = [
    pytest.mark.long,
    pytest.mark.timeout(3000),
    pytest.mark.skipif(not ENDPOINT, reason="TEST_S3_ENDPOINT names no S3 server"),
]


@pytest.fixture
def run_dir(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[RunDir]:
    """An empty run directory in a new bucket."""
    variables = {
        "AWS_ENDPOINT_URL": ENDPOINT,
        "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": os.environ.get("AWS_ACCESS_KEY_ID", "key"),
        "AWS_SECRET_ACCESS_KEY": os.environ.get("AWS_SECRET_ACCESS_KEY", "secret"),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    bucket = f"test-{uuid.uuid4().hex[:8]}"
    S3FileSystem(region="us-east-1", endpoint_override=ENDPOINT, allow_bucket_creation=True).create_dir(bucket)
    yield RunDir(f"s3://{bucket}/runs/tiny")


def start(recipe: Path, run_dir: RunDir, log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "distill", "run", str(recipe), "--run-dir", run_dir.uri]
    with log.open("ab") as output:
        return subprocess.Popen([*command, "train.num_epochs=60"], stdout=output, stderr=subprocess.STDOUT)


def kill_when(driver: "subprocess.Popen[bytes]", is_time: Callable[[], bool], log: Path) -> None:
    deadline = time.monotonic() + 900
    while not is_time():
        assert driver.poll() is None and time.monotonic() < deadline, log.read_text()[-3000:]
        time.sleep(0.2)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()


def there(run_dir: RunDir, pattern: str) -> list[str]:
    return [str(path) for path in run_dir.fs.glob(run_dir.path(pattern))]


def traces(run_dir: RunDir) -> list[tuple[str, str]]:
    folders = {path.rsplit("/", 2)[1] for path in there(run_dir, "generate/*-*/*.parquet")}
    tables = [run_dir.read_table("generate", folder, row_type=Trace) for folder in sorted(folders)]
    return [(row["trace_id"], row["completion"]) for table in tables for row in table.to_pylist()]


def test_a_run_in_a_bucket_resumes_after_two_kills_and_loses_and_repeats_nothing(
    setup: Setup, run_dir: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log, started = tmp_path / "log", time.monotonic()
    kill_when(start(setup.recipe, run_dir, log), lambda: bool(there(run_dir, "generate/*-*/*.parquet")), log)
    before = traces(run_dir)
    kill_when(start(setup.recipe, run_dir, log), lambda: bool(there(run_dir, CHECKPOINTS)), log)
    assert start(setup.recipe, run_dir, log).wait(timeout=1500) == 0, log.read_text()[-3000:]
    after = traces(run_dir)
    assert set(before) <= set(after), "a trace that was in the bucket was lost or written again"
    assert len(after) == len({name for name, _ in after}) == 2 * 4 * (NUM_SOLVABLE + 2)
    assert all(run_dir.read_manifest(stage) is not None for stage in StageName)
    attempts = {cell.name: read_attempts(run_dir, cell.name) for cell in all_cells(load_run_recipe(run_dir))}
    resumed = {cell: [one.first_step for one in lives] for cell, lives in attempts.items()}
    assert any(step > 0 for steps in resumed.values() for step in steps), f"no cell was continued: {resumed}"
    assert run_dir.fs.exists(run_dir.path("report", "report.html"))
    fetched = {path.name for path in (tmp_path / "cache").glob("mix-distillation/models/fetched-*/*")}
    assert {"model", "adapter"} <= fetched, "the engines did not take the students out of the bucket"
    size = len(log.read_text())
    assert start(setup.recipe, run_dir, log).wait(timeout=300) == 0
    assert "nothing to do" in log.read_text()[size:]
    with capsys.disabled():
        print(
            f"\n{time.monotonic() - started:.0f} s; {len(before)} of {len(after)} traces at the kill; steps {resumed}"
        )
