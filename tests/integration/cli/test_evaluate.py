"""`distill eval` as a user starts it: on a model of ours, against an endpoint, killed half-way, started again."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tests.fixtures.chat_server import Reply, chat_server, completion
from tests.fixtures.paths import ROOT
from tests.fixtures.tiny_models import make_tiny_model, teach_one_answer

NUM_PROBLEMS = 40
BENCHMARK = 'benchmarks.ones={source={kind="file", path="ones.jsonl", answer_kind="number"}}'

LEVELS = (
    'benchmarks.levels={suite=["choices"], source={kind="file", path="choices.jsonl", answer_kind="choice", '
    'language="zh", columns={problem="question", reference="target", choices=["A", "B", "C"], level="category"}}}'
)


def command(model: str, *more: str) -> list[str]:
    return [sys.executable, "-m", "distill", "eval", model, "--benchmarks", "ones", BENCHMARK, *more]


def write_problems(folder: Path, num_problems: int = NUM_PROBLEMS) -> None:
    rows = [{"problem": f"What is {n} - {n - 1}?", "answer": "1.0"} for n in range(10, 10 + num_problems)]
    (folder / "ones.jsonl").write_text("\n".join(json.dumps(row) for row in rows))


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "EVAL_KEY": "sesame"}


def run(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        command(*arguments), cwd=folder, env=environment(), capture_output=True, text=True, timeout=400, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_model_alone_is_scored_and_a_second_run_sends_no_request(tmp_path: Path) -> None:
    write_problems(tmp_path, 6)
    teach_one_answer(make_tiny_model(tmp_path / "tiny"))
    choices = [{"question": f"Which, {n}?", "A": "x", "B": "y", "target": "B", "category": n % 2 + 1} for n in range(4)]
    (tmp_path / "choices.jsonl").write_text("\n".join(map(json.dumps, choices)))
    options = [
        *(
            "device=cpu",
            "serve.engine.kv_cache_gib=0.1",
            "serve.cpus_per_engine=0.25",
            "evaluate.sampling.max_tokens=40",
        ),
        *("evaluate.repeated.ones.num_samples=2", "evaluate.repeated.ones.temperature=0.2"),
        *("evaluate.suite=['choices']", LEVELS, "benchmarks.ones.source.language=en"),
    ]
    said = run(tmp_path, "tiny", *options)
    assert "6 x 2" in said
    assert "By the language of the prompts" in said and "levels (zh)" in said
    letters = pq.read_table(tmp_path / "evals/tiny/evaluate/tiny/levels.parquet").to_pylist()
    assert {row["verdict"] for row in letters} == {"NO_ANSWER"}, "a number is no letter"
    scores = json.loads((tmp_path / "evals/tiny/scores.json").read_text())["scores"]
    assert scores[0]["accuracy"] > 0.5 and [rate["k"] for rate in scores[0]["pass_at"]] == [1, 2]
    rows = pq.read_table(tmp_path / "evals/tiny/evaluate/tiny/ones.parquet").to_pylist()
    assert len(rows) == 12 and len({row["seed"] for row in rows}) == 12
    assert "nothing to do" in run(tmp_path, "tiny", *options)


def test_an_endpoint_is_asked_once_for_each_problem_although_the_command_was_killed(tmp_path: Path) -> None:
    write_problems(tmp_path)

    def answer(number: int, body: dict[str, Any]) -> Reply:
        time.sleep(0.5)
        return 200, completion("So the answer is \\boxed{1}.")

    with chat_server(answer) as server:
        arguments = ["remote-1", "--url", server.url, "api_key_env=EVAL_KEY", "evaluate.max_in_flight=2"]
        first = subprocess.Popen(command(*arguments), cwd=tmp_path, env=environment(), stdout=subprocess.DEVNULL)
        folder = tmp_path / "evals/remote-1/evaluate/remote-1/ones.answers"
        deadline = time.monotonic() + 300
        while not list(folder.glob("*.parquet")):
            assert first.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        kept = sum(pq.read_metadata(shard).num_rows for shard in folder.glob("*.parquet"))
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        time.sleep(3)  # what is in flight is answered into the void
        before = len(server.requests)
        said = run(tmp_path, *arguments)
        assert f"{kept} answers are on disk already" in said
        assert len(server.requests) - before == NUM_PROBLEMS - kept
        assert set(server.keys) == {"Bearer sesame"}
    scores = json.loads((tmp_path / "evals/remote-1/scores.json").read_text())["scores"]
    assert (scores[0]["correct"], scores[0]["string_match"], folder.exists()) == (NUM_PROBLEMS, 0.0, False)
