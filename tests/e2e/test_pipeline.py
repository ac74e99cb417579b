"""The whole pipeline through the command line: killed twice, finished, started again, edited."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from distill.core.run_dir import RunDir, StageName
from distill.core.schema import Dropped, Example, Message, Score, Trace
from distill.ops.deploy.endpoint import BenchmarkChecker
from distill.run.run_recipe import load_run_recipe
from serve.config_file import read_arguments
from tests.fixtures.paths import ROOT
from tests.fixtures.pipeline_run import NUM_SOLVABLE, Setup


def kill_when(setup: Setup, is_time: Callable[[], bool]) -> None:
    """Start the run and kill its driver, without a chance to clean up, as soon as `is_time()`."""
    driver = subprocess.Popen(setup.command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    deadline = time.monotonic() + 400
    while not is_time():
        assert driver.poll() is None, driver.stdout.read() if driver.stdout else ""
        assert time.monotonic() < deadline, "the moment to kill the run never came"
        time.sleep(0.05)
    os.kill(driver.pid, signal.SIGKILL)
    driver.wait()


def finish(setup: Setup, *overrides: str) -> str:
    result = subprocess.run([*setup.command, *overrides], capture_output=True, text=True, timeout=580)
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout


@pytest.fixture(scope="module")
def finished(setup: Setup) -> str:
    """Killed while traces are written, killed while students are trained, then finished; what the last start said."""
    kill_when(setup, lambda: any(setup.run.glob("generate/*-*/*.parquet")))
    first = {path: path.stat().st_mtime_ns for path in setup.run.glob("generate/*-*/*.parquet")}
    kill_when(setup, lambda: any(path.stat().st_size for path in setup.run.glob("train/*/metrics.jsonl")))
    kept = {path: stamp for path, stamp in first.items() if path.exists()}  # partial shards end in that of their batch
    assert all(path.stat().st_mtime_ns == stamp for path, stamp in kept.items()), "a finished shard was written again"
    return finish(setup)


def test_a_killed_run_continues_and_no_trace_is_lost_or_repeated(setup: Setup, finished: str) -> None:
    assert "already done: prompts, generate" in finished
    run_dir = RunDir(str(setup.run))
    for folder in setup.run.glob("generate/*-*"):
        ids = [row["trace_id"] for row in run_dir.read_table("generate", folder.name, row_type=Trace).to_pylist()]
        assert len(ids) == len(set(ids)) == 4 * (NUM_SOLVABLE + 2)


def test_every_stage_accounts_for_its_rows(setup: Setup, finished: str) -> None:
    run_dir = RunDir(str(setup.run))
    for stage in StageName:
        manifest = run_dir.read_manifest(stage)
        assert manifest is not None
        assert manifest.rows_in == manifest.rows_out + sum(manifest.drops.values())


def test_bad_rows_are_kept_aside_with_reasons(setup: Setup, finished: str) -> None:
    rows = RunDir(str(setup.run)).read_table("prompts", "dropped.parquet", row_type=Dropped).to_pylist()
    reasons = sorted(row["reason"] for row in rows)
    assert reasons == [
        "duplicate",
        "empty problem",
        "not JSON: JSONDecodeError",
        "problem is not text",
        "problem too long",
    ]


def test_only_solved_prompts_are_taught_in_the_asked_share(setup: Setup, finished: str) -> None:
    rows = RunDir(str(setup.run)).read_table("mix", "mix-long.parquet", row_type=Example).to_pylist()
    assert 5 <= len(rows) <= NUM_SOLVABLE
    assert sum(row["pool"] == "long" for row in rows) == round(0.2 * len(rows))
    assert all(Message(**row["messages"][-1]).role == "assistant" for row in rows)
    lines = {(row["style"], row["messages"][0]["content"]) for row in rows}
    assert lines == {("long", "Think step by step."), ("short", "Be brief.")}


def test_the_loss_falls_and_no_step_is_taken_twice(setup: Setup, finished: str) -> None:
    for cell in ("lora@mix-long", "full@mix-long"):
        lines = [json.loads(line) for line in (setup.run / "train" / cell / "metrics.jsonl").read_text().splitlines()]
        steps = [line["step"] for line in lines]
        assert steps == list(range(1, len(steps) + 1))
        assert lines[-1]["loss"] < lines[0]["loss"]


def test_students_are_scored_in_each_mode_and_the_untrained_ones_without_one(setup: Setup, finished: str) -> None:
    trained = [f"{student}@mix-long:{mode}" for student in ("lora", "full") for mode in ("long", "short")]
    made = ("short+full@mix-long", "long+budget-4", "long+budget-16", "long+think", "long+language")
    arms = [f"lora@mix-long:{arm}" for arm in made]
    for model in ("lora", "full", *trained, *arms, "lora@mix-long+auto"):
        table = RunDir(str(setup.run)).read_table("evaluate", model, "held-out.parquet", row_type=Score)
        assert table.num_rows == 6
        assert "ERROR" not in table.column("verdict").to_pylist()
        told = table.select(["told_letters", "own_letters"]).to_pylist()
        assert all(0 <= row["own_letters"] <= row["told_letters"] for row in told)


def test_the_report_is_one_file_without_outside_resources(setup: Setup, finished: str) -> None:
    page = (setup.run / "report" / "report.html").read_text()
    assert "lora@mix-long:short+full@mix-long" in page
    assert "By the language of the prompts" in page and "long+language" in page
    assert 'src="http' not in page
    assert 'href="http' not in page


def test_the_file_for_serve_deploy_has_every_student_and_the_run_for_its_verdicts(
    setup: Setup, finished: str, tmp_path: Path
) -> None:
    target = tmp_path / "students.yaml"
    command = [sys.executable, "-m", "distill", "serve", str(setup.run), "--write-config", str(target)]
    subprocess.run(command, check=True, capture_output=True)
    (app,) = yaml.safe_load(target.read_text())["applications"]
    assert app["import_path"] == "distill.ops.deploy.served_run:from_config_file"
    endpoints, _ = read_arguments(app["args"], {})
    names = {endpoint.name for endpoint in endpoints}
    assert names == {"lora", "lora@mix-long", "full@mix-long"}, "the untouched students have the same weights"
    run_dir = RunDir(app["args"]["run_dir"])
    checker = BenchmarkChecker.of(load_run_recipe(run_dir), run_dir)
    verdicts = [checker.verdict(problem["id"], r"\boxed{1}", "stop") for problem in checker.problems()]
    assert [found["verdict"] for found in verdicts] == ["CORRECT"] * 6


def test_a_finished_run_does_nothing_quickly(setup: Setup, finished: str) -> None:
    started = time.monotonic()
    said = finish(setup)
    assert "nothing to do" in said
    assert time.monotonic() - started < 10


def test_the_notebook_of_the_docs_shows_the_run(setup: Setup, finished: str, tmp_path: Path) -> None:
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(ROOT / "docs" / "quickstart.ipynb", as_version=4)
    (parameters,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    parameters.source = f"RECIPE, RUN_DIR = {str(setup.recipe)!r}, {str(setup.run)!r}"
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    outputs = [one for cell in notebook.cells for one in cell.get("outputs", ())]
    shown = "".join(one.get("text") or one["data"]["text/plain"] for one in outputs)
    assert "full@mix-long" in shown and "lora@mix-long:short" in shown, "the plan, and the scores"
    assert "CORRECT" in shown and "nothing to do" in shown


def test_an_edited_recipe_redoes_the_stages_that_it_changes_and_names_them(setup: Setup, finished: str) -> None:
    said = finish(setup, "description=another")
    assert "already done: prompts, generate, verify, search, mix, train, evaluate" in said
    assert "report is done again: description changed" in said


def test_a_wrong_recipe_ends_with_code_2_and_no_traceback(setup: Setup) -> None:
    result = subprocess.run([*setup.command, "trian.x=1", "evaluate.benchmarks=['x']"], capture_output=True, text=True)
    assert result.returncode == 2
    assert "Traceback" not in result.stderr
    assert "2 problems in the recipe" in result.stderr


def test_a_second_process_is_refused_while_a_run_is_in_progress(setup: Setup, finished: str) -> None:
    from distill.core.run_lock import run_lock

    with run_lock(RunDir(str(setup.run))):
        result = subprocess.run(setup.command, capture_output=True, text=True)
    assert result.returncode == 2
    assert "another process" in result.stderr


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    """A Ray cluster of its own with a job server; the address of the latter. Authentication stays on."""
    port, dashboard = free_port(), free_port()
    with tempfile.TemporaryDirectory(prefix="ray-job-", dir="/tmp") as folder:  # sockets need a short path
        command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus=2"]
        command += [f"--port={port}", f"--dashboard-port={dashboard}", f"--temp-dir={folder}"]
        with open(tmp_path / "ray.log", "w") as log:
            head = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            yield f"http://127.0.0.1:{dashboard}"
        finally:
            os.killpg(head.pid, signal.SIGTERM)
            try:
                head.wait(timeout=60)
            except subprocess.TimeoutExpired:
                os.killpg(head.pid, signal.SIGKILL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def submit(address: str, setup: Setup, *overrides: str) -> subprocess.CompletedProcess[str]:
    """`ray job submit` with the checkout as working directory, once the job server answers."""
    command = [str(Path(sys.executable).with_name("ray")), "job", "submit", "--address", address]
    command += ["--working-dir", str(ROOT), "--", *setup.command, *overrides]
    environment = {**os.environ, "RAY_AUTH_MODE": "token"}
    deadline = time.monotonic() + 120
    while True:
        result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=580, cwd=ROOT)
        is_refused = "Failed to connect" in result.stdout + result.stderr
        if not is_refused or time.monotonic() > deadline:
            return result
        time.sleep(2)


def test_the_same_command_runs_as_a_ray_job(setup: Setup, finished: str, cluster: str) -> None:
    result = submit(cluster, setup, "evaluate.sampling.max_tokens=39")
    said = result.stdout + result.stderr
    assert result.returncode == 0, said[-4000:]
    assert "evaluate is done again: evaluate.sampling.max_tokens changed" in said
    assert "succeeded" in said
