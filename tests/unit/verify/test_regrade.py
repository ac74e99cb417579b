"""What a pool holds: each trace once, only of the prompts and samples that are asked for; and what is graded again."""

import dataclasses
from typing import Any

import pyarrow as pa
import pytest

from distill.config.teachers import VllmTeacher
from distill.config.verify import VerifyConfig
from distill.core.run_dir import PROMPTS, RunDir
from distill.core.schema import IndexRow, Prompt, Trace
from distill.core.verifier_version import verifier_version
from distill.generate import traces as traces_module
from distill.generate.traces import INDEX_COLUMNS, index_rows, paid_tokens, read_traces
from distill.grading import reference_identity
from distill.run.pools import Pool
from distill.verify.regrade import pool_details, read_references, regrade
from tests.fixtures.mix_run import prompt, trace

POOL = Pool(VllmTeacher(name="long", model="m", style="long"), "m", "f")
TRACES = [trace(number, "long", sample) for number in range(7) for sample in (0, 1)]
CHANGES: dict[int, dict[str, Any]] = {
    0: {"verdict": "INCORRECT"},
    1: {"verdict": "NO_ANSWER", "finish_reason": "length"},
    2: {"rule": "numeric", "completion_tokens": 11},
}
TRACES = [dataclasses.replace(one, **CHANGES.get(position, {})) for position, one in enumerate(TRACES)]
IDS = pa.chunked_array([[one.prompt_id for one in TRACES[:12:2]]])
"""Of all prompts but the last."""


@pytest.fixture
def filled(run_dir: RunDir) -> RunDir:
    """Three shards; the trace that is in two of them is as the last says."""
    old = dataclasses.replace(TRACES[2], rule="exact", completion_tokens=3)
    for name, rows in (("0", [old, *TRACES[9:]]), ("1", TRACES[:4]), ("2", TRACES[4:9])):
        run_dir.write_rows(rows, Trace, "generate", POOL.folder, f"{name}.parquet")
    return run_dir


def test_the_index_holds_each_trace_once_sorted_by_identity(filled: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(traces_module, "WRITTEN_ROWS", 5)
    rows = [*index_rows(read_traces(filled, POOL, IDS).tables())]
    wanted = sorted(TRACES[:12], key=lambda one: one.trace_id)
    assert rows == [IndexRow(**{name: getattr(one, name) for name in INDEX_COLUMNS}) for one in wanted]


def test_only_the_first_samples_are_read(filled: RunDir) -> None:
    rows = index_rows(read_traces(filled, POOL, IDS, 1).tables())
    assert {row.trace_id for row in rows} == {one.trace_id for one in TRACES[:12:2]}


def test_a_pool_is_counted(filled: RunDir) -> None:
    assert pool_details(read_traces(filled, POOL, IDS)) == {
        "traces": 12,
        "correct": 10,
        "verdicts": {"CORRECT": 10, "INCORRECT": 1, "NO_ANSWER": 1},
        "prompts": 6,
        "prompts_solved": 5,
        "mean_tokens": 7.4,
        "completion_tokens": 88,
        "truncated": 1,
    }


def test_it_knows_which_traces_it_holds(filled: RunDir) -> None:
    found = read_traces(filled, POOL, IDS, columns=())
    assert found.holds([TRACES[0].trace_id, "0" * 16, TRACES[13].trace_id]).tolist() == [True, False, False]


def test_a_pool_without_shards_is_empty(run_dir: RunDir) -> None:
    found = read_traces(run_dir, POOL, IDS)
    assert [*found.tables()] == []
    assert pool_details(found)["mean_tokens"] == 0.0
    assert paid_tokens(run_dir, POOL.name) == 0


def test_what_endpoints_were_paid_for_under_a_name_is_counted_whatever_their_settings(run_dir: RunDir) -> None:
    """A budget began anew with every change of a teacher's sampling."""
    first = dataclasses.replace(TRACES[0], engine="endpoint remote-1", completion_tokens=3)
    second = dataclasses.replace(TRACES[1], engine="endpoint remote-1", completion_tokens=10)
    ours = dataclasses.replace(TRACES[2], engine="vllm 0.29", completion_tokens=100)
    before, now, other = (f"{name}-{digit * 16}" for name, digit in (("long", "a"), ("long", "b"), ("long-api", "a")))
    for folder, shard, rows in (
        (before, "0", [first]), (now, "0", [first, second]), (now, "1", [second, ours]), (other, "0", [first]),
    ):  # fmt: skip
        run_dir.write_rows(rows, Trace, "generate", folder, f"{shard}.parquet")
    assert paid_tokens(run_dir, "long") == 3 + 3 + 10
    assert paid_tokens(run_dir, "long-api") == 3


def graded(run_dir: RunDir, pool: Pool, asked: Prompt) -> tuple[int, Trace]:
    """How many traces of a run with one prompt are graded again, and the first of them."""
    run_dir.write_rows([asked], Prompt, *PROMPTS)
    again = regrade(run_dir, pool, read_references(run_dir), lambda: {asked.prompt_id: asked}, VerifyConfig())
    return again, Trace(**run_dir.read_table("generate", pool.folder, row_type=Trace).to_pylist()[0])


def test_a_corrected_reference_is_graded_against_and_judged_again(run_dir: RunDir) -> None:
    judged = {"judge_verdict": "CORRECT", "judge": "j", "judge_detail": "same"}
    known = {"verifier": verifier_version(["number"]), "graded_against": reference_identity(prompt(3))}
    row = trace(3, "long", completion="It is \\boxed{4}.", **judged, **known)
    run_dir.write_rows([row], Trace, "generate", POOL.folder, "0.parquet")
    assert graded(run_dir, POOL, prompt(3)) == (0, row)
    again, found = graded(run_dir, POOL, dataclasses.replace(prompt(3), reference="5"))
    assert (again, found.verdict, found.judge, found.judge_verdict) == (1, "INCORRECT", "", "")
    again, found = graded(run_dir, POOL, dataclasses.replace(prompt(3), reference="4", answer_kind="math"))
    assert (again, found.verdict) == (1, "CORRECT")


def test_traces_of_before_references_were_kept_are_graded_once(run_dir: RunDir) -> None:
    row = trace(3, "long", completion="\\boxed{4}", verifier=verifier_version(["number"]), judge="j", judge_detail="d")
    run_dir.write_rows([row], Trace, "generate", POOL.folder, "0.parquet")
    again, found = graded(run_dir, POOL, prompt(3))
    assert (again, found.judge) == (1, "j"), "nothing says that it was judged against another"
    assert graded(run_dir, POOL, prompt(3)) == (0, found)
