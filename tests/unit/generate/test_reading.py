"""Teachers that read, past a scripted engine: every edit once, after any crash, and only of traces that are there."""

import asyncio
import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from distill.core.run_dir import RunDir
from distill.core.schema import Dropped, Trace
from distill.generate.ask_policy import edit_number
from distill.generate.asker import Asker, Completion
from distill.generate.chunks import CHUNK_ROWS, chunk_table
from distill.generate.pool_index import decode_states, encode_states, read_indices
from distill.generate.pools import Request
from distill.generate.survey import survey_prompts
from distill.run.pools import Pool
from tests.fixtures.teacher_jobs import LocalHandle, ask, job, pool, prompt, reader, traces, write_prompts


class Engine:
    """Writes the right answer, longer for a plain pool than for an edit, and remembers what it was asked."""

    def __init__(self, text: Callable[[Request, str], str] | None = None) -> None:
        self.asked: list[Request] = []
        self._text = text or (lambda request, right: right if request.parent else f"I say slowly that it is {right}")

    async def __call__(self, request: Request, pool: Pool, problem: str) -> Completion:
        self.asked.append(request)
        return Completion(self._text(request, problem.split()[0]), "stop", 5, 7, "test")


def failures(tmp_path: Path) -> list[dict[str, Any]]:
    return RunDir(str(tmp_path)).read_table("generate", "failed", row_type=Dropped).to_pylist()


def test_a_chain_of_readers_streams_past_one_engine(tmp_path: Path) -> None:
    base = pool("base", num_samples=1)
    edit = reader("edit", base)
    last, engine = reader("last", edit), Engine()
    ask(job(tmp_path, [last, edit, base], LocalHandle()), engine, [prompt(3)])
    (first,), (second,), (third,) = (traces(tmp_path, [one]) for one in (base, edit, last))
    assert [request.pool for request in engine.asked] == ["base", "edit", "last"]
    assert [one["parent"] for one in (first, second, third)] == ["", first["trace_id"], second["trace_id"]]
    assert [request.read for request in engine.asked] == ["", first["completion"], second["completion"]]
    assert second["growth"] == len("3") / len(first["completion"])
    assert {one["verdict"] for one in (first, second, third)} == {"CORRECT"}


def test_every_edit_is_verified_and_one_that_is_too_long_solves_nothing(tmp_path: Path) -> None:
    base = pool("base", num_samples=1)
    edit = reader("edit", base, num_samples=3, keep_if="shorter")

    def text(request: Request, right: str) -> str:
        if not request.parent:
            return f"It is {right}"
        return [f"I do say that it is {right}", "99", right][request.sample_index]

    (states,) = ask(job(tmp_path, [base, edit], LocalHandle()), Engine(text), [prompt(3)])
    assert [row["verdict"] for row in traces(tmp_path, [edit])] == ["CORRECT", "INCORRECT", "CORRECT"]
    assert (states["edit"].correct, len(states["edit"].done)) == (1, 3)


@pytest.mark.parametrize(("takes", "read"), [("correct", {"3"}), ("wrong", {"99"}), ("any", {"3", "99"})])
def test_right_wrong_or_all_traces_are_read(tmp_path: Path, takes: str, read: set[str]) -> None:
    base = pool("base", num_samples=2)
    edit = reader("edit", base, takes=takes)
    engine = Engine(lambda request, right: right if request.parent or request.sample_index else "99")
    ask(job(tmp_path, [base, edit], LocalHandle(), stop_early=False), engine, [prompt(3)])
    assert {request.read for request in engine.asked if request.parent} == read


