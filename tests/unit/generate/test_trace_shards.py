"""Shards of traces while they are written."""

import asyncio
from pathlib import Path

from distill.core.run_dir import RunDir
from distill.generate.asker import Asker, Batch
from distill.generate.chunks import PromptRow
from distill.generate.trace_shards import BatchShards
from tests.fixtures.teacher_jobs import LocalHandle, answers, job, pool, prompt


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
