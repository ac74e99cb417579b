"""What a pool has on disk."""

from pathlib import Path

from distill.core.run_dir import RunDir
from distill.core.schema import Dropped
from distill.generate.ask_policy import PoolState
from distill.generate.pool_index import decode_states, encode_states, read_pool_index, read_rows
from distill.generate.trace_shards import drop_duplicates
from tests.fixtures.teacher_jobs import LocalHandle, answers, ask, job, pool, prompt, traces


def test_states_survive_encoding() -> None:
    states = {"a": PoolState(frozenset({0, 3}), 1), "b": PoolState()}
    assert decode_states(encode_states(states)) == states
    assert decode_states("") == {}


def test_a_trace_in_two_shards_counts_once(tmp_path: Path) -> None:
    pools = [pool("a", num_samples=1)]
    ask(job(tmp_path, pools, LocalHandle()), answers(lambda request, problem: problem.split()[0]), [prompt(3)])
    (shard,) = tmp_path.glob("generate/a-*/*.parquet")
    (shard.parent / "copy.parquet").write_bytes(shard.read_bytes())
    index = read_pool_index(RunDir(str(tmp_path)), "generate", pools[0].folder)
    assert index.state("prompt3") == PoolState(frozenset({0}), 1)
    assert index.state("prompt4") == PoolState()
    assert drop_duplicates(RunDir(str(tmp_path)), pools[0].folder) == 1
    assert len(traces(tmp_path, pools)) == 1


def test_any_rows_of_a_file_can_be_read_alone(tmp_path: Path) -> None:
    run_dir = RunDir(str(tmp_path))
    run_dir.write_rows([Dropped("s", "w", str(number), "", "") for number in range(100)], Dropped, "x.parquet")
    rows = read_rows(run_dir, run_dir.path("x.parquet"), 40, 43, ("reason",))
    assert [row["reason"] for row in rows] == ["40", "41", "42"]
