"""Shards of traces while they are written."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distill.core.run_dir import RunDir
from distill.generate import trace_shards
from distill.generate.asker import Asker, Batch, Completion
from distill.generate.chunks import PromptRow
from distill.generate.pools import Request
from distill.generate.trace_shards import BatchShards
from distill.run.pools import Pool
from tests.fixtures.teacher_jobs import LocalHandle, answers, ask, job, pool, prompt, traces


def test_parts_of_a_batch_are_gone_when_it_is_whole(tmp_path: Path) -> None:
    async def write_slowly() -> None:
        one = pool("a", num_samples=1)

        async def is_ours() -> bool:
            return True

        async with BatchShards(RunDir(str(tmp_path)), "batch", {"a": one}, flush_s=0.01, is_ours=is_ours) as shards:
            asker = Asker(job(tmp_path, [one], LocalHandle()), answers(lambda request, problem: "3"))
            await asker._sample(PromptRow(**prompt(3)), {}, "a", 0, Batch(shards, {}))
            await asyncio.sleep(0.3)
            assert [path.name for path in tmp_path.glob("generate/a-*/*.parquet")] != ["batch.parquet"]

    asyncio.run(write_slowly())
    assert [path.name for path in tmp_path.glob("generate/a-*/*.parquet")] == ["batch.parquet"]


def failing(fails: Callable[[int], bool]) -> Callable[..., int]:
    """`RunDir.write_rows` of a storage that refuses those of its writes for which `fails` is true, counted from 1."""
    write_rows, calls = RunDir.write_rows, 0

    def write(self: RunDir, rows: Any, row_type: type, *parts: str) -> int:
        nonlocal calls
        calls += 1
        if fails(calls):
            raise OSError("503 SlowDown")
        return write_rows(self, rows, row_type, *parts)

    return write


async def slowly(request: Request, pool: Pool, problem: str) -> Completion:
    number = problem.split()[0]
    await asyncio.sleep(0.05 * int(number))
    return Completion(number, "stop", 5, 7, "test")


@pytest.mark.parametrize("failed", [(1,), (2, 3), (7, 8)])
def test_a_write_that_fails_costs_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failed: tuple[int, ...]
) -> None:
    monkeypatch.setattr(trace_shards, "WRITE_WAITS_S", (0.01, 0.01))
    monkeypatch.setattr(RunDir, "write_rows", failing(lambda number: number in failed))
    pools = [pool("a", num_samples=1)]
    ask(job(tmp_path, pools, LocalHandle()), slowly, [prompt(number) for number in range(2, 8)])
    assert sorted(row["completion"] for row in traces(tmp_path, pools)) == list("234567")
    assert len(list(tmp_path.glob("generate/a-*/*.parquet"))) == 1


def test_a_storage_that_takes_nothing_ends_the_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_shards, "WRITE_WAITS_S", (0.01, 0.01))
    monkeypatch.setattr(RunDir, "write_rows", failing(lambda number: True))
    with pytest.raises(OSError, match="SlowDown"):
        ask(job(tmp_path, [pool("a", num_samples=1)], LocalHandle()), slowly, [prompt(2)])
