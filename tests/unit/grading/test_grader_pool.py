"""Guarantees of the pool for any rows: order, bounded time and memory, no side effects, no orphaned processes."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from distill.core.schema import Verdict
from distill.grading import GradeRequest, GraderPool
from distill.grading.worker_client import STARVED_FACTOR

DEADLINE_S = 0.4
ROW_S = 0.05
"""More than a hard row takes, a fork included, on a busy machine."""
TOWER = GradeRequest("\\boxed{9^{9^{9^{9}}}}", "5", "math")
HARD = GradeRequest("\\boxed{2\\log 2}", "\\log 4", "math")
EASY = GradeRequest("\\boxed{4}", "4", "math")


@pytest.fixture(scope="module")
def pool() -> Iterator[GraderPool]:
    with GraderPool(num_workers=1, deadline_s=DEADLINE_S, memory_bytes=256 << 20) as graders:
        graders.grade_batch([HARD])
        yield graders


def attack(answer: str) -> GradeRequest:
    entry = {"question": "", "answer": "2+3", "metadata": {"numbers": [2, 3], "target": 5}}
    text = json.dumps({"task": "countdown", "entry": entry})
    return GradeRequest(f"<answer>{answer}</answer>", "", "reasoning_gym", entry=text)


def wait_until(condition: Callable[[], bool], timeout_s: float = 10.0) -> bool:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        if condition():
            return True
        time.sleep(0.05)
    return False


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_easy_rows_start_no_process() -> None:
    with GraderPool() as graders:
        assert graders.grade_batch([EASY] * 3)[2].verdict == Verdict.CORRECT
        assert graders._fork_server is None


def test_rows_that_hang_or_crash_cost_only_themselves_in_bounded_time_and_order(pool: GraderPool) -> None:
    """N rows of which k hang or crash: at most k deadlines, each times `STARVED_FACTOR`, plus the time of N rows."""
    ends_its_worker = attack("__import__('os')._exit(3)")
    requests = [EASY, TOWER, HARD, ends_its_worker, EASY, HARD, TOWER, EASY, HARD, ends_its_worker] + [HARD, EASY] * 20
    pool.grade_batch([attack("3+2")])  # the scorers' imports are a start-up, not a row
    started = time.monotonic()
    grades = pool.grade_batch(requests)
    elapsed_s = time.monotonic() - started
    failed = [index for index, grade in enumerate(grades) if grade.verdict == Verdict.ERROR]
    assert failed == [1, 3, 6, 9]
    assert [grades[index].rule for index in failed] == ["timeout", "crash", "timeout", "crash"]
    assert all(grade.verdict == Verdict.CORRECT for index, grade in enumerate(grades) if index not in failed)
    assert elapsed_s < len(failed) * STARVED_FACTOR * DEADLINE_S / pool.num_workers + len(requests) * ROW_S


@pytest.mark.parametrize(
    "completion",
    [
        "\\boxed{" + "(" * 400 + "1" + ")" * 400 + "}",
        "\\boxed{" + "\\frac{1}{" * 90 + "2" + "}" * 90 + "}",
        "\\boxed{" + "{" * 5_000,
        "x" * 1_000_000,
        "\\boxed{" + "7" * 1_000_000 + "}",
        "$" * 100_000,
        "\\boxed{" * 20_000,
        "\\boxed{1} " * 100_000,
        "\\boxedx" * 100_000,
        "answer " * 20_000,
        "-" * 50_000 + "1/" * 20_000,
        "\x00" * 1_000 + "\\boxed{\x00}",
        "\\boxed{\\text{well, I think it might be, but who knows}}",
        "\\boxed{\\begin{pmatrix} 1 & 2 \\\\ 3}",
        "\ud800\\boxed{1}\ud800 \\boxed{\ud800}",
        "",
    ],
    ids=lambda text: repr(text[:24]),
)
def test_odd_text_ends_in_time_and_is_never_correct(pool: GraderPool, completion: str) -> None:
    for kind in ("math", "number", "text", "choice"):
        started = time.monotonic()
        [grade] = pool.grade_batch([GradeRequest(completion, "A" if kind == "choice" else "5", kind)])
        assert time.monotonic() - started < 4 * DEADLINE_S + 2
        assert grade.verdict != Verdict.CORRECT


def test_memory_is_bounded_and_a_bomb_is_an_error(pool: GraderPool) -> None:
    [grade] = pool.grade_batch([GradeRequest("\\boxed{10^{10^{10}} \\le x}", "x \\ge 4", "math")])
    assert grade.verdict == Verdict.ERROR


@pytest.mark.parametrize(
    "answer",
    [
        "__import__('os').system('touch {path}')",
        "open('{path}', 'w')",
        "__import__('subprocess').run(['touch', '{path}'])",
        "__import__('pathlib').Path('{path}').touch()",
    ],
)
def test_code_in_an_answer_does_nothing(pool: GraderPool, answer: str, tmp_path: Path) -> None:
    target = tmp_path / "written"
    [grade] = pool.grade_batch([attack(answer.replace("{path}", str(target)))])
    assert grade.verdict != Verdict.CORRECT
    assert not target.exists()


def test_code_cannot_end_other_processes_and_its_own_end_is_an_error(pool: GraderPool) -> None:
    [grade] = pool.grade_batch([attack("__import__('os').kill(__import__('os').getppid(), 9)")])
    assert grade.verdict == Verdict.ERROR
    assert pool._fork_server is not None
    assert is_running(pool._fork_server.process.pid)
    [grade] = pool.grade_batch([attack("__import__('os')._exit(3)")])
    assert grade.rule == "crash"
    assert pool.grade_batch([HARD])[0].verdict == Verdict.CORRECT


def test_rows_in_flight_survive_the_fork_server(pool: GraderPool) -> None:
    pool.grade_batch([HARD])
    assert pool._fork_server is not None
    killer = threading.Timer(DEADLINE_S / 2, os.kill, (pool._fork_server.process.pid, signal.SIGKILL))
    killer.start()
    grades = pool.grade_batch([TOWER, HARD])
    killer.join()
    assert [grade.verdict for grade in grades] == ["ERROR", "CORRECT"]


def test_threads_may_share_a_pool(pool: GraderPool) -> None:
    results: list[str] = []
    threads = [
        threading.Thread(target=lambda: results.extend(grade.verdict for grade in pool.grade_batch([HARD, EASY])))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == ["CORRECT"] * 8


def test_workers_die_with_their_parent() -> None:
    script = (
        "import os, time\n"
        "from distill.grading import GraderPool, GradeRequest\n"
        "pool = GraderPool()\n"
        "pool.grade_batch([GradeRequest('\\\\boxed{2\\\\ln 2}', '\\\\log 4', 'math')])\n"
        "print(pool._fork_server.process.pid, pool._idle[0].pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    pids = [int(pid) for pid in parent.stdout.readline().split()]
    assert len(pids) == 2
    parent.kill()
    parent.wait()
    parent.stdout.close()
    assert wait_until(lambda: not any(is_running(pid) for pid in pids))


def test_a_worker_imports_no_engine() -> None:
    script = (
        "import sys, distill.grading.fork_server\nprint({'ray', 'torch', 'vllm', 'transformers'} & set(sys.modules))"
    )
    output = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "set()"