def test_edits_stay_when_a_reader_takes_other_traces(tmp_path: Path) -> None:
    base, run_dir = pool("base", num_samples=2), RunDir(str(tmp_path))
    engine = Engine(lambda request, right: right if request.parent or request.sample_index else "99")
    write_prompts(run_dir, 1)
    ask(job(tmp_path, [base], LocalHandle(), stop_early=False), engine, [prompt(0)])
    sources = {row["verdict"]: row["trace_id"] for row in traces(tmp_path, [base])}
    for takes in ("correct", "wrong", "correct"):
        edit = reader("edit", base, takes=takes)
        work = job(tmp_path, [base, edit], LocalHandle(), mine=[edit])
        for chunk in survey_prompts(run_dir, [base, edit], work.plan, {"edit"}).open_chunks:
            asyncio.run(Asker(work, engine).answer_table(chunk_table([chunk])))
    assert {row["parent"] for row in traces(tmp_path, [edit])} == {sources["CORRECT"], sources["INCORRECT"]}
    assert len([request for request in engine.asked if request.parent]) == 2, "what was paid for is not asked again"


def test_another_engine_reads_what_the_first_one_wrote_in_this_session_and_before(tmp_path: Path) -> None:
    base = pool("base", num_samples=1)
    edit, engine, run_dir = reader("edit", base), Engine(), RunDir(str(tmp_path))
    write_prompts(run_dir, CHUNK_ROWS)
    pools, early = [base, edit], [prompt(number) for number in range(5)]
    ask(job(tmp_path, pools, LocalHandle(), mine=[base]), engine, early)
    (chunk,) = survey_prompts(run_dir, pools, job(tmp_path, pools, LocalHandle()).plan, {"base", "edit"}).open_chunks
    assert len(chunk.sources) == 1

    async def both() -> Any:
        first = Asker(job(tmp_path, pools, LocalHandle(), mine=[base]), engine)
        second = Asker(job(tmp_path, pools, LocalHandle(), mine=[edit]), engine)
        return await second.answer_table(await first.answer_table(chunk_table([chunk])))

    asyncio.run(both())
    parents = {row["parent"] for row in traces(tmp_path, [edit])}
    assert parents == {row["trace_id"] for row in traces(tmp_path, [base])} and len(parents) == CHUNK_ROWS
    assert not failures(tmp_path)
    done = survey_prompts(run_dir, pools, job(tmp_path, pools, LocalHandle()).plan, {"base", "edit"})
    assert (done.num_open, done.num_complete) == (0, CHUNK_ROWS)


def test_a_batch_whose_engine_died_loses_no_edit_and_asks_for_none_twice(tmp_path: Path) -> None:
    base = pool("base", num_samples=1)
    edit = reader("edit", base)
    last, handle = reader("last", edit), LocalHandle()
    work, asked = job(tmp_path, [base, edit, last], handle), list[str]()

    async def dies_at_the_last(request: Request, pool: Pool, problem: str) -> Completion:
        asked.append(request.pool)
        if asked == ["base", "edit", "last"]:
            await asyncio.sleep(0.2)  # the first two reach the disk by the clock
            raise SystemExit("the engine is dead")
        return Completion(problem.split()[0], "stop", 5, 7, "test")

    with pytest.raises(SystemExit):
        ask(work, dies_at_the_last, [prompt(3)])
    ask(work, dies_at_the_last, [prompt(3)])
    assert asked == ["base", "edit", "last", "last"]
    assert len(traces(tmp_path, [base, edit, last])) == 3


def test_an_edit_whose_source_is_gone_or_has_no_such_part_is_a_counted_drop(tmp_path: Path) -> None:
    base = pool("base", num_samples=1)
    edit, brief = reader("edit", base), reader("brief", base, part="answer")
    gone = "00000000000000aa"
    states = encode_states({"base": decode_states(f"base:1:0:c{gone}")["base"]})
    (found,) = ask(job(tmp_path, [base, edit], LocalHandle()), Engine(), [prompt(3, states)])
    assert found["edit"].done == {edit_number(gone, 0)}
    ask(job(tmp_path, [base, brief], LocalHandle()), Engine(), [prompt(4)])
    assert {(row["where"], row["reason"]) for row in failures(tmp_path)} == {
        ("edit", "source missing"),
        ("brief", "part missing"),
    }


