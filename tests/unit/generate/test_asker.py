"""How a prompt is asked, what is on disk afterwards, and what a crash leaves; without Ray and without an engine."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from distill.core.errors import InputError, StageError
from distill.core.events import events_in
from distill.core.run_dir import RunDir
from distill.core.schema import Dropped
from distill.generate.ask_policy import PoolState
from distill.generate.asker import MAX_GIVEN_UP, Asker, Completion, RequestFailed, RequestRefused
from distill.generate.chunks import CHUNK_ROWS, PAGE_ROWS, Chunk, chunk_table
from distill.generate.pool_index import decode_states, encode_states
from distill.generate.pools import Request
from distill.grading import Grade, GradeRequest
from distill.run.pools import Pool
from tests.fixtures.json_lines import json_lines
from tests.fixtures.teacher_jobs import LocalHandle, answers, ask, job, pool, prompt, traces, write_prompts


def test_a_prompt_is_asked_until_it_is_solved_and_every_trace_is_on_disk(tmp_path: Path) -> None:
    pools = [pool("a"), pool("b", chat={"template": "Think. {problem}"})]
    right_at_second = answers(lambda request, problem: problem.split()[0] if request.sample_index else "no idea: 99")
    states = ask(job(tmp_path, pools, LocalHandle()), right_at_second, [prompt(3), prompt(4)])
    assert states[0] == {"a": PoolState(frozenset({0, 1}), 1), "b": PoolState(frozenset({0, 1}), 1)}
    rows = traces(tmp_path, pools)
    assert len(rows) == len({row["trace_id"] for row in rows}) == 8
    assert {row["seed"] for row in rows} == {row["seed"] for row in rows if row["seed"] >= 0}
    assert len({row["seed"] for row in rows}) == 8
    assert len(list(tmp_path.glob("generate/a-*/*.parquet"))) == 1, "the parts were not gathered in one shard"


def test_an_engine_reports_its_progress_in_batches_and_completely(tmp_path: Path) -> None:
    handle, reports = LocalHandle(), []
    add = handle.progress.add
    handle.progress.add = lambda counts, complete: (reports.append(counts), add(counts, complete))  # type: ignore
    right = answers(lambda request, problem: problem.split()[0])
    ask(job(tmp_path, [pool("a", num_samples=1)], handle), right, [prompt(number) for number in range(40)])
    snapshot = handle.progress.snapshot()
    assert (snapshot.counts["traces"], snapshot.counts["prompts"], snapshot.complete) == (40, 40, 40)
    assert len(reports) < 10, "one report per trace would keep a thousand engines waiting for one actor"


def test_a_trace_cut_by_the_limit_solves_nothing(tmp_path: Path) -> None:
    async def cut(request: Request, pool: Pool, problem: str) -> Completion:
        return Completion(problem.split()[0], "length", 5, 7, "test")

    pools = [pool("a")]
    states = ask(job(tmp_path, pools, LocalHandle()), cut, [prompt(3)])
    assert states == [{"a": PoolState(frozenset({0, 1}), 0)}]
    assert {row["finish_reason"] for row in traces(tmp_path, pools)} == {"length"}


def test_a_fault_is_tried_again_and_a_refusal_is_kept_with_its_reason(tmp_path: Path) -> None:
    calls: list[int] = []

    async def moody(request: Request, pool: Pool, problem: str) -> Completion:
        calls.append(request.sample_index)
        if problem.startswith("9"):
            raise RequestRefused("too long")
        if len(calls) == 1:
            raise RequestFailed("dropped connection")
        return Completion(problem.split()[0], "stop", 5, 7, "test")

    pools = [pool("a", num_samples=1)]
    ask(job(tmp_path, pools, LocalHandle()), moody, [prompt(3), prompt(9)])
    (row,) = traces(tmp_path, pools)
    assert row["attempts"] == 2
    (lost,) = RunDir(str(tmp_path)).read_table("generate", "failed", row_type=Dropped).to_pylist()
    assert (lost["reason"], lost["where"]) == ("request refused", "a")
    assert "too long" in lost["detail"]


def test_a_request_that_always_fails_is_given_up_within_its_budget(tmp_path: Path) -> None:
    calls = []

    async def broken(request: Request, pool: Pool, problem: str) -> Completion:
        calls.append(request)
        raise RequestFailed("malformed reply")

    pools = [pool("a", num_samples=1)]
    ask(job(tmp_path, pools, LocalHandle(), max_attempts=2), broken, [prompt(3)])
    assert len(calls) == 2
    assert len(RunDir(str(tmp_path)).read_table("generate", "failed", row_type=Dropped)) == 1


def test_many_requests_in_a_row_that_all_fail_end_the_stage_and_are_not_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools, rows = [pool("a", num_samples=1)], [prompt(number) for number in range(MAX_GIVEN_UP)]
    is_down = True

    async def down(request: Request, pool: Pool, problem: str) -> Completion:
        if is_down:
            raise RequestFailed("connection refused")
        return Completion(problem.split()[0], "stop", 5, 7, "test")

    work = job(tmp_path, pools, LocalHandle(), max_attempts=1)
    with pytest.raises(StageError, match=r"teachers\[a\]: 20 requests in a row failed.*connection refused"):
        ask(work, down, rows)
    is_down = False
    ask(work, down, rows)
    assert len(traces(tmp_path, pools)) == MAX_GIVEN_UP


def test_answers_under_way_are_kept_when_an_error_ends_the_stage_and_nothing_more_is_asked(tmp_path: Path) -> None:
    """No credit is left at an endpoint while it writes long answers, also those of another batch."""
    pools, sent = [pool("a", num_samples=2, num_correct=2)], []

    async def write(request: Request, pool: Pool, problem: str) -> Completion:
        sent.append((problem, request.sample_index))
        await asyncio.sleep(0.1)
        if problem.startswith("9"):
            raise InputError("402: no credit")
        await asyncio.sleep(0.3)
        return Completion(problem.split()[0], "stop", 5, 7, "test")

    async def both() -> None:
        asker = Asker(job(tmp_path, pools, LocalHandle()), write)
        other = asyncio.create_task(asker.answer([prompt(4), prompt(5)]))
        with pytest.raises(InputError, match="no credit"):
            await asker.answer([prompt(9), prompt(3)])
        kept = sorted(row["completion"] for row in traces(tmp_path, pools))  # Ray ends the process now
        assert kept == ["3", "4", "5"]
        with pytest.raises(InputError, match="no credit"):
            await other

    asyncio.run(both())
    assert {sample for _, sample in sent} == {0}


def test_a_grader_that_cannot_be_started_ends_the_batch(tmp_path: Path) -> None:
    """It was waited for without an end."""

    def grade_batch(requests: Sequence[GradeRequest]) -> list[Grade]:
        raise OSError(24, "Too many open files")

    async def run() -> None:
        asker = Asker(job(tmp_path, [pool("a")], LocalHandle()), answers(lambda request, problem: "3"))
        asker.grader._pool.grade_batch = grade_batch  # type: ignore[method-assign]
        with pytest.raises(OSError, match="Too many open files"):
            await asyncio.wait_for(asker.answer([prompt(3)]), timeout=20)

    asyncio.run(run())


def test_failures_between_answers_end_nothing(tmp_path: Path) -> None:
    async def moody(request: Request, pool: Pool, problem: str) -> Completion:
        if int(problem.split()[0]) % MAX_GIVEN_UP:
            raise RequestFailed("malformed reply")
        return Completion(problem.split()[0], "stop", 5, 7, "test")

    rows = [prompt(number) for number in range(3 * MAX_GIVEN_UP)]
    ask(job(tmp_path, pools := [pool("a", num_samples=1)], LocalHandle(), max_attempts=1), moody, rows)
    assert len(traces(tmp_path, pools)) == 3


def test_a_batch_whose_engine_died_asks_only_for_missing_traces(tmp_path: Path) -> None:
    pools, handle, calls = [pool("a", num_samples=1)], LocalHandle(), []

    async def dies_at_the_second(request: Request, pool: Pool, problem: str) -> Completion:
        calls.append(problem)
        if len(calls) == 2:
            await asyncio.sleep(0.2)  # the first answer reaches the disk by the clock
            raise SystemExit("the engine is dead")
        return Completion(problem.split()[0], "stop", 5, 7, "test")

    work = job(tmp_path, pools, handle)
    rows = [prompt(3), prompt(4)]
    with pytest.raises(SystemExit):
        ask(work, dies_at_the_second, rows)
    assert len(traces(tmp_path, pools)) == 1
    states = ask(work, dies_at_the_second, rows)
    assert calls == ["3 + 0 =", "4 + 0 =", "4 + 0 ="]
    assert all(state["a"].correct == 1 for state in states)
    assert len(traces(tmp_path, pools)) == 2


def test_a_batch_that_keeps_killing_engines_is_given_up_and_counted(tmp_path: Path) -> None:
    pools, handle = [pool("a", num_samples=1)], LocalHandle()
    work, rows = job(tmp_path, pools, handle, max_attempts=2), [prompt(3)]

    async def deadly(request: Request, pool: Pool, problem: str) -> Completion:
        raise SystemExit("out of memory")

    for _ in range(2):
        with pytest.raises(SystemExit):
            ask(work, deadly, rows)
        handle.progress.engine_died("gone", list(handle.progress._starts))
    states = ask(work, deadly, rows)
    assert states == [{"a": PoolState(frozenset({0}), 0)}]
    (lost,) = RunDir(str(tmp_path)).read_table("generate", "failed", row_type=Dropped).to_pylist()
    assert "engine died" in lost["detail"]


def test_before_they_are_given_up_batches_are_asked_one_by_one_so_that_only_the_deadly_one_is_lost(
    tmp_path: Path,
) -> None:
    """A prompt that killed its engine thrice took all batches beside it with it: up to a thousand prompts."""
    pools, handle, died = [pool("a", num_samples=1)], LocalHandle(), list[list[str]]()
    work, rows = job(tmp_path, pools, handle, max_attempts=2), [[prompt(3)], [prompt(9)], [prompt(4)]]

    async def live_and_die() -> bool:
        """One life of the engine; whether it lasted."""
        death = asyncio.Event()

        async def write(request: Request, pool: Pool, problem: str) -> Completion:
            await asyncio.sleep(0.05)
            if problem.startswith("9") or death.is_set():
                death.set()
                await asyncio.Event().wait()  # nothing is answered any more
            await asyncio.sleep(0.05)
            return Completion(problem.split()[0], "stop", 5, 7, "test")

        asker = Asker(work, write)
        asked = [asyncio.create_task(asker.answer(batch)) for batch in rows]
        ended = asyncio.create_task(death.wait())
        done = asyncio.gather(*asked)
        await asyncio.wait([done, ended], return_when=asyncio.FIRST_COMPLETED)
        if lasted := done.done():
            ended.cancel()
        else:
            died.append(sorted(asker.batches))
            handle.progress.engine_died(asker.engine, died[-1])
            done.cancel()
            await asyncio.gather(*asked, return_exceptions=True)
        return lasted

    lives = 1
    while not asyncio.run(live_and_die()):
        lives += 1
    assert lives <= 4
    assert {row["completion"] for row in traces(tmp_path, pools)} == {"3", "4"}
    (lost,) = RunDir(str(tmp_path)).read_table("generate", "failed", row_type=Dropped).to_pylist()
    assert "engine died" in lost["detail"]


def test_asking_stops_once_the_mixes_are_full(tmp_path: Path) -> None:
    calls = []

    async def write(request: Request, pool: Pool, problem: str) -> Completion:
        calls.append(problem)
        return Completion(problem.split()[0], "stop", 5, 7, "test")

    pools = [pool("a")]
    handle = LocalHandle(enough_prompts=1, complete=1)
    ask(job(tmp_path, pools, handle, enough_prompts=1), write, [prompt(3), prompt(4)])
    assert calls == []


def test_an_engine_reads_the_prompts_of_its_chunk_and_asks_only_for_missing_traces(tmp_path: Path) -> None:
    pools, run_dir = [pool("a", num_samples=1)], RunDir(str(tmp_path))
    write_prompts(run_dir, PAGE_ROWS + CHUNK_ROWS)
    has_first = (encode_states({"a": PoolState(frozenset({0}), 1)}), *[""] * (CHUNK_ROWS - 1))
    chunks = [Chunk(0, CHUNK_ROWS, has_first), Chunk(PAGE_ROWS, PAGE_ROWS + CHUNK_ROWS)]

    async def run() -> pa.Table:
        write = answers(lambda request, problem: problem.split()[0])
        return await Asker(job(tmp_path, pools, LocalHandle()), write).answer_table(chunk_table(chunks))

    answered = asyncio.run(run()).to_pylist()
    assert [(row["start"], row["stop"]) for row in answered] == [(chunk.start, chunk.stop) for chunk in chunks]
    done = PoolState(frozenset({0}), 1)
    assert all(decode_states(state) == {"a": done} for row in answered for state in row["states"])
    asked = {trace["prompt_id"]: trace["completion"] for trace in traces(tmp_path, pools)}
    expected = [*range(1, CHUNK_ROWS), *range(PAGE_ROWS, PAGE_ROWS + CHUNK_ROWS)]
    assert asked == {f"prompt{number}": str(number) for number in expected}


def test_an_engine_that_was_given_up_and_still_runs_writes_nothing_more(tmp_path: Path) -> None:
    """Its host was cut off from the cluster, not from the disk; another engine began its batch anew meanwhile."""
    pools, progress = [pool("a", num_samples=1)], LocalHandle()
    other_is_done = asyncio.Event()

    async def held(request: Request, pool: Pool, problem: str) -> Completion:
        await other_is_done.wait()
        return Completion("cut off", "stop", 5, 7, "test")

    async def both() -> None:
        cut_off = asyncio.create_task(Asker(job(tmp_path, pools, progress), held).answer([prompt(3)]))
        await asyncio.sleep(0.05)
        await Asker(job(tmp_path, pools, progress), answers(lambda request, problem: "3")).answer([prompt(3)])
        other_is_done.set()
        await cut_off

    asyncio.run(both())
    assert [trace["completion"] for trace in traces(tmp_path, pools)] == ["3"]


def test_a_request_that_is_given_up_is_logged_with_its_ids(tmp_path: Path) -> None:
    path, pools = tmp_path / "events.jsonl", [pool("a", num_samples=1)]

    async def refuses(request: Request, pool: Pool, problem: str) -> Completion:
        raise RequestRefused("too long")

    with events_in(path):
        ask(job(tmp_path, pools, LocalHandle()), refuses, [prompt(3)])
    begin, given_up = json_lines(path)
    assert (begin["event"], begin["pools"]) == ("engine begins", ["a"])
    assert (given_up["event"], given_up["reason"]) == ("request given up", "request refused")
    assert given_up["prompt_id"] == prompt(3)["prompt_id"] and given_up["engine"] == begin["engine"]
