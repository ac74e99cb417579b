"""How a prompt is asked, what is on disk afterwards, and what a crash leaves; without Ray and without an engine."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from distill.config.identity import fingerprint
from distill.config.teachers import GenerateConfig, VllmTeacher
from distill.config.verify import VerifyConfig
from distill.core.run_dir import RunDir
from distill.core.schema import Dropped, Prompt, Trace
from distill.generate.ask_policy import PoolState
from distill.generate.asker import (
    CHUNK_ROWS,
    COLUMNS,
    PAGE_ROWS,
    PROMPTS,
    Asker,
    Chunk,
    Completion,
    Faulty,
    PromptRow,
    Refused,
    TeacherJob,
    Write,
    chunk_table,
)
from distill.generate.pool_index import decode_states, encode_states, read_pool_index, read_rows
from distill.generate.pools import Request, ask_plan, group_by_engine
from distill.generate.progress_actor import Tally
from distill.generate.survey import survey_prompts
from distill.generate.trace_shards import BatchShards, drop_repeats
from distill.run.pools import Pool


class LocalHandle:
    """A `Tally` behind the calls of a Ray handle."""

    def __init__(self, **state: Any) -> None:
        self.tally = Tally(**{"complete": 0, "enough_prompts": None, "spent_tokens": {}, **state})

    def __getattr__(self, name: str) -> Any:
        method: Callable[..., Any] = getattr(self.tally, name)

        class Call:
            @staticmethod
            def remote(*arguments: Any) -> "asyncio.Future[Any]":
                future: asyncio.Future[Any] = asyncio.get_event_loop().create_future()
                future.set_result(method(*arguments))
                return future

        return Call


def pool(name: str, num_samples: int = 2, **fields: Any) -> Pool:
    teacher = VllmTeacher(name=name, model="m", style="short", num_samples=num_samples, **fields)
    return Pool(teacher, "folder", fingerprint(teacher, "weights"))


def prompt(number: int, states: str = "") -> dict[str, Any]:
    return PromptRow(f"prompt{number}", f"{number} + 0 =", str(number), "number", "", states).__dict__


def write_prompts(run_dir: RunDir, num_rows: int) -> None:
    made = [{name: prompt(number)[name] for name in COLUMNS} for number in range(num_rows)]
    rows = [Prompt(**one, source="", level="", subject="") for one in made]
    run_dir.write_rows(rows, Prompt, *PROMPTS)


def answers(text: Callable[[Request, str], str]) -> Write:
    async def write(request: Request, pool: Pool, problem: str) -> Completion:
        return Completion(text(request, problem), "stop", 5, 7, "test")

    return write


def job(tmp_path: Path, pools: list[Pool], tally: Any, **generate: Any) -> TeacherJob:
    config = GenerateConfig(flush_s=0.01, **generate)
    plan = ask_plan(group_by_engine(pools), [], stop_early=config.stop_early)
    plan = plan.__class__(plan.pools, (frozenset(item.name for item in pools),), plan.stop_early)
    return TeacherJob(str(tmp_path), tuple(pools), plan, config, VerifyConfig(), 1, tally)


def ask(work: TeacherJob, write: Write, rows: list[dict[str, Any]]) -> list[dict[str, PoolState]]:
    async def run() -> list[str]:
        return await Asker(work, write).answer(rows)

    return [decode_states(state) for state in asyncio.run(run())]


def traces(tmp_path: Path, pools: list[Pool]) -> list[dict[str, Any]]:
    run_dir = RunDir(str(tmp_path))
    return [row for one in pools for row in run_dir.read_table("generate", one.folder, row_type=Trace).to_pylist()]


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


def test_an_engine_tells_of_its_progress_now_and_then_and_of_all_of_it(tmp_path: Path) -> None:
    handle, told = LocalHandle(), []
    add = handle.tally.add
    handle.tally.add = lambda counts, complete: (told.append(counts), add(counts, complete))  # type: ignore
    right = answers(lambda request, problem: problem.split()[0])
    ask(job(tmp_path, [pool("a", num_samples=1)], handle), right, [prompt(number) for number in range(40)])
    snapshot = handle.tally.snapshot()
    assert (snapshot.counts["traces"], snapshot.counts["prompts"], snapshot.complete) == (40, 40, 40)
    assert len(told) < 10, "one report per trace would keep a thousand engines waiting for one actor"


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
            raise Refused("too long")
        if len(calls) == 1:
            raise Faulty("dropped connection")
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
        raise Faulty("malformed reply")

    pools = [pool("a", num_samples=1)]
    ask(job(tmp_path, pools, LocalHandle(), max_attempts=2), broken, [prompt(3)])
    assert len(calls) == 2
    assert len(RunDir(str(tmp_path)).read_table("generate", "failed", row_type=Dropped)) == 1


def test_a_batch_whose_engine_died_asks_only_for_what_is_not_on_disk(tmp_path: Path) -> None:
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
        handle.tally.engine_died("gone", list(handle.tally._starts))
    states = ask(work, deadly, rows)
    assert states == [{"a": PoolState(frozenset({0}), 0)}]
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


def test_states_survive_their_journey() -> None:
    states = {"a": PoolState(frozenset({0, 3}), 1), "b": PoolState()}
    assert decode_states(encode_states(states)) == states
    assert decode_states("") == {}


def test_a_trace_that_stands_in_two_shards_counts_once(tmp_path: Path) -> None:
    pools = [pool("a", num_samples=1)]
    ask(job(tmp_path, pools, LocalHandle()), answers(lambda request, problem: problem.split()[0]), [prompt(3)])
    (shard,) = tmp_path.glob("generate/a-*/*.parquet")
    (shard.parent / "copy.parquet").write_bytes(shard.read_bytes())
    index = read_pool_index(RunDir(str(tmp_path)), "generate", pools[0].folder)
    assert index.state("prompt3") == PoolState(frozenset({0}), 1)
    assert index.state("prompt4") == PoolState()
    assert drop_repeats(RunDir(str(tmp_path)), pools[0].folder) == 1
    assert len(traces(tmp_path, pools)) == 1


def test_any_rows_of_a_file_can_be_read_alone(tmp_path: Path) -> None:
    run_dir = RunDir(str(tmp_path))
    run_dir.write_rows([Dropped("s", "w", str(number), "", "") for number in range(100)], Dropped, "x.parquet")
    rows = read_rows(run_dir, run_dir.path("x.parquet"), 40, 43, ("reason",))
    assert [row["reason"] for row in rows] == ["40", "41", "42"]


def test_an_engine_reads_the_prompts_of_a_chunk_beside_it_and_asks_only_what_is_not_there_yet(tmp_path: Path) -> None:
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


def test_a_survey_hands_out_the_chunks_that_hold_an_open_prompt_with_what_is_there(tmp_path: Path) -> None:
    pools, run_dir = [pool("a", num_samples=1)], RunDir(str(tmp_path))
    write_prompts(run_dir, 3 * CHUNK_ROWS)
    work = job(tmp_path, pools, LocalHandle())
    done = [prompt(number) for number in (*range(CHUNK_ROWS), CHUNK_ROWS)]
    ask(work, answers(lambda request, problem: problem.split()[0]), done)
    survey = survey_prompts(run_dir, pools, work.plan, {"a"})
    assert (survey.num_open, survey.num_complete) == (2 * CHUNK_ROWS - 1, CHUNK_ROWS + 1)
    first, second = survey.open_chunks
    assert (first.start, first.stop, second.start, second.states) == (CHUNK_ROWS, 2 * CHUNK_ROWS, 2 * CHUNK_ROWS, ())
    assert decode_states(first.states[0]) == {"a": PoolState(frozenset({0}), 1)}
    assert not decode_states(first.states[1])["a"].done


def test_another_budget_is_the_same_teacher_and_another_prompt_is_not() -> None:
    same, other = pool("a", 2), pool("a", 9)
    assert same.fingerprint == other.fingerprint
    assert pool("a", chat={"template": "Think. {problem}"}).fingerprint != same.fingerprint
    assert pool("a", reasoning_end="</thought>").fingerprint != same.fingerprint


def test_cheaper_teachers_are_asked_first_and_styles_of_one_model_share_an_engine() -> None:
    dear, cheap = pool("dear", usd_per_million_tokens=2.0), pool("cheap", usd_per_million_tokens=0.5)
    other = Pool(cheap.teacher.model_copy(update={"name": "other", "model": "n"}), "another folder", "f")
    assert [[one.name for one in group] for group in group_by_engine([dear, other, cheap])] == [
        ["other"],
        ["cheap", "dear"],
    ]


def test_parts_of_a_batch_are_gone_when_it_is_whole(tmp_path: Path) -> None:
    async def write_slowly() -> None:
        one = pool("a", num_samples=1)

        async def is_ours() -> bool:
            return True

        async with BatchShards(RunDir(str(tmp_path)), "batch", {"a": one}, flush_s=0.01, is_ours=is_ours) as shards:
            asker = Asker(job(tmp_path, [one], LocalHandle()), answers(lambda request, problem: "3"))
            await asker._sample(PromptRow(**prompt(3)), {}, "a", 0, shards)
            await asyncio.sleep(0.3)
            assert [path.name for path in tmp_path.glob("generate/a-*/*.parquet")] != ["batch.parquet"]

    asyncio.run(write_slowly())
    assert [path.name for path in tmp_path.glob("generate/a-*/*.parquet")] == ["batch.parquet"]


def test_an_engine_that_was_given_up_and_still_runs_writes_nothing_more(tmp_path: Path) -> None:
    """Its host was cut off from the cluster, not from the disk; another engine began its batch anew meanwhile."""
    pools, tally = [pool("a", num_samples=1)], LocalHandle()
    other_is_done = asyncio.Event()

    async def held(request: Request, pool: Pool, problem: str) -> Completion:
        await other_is_done.wait()
        return Completion("cut off", "stop", 5, 7, "test")

    async def both() -> None:
        cut_off = asyncio.create_task(Asker(job(tmp_path, pools, tally), held).answer([prompt(3)]))
        await asyncio.sleep(0.05)
        await Asker(job(tmp_path, pools, tally), answers(lambda request, problem: "3")).answer([prompt(3)])
        other_is_done.set()
        await cut_off

    asyncio.run(both())
    assert [trace["completion"] for trace in traces(tmp_path, pools)] == ["3"]