def test_a_changed_parent_pool_redoes_exactly_the_edits_of_what_changed(tmp_path: Path) -> None:
    base = pool("base", num_samples=1)
    edit, run_dir = reader("edit", base), RunDir(str(tmp_path))
    last = reader("last", edit)
    pools = [base, edit, last]
    write_prompts(run_dir, 3)
    work = job(tmp_path, pools, LocalHandle())
    ask(work, Engine(), [prompt(number) for number in range(3)])
    before = {row["trace_id"]: row for row in traces(tmp_path, pools)}
    _replace(run_dir, base, "prompt1", trace_id="00000000000000cc", completion="a new trace says 1")

    survey = survey_prompts(run_dir, pools, work.plan, {"edit", "last"})
    assert (survey.num_open, survey.num_complete) == (1, 2)
    (chunk,) = survey.open_chunks
    engine = Engine()

    async def again() -> Any:
        return await Asker(job(tmp_path, pools, LocalHandle(), mine=[edit, last]), engine).answer_table(
            chunk_table([chunk])
        )

    asyncio.run(again())
    assert [(request.pool, request.prompt_id) for request in engine.asked] == [
        ("edit", "prompt1"),
        ("last", "prompt1"),
    ]
    assert engine.asked[0].read == "a new trace says 1"
    after = {row["trace_id"]: row for row in traces(tmp_path, pools)}
    assert all(after[name] == row for name, row in before.items() if name in after), "an edit was written again"
    assert survey_prompts(run_dir, pools, work.plan, {"edit", "last"}).num_complete == 3


def _replace(run_dir: RunDir, base: Pool, prompt_id: str, **changes: Any) -> None:
    """The pool's trace of a prompt becomes another one, as where a data set has changed."""
    rows = [Trace(**row) for row in run_dir.read_table("generate", base.folder, row_type=Trace).to_pylist()]
    run_dir.remove("generate", base.folder)
    changed = [dataclasses.replace(row, **changes) if row.prompt_id == prompt_id else row for row in rows]
    run_dir.write_rows(changed, Trace, "generate", base.folder, "all.parquet")


def test_a_reader_that_takes_less_counts_less_of_what_is_there(tmp_path: Path) -> None:
    base, run_dir = pool("base", num_samples=2), RunDir(str(tmp_path))
    wide, narrow = reader("edit", base, takes="any"), reader("edit", base)
    assert wide.fingerprint == narrow.fingerprint
    engine = Engine(lambda request, right: right if request.parent or request.sample_index else "99")
    ask(job(tmp_path, [base, wide], LocalHandle(), stop_early=False), engine, [prompt(3)])
    for one, number in ((wide, 2), (narrow, 1)):
        work = job(tmp_path, [base, one], LocalHandle())
        assert read_indices(run_dir, [base, one], work.plan)["edit"].state("prompt3").correct == number


def test_traces_of_before_teachers_could_read_are_still_counted(tmp_path: Path) -> None:
    base, run_dir = pool("base", num_samples=1), RunDir(str(tmp_path))
    ask(job(tmp_path, [base], LocalHandle()), Engine(), [prompt(3)])
    (shard,) = tmp_path.glob("generate/base-*/*.parquet")
    table = run_dir.read_table("generate", base.folder, row_type=Trace)
    run_dir.write_table(table.drop(["parent", "given", "growth"]), "generate", base.folder, shard.name)
    edit = reader("edit", base)
    pools = [base, edit]
    state = read_indices(run_dir, pools, job(tmp_path, pools, LocalHandle()).plan)["base"].state("prompt3")
    assert (state.correct, len(state.sources)) == (1, 1)
    (row,) = traces(tmp_path, [base])
    assert (row["parent"], row["given"], row["growth"]) == ("", 0, 0.0)
