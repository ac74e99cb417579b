"""Which edits are used: none whose source is gone or wrong for its reader, none that is too long; each has a reason."""

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pytest

from distill.config.teachers import RuleTeacher, TeacherConfig, VllmTeacher
from distill.core.run_dir import VERDICTS, RunDir
from distill.core.schema import Trace
from distill.generate.traces import EDIT_COLUMNS, INDEX_COLUMNS, SCHEMA, PoolTraces, read_traces
from distill.run.pools import Pool
from distill.verify.edit_drops import changes, marked, outcomes, with_drops
from distill.verify.regrade import pool_details
from distill.verify.stage import pool_line, rejected, write_index
from tests.fixtures.mix_run import prompt, trace

BASE = VllmTeacher(name="long", model="m", style="long")
CHAT = {"chat": {"template": "{trace}"}}
SOURCES = [trace(number, "long", 0) for number in range(4)]
SOURCES[1] = trace(1, "long", 0, verdict="INCORRECT")
SOURCES[2] = trace(2, "long", 0, finish_reason="length")
GONE = "00000000000000ab"


def read(run_dir: RunDir, teacher: TeacherConfig, rows: Sequence[Trace], columns: Sequence[str]) -> PoolTraces:
    pool = Pool(teacher, "m", "f")
    run_dir.write_rows(rows, Trace, "generate", pool.folder, "0.parquet")
    return read_traces(run_dir, pool, pa.chunked_array([[prompt(n).prompt_id for n in range(9)]]), None, columns)


def edit(number: int, parent: str, growth: float = 0.5, **changes: Any) -> Trace:
    return trace(number, "short", 0, parent=parent, growth=growth, **changes)


EDITS = [
    edit(0, SOURCES[0].trace_id),
    edit(1, SOURCES[1].trace_id),
    edit(2, SOURCES[2].trace_id),
    edit(3, SOURCES[3].trace_id, growth=1.0),
    edit(4, GONE),
    edit(5, SOURCES[0].trace_id, verdict="INCORRECT"),
    edit(6, SOURCES[0].trace_id, verdict="NO_ANSWER"),
]


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        (
            {},
            {"kept": 2, "source missing": 3, "answer changed": 1, "no answer marked": 1},
        ),
        (
            {"keep_if": "shorter"},
            {
                "kept": 1,
                "not shorter than its source": 1,
                "source missing": 3,
                "answer changed": 1,
                "no answer marked": 1,
            },
        ),
        ({"takes": "wrong"}, {"kept": 1, "source missing": 6}),
        ({"takes": "any"}, {"kept": 4, "source missing": 1, "answer changed": 1, "no answer marked": 1}),
    ],
)
def test_every_edit_is_kept_or_dropped_for_one_reason(
    run_dir: RunDir, fields: dict[str, Any], found: dict[str, int]
) -> None:
    sources = {"long": marked(read(run_dir, BASE, SOURCES, INDEX_COLUMNS))}
    teacher = VllmTeacher.model_validate(
        {"name": "short", "model": "m", "style": "short", "reads": "long", **CHAT, **fields}
    )
    edits = with_drops(read(run_dir, teacher, EDITS, (*INDEX_COLUMNS, *EDIT_COLUMNS)), teacher, sources)
    assert outcomes(edits, teacher, sources) == found
    details = pool_details(edits)
    assert (details["correct"], details["traces"]) == (found["kept"], sum(found.values()))
    drops = rejected([details | {"edits": found}, pool_details(read(run_dir, BASE, SOURCES, INDEX_COLUMNS))])
    assert drops == {name: number for name, number in found.items() if name != "kept"} | {"incorrect": 1}
    (table,) = edits.tables()
    assert set(table.column("drop").to_pylist()) <= {"", "not shorter than its source", "source missing"}


def test_a_right_edit_that_was_cut_is_not_kept(run_dir: RunDir) -> None:
    sources = {"long": marked(read(run_dir, BASE, SOURCES, INDEX_COLUMNS))}
    teacher = VllmTeacher.model_validate(
        {"name": "short", "model": "m", "style": "short", "reads": "long", **CHAT, "keep_if": "shorter"}
    )
    first = SOURCES[0].trace_id
    rows = [edit(0, first), *(edit(n, first, growth, finish_reason="length") for n, growth in ((1, 0.5), (2, 1.5)))]
    rows += [edit(3, first, verdict="INCORRECT", finish_reason="length"), edit(4, GONE, finish_reason="length")]
    edits = with_drops(read(run_dir, teacher, rows, (*INDEX_COLUMNS, *EDIT_COLUMNS)), teacher, sources)
    found = {"kept": 1, "cut by the token limit": 2, "answer changed": 1, "source missing": 1}
    assert outcomes(edits, teacher, sources) == found and pool_details(edits)["correct"] == 1


def test_a_reader_without_any_edit_is_counted_all_the_same(run_dir: RunDir) -> None:
    teacher = RuleTeacher(name="short", style="short", reads="long", part="answer")
    sources = {"long": marked(read(run_dir, BASE, SOURCES, INDEX_COLUMNS))}
    with run_dir.table_writer(SCHEMA, *VERDICTS) as writer:
        ids = pa.chunked_array([[prompt(0).prompt_id]])
        found, _ = write_index(run_dir, Pool(teacher, "m", "none"), ids, writer, sources)
    assert found["edits"] == {} and found["changes"]["of_correct"] == 0 and "none lost" in pool_line(found)


def test_what_an_edit_changed_is_counted_by_what_it_read(run_dir: RunDir) -> None:
    """Of the wrong source one edit is right and one is not; lengths are those of the edits that are used."""
    sources = marked(read(run_dir, BASE, SOURCES, INDEX_COLUMNS))
    teacher = VllmTeacher.model_validate(
        {"name": "short", "model": "m", "style": "short", "reads": "long", **CHAT, "takes": "any", "keep_if": "shorter"}
    )
    rows = [
        *EDITS,
        edit(7, SOURCES[1].trace_id, verdict="INCORRECT"),
        edit(8, SOURCES[0].trace_id, growth=0.25, completion_tokens=400),
    ]
    edits = with_drops(read(run_dir, teacher, rows, (*INDEX_COLUMNS, *EDIT_COLUMNS)), teacher, {"long": sources})
    found = changes(edits, sources)
    assert (found["of_wrong"], found["wrong_end_right"]) == (2, 1)
    assert (found["of_correct"], found["correct_end_right"]) == (5, 3), "the one that is too long is right as well"
    used = [EDITS[0], EDITS[1], EDITS[2], rows[-1]]
    tokens = {one.trace_id: one.completion_tokens for one in SOURCES}
    assert found["tokens"] == pytest.approx(sum(one.completion_tokens for one in used) / 4)
    assert found["source_tokens"] == pytest.approx(sum(tokens[one.parent] for one in used) / 4)
    assert found["growth"] == pytest.approx((0.5 * 3 + 0.25) / 4)


def test_nothing_that_is_used_has_no_mean_length(run_dir: RunDir) -> None:
    teacher = RuleTeacher(name="short", style="short", reads="long", part="answer")
    sources = marked(read(run_dir, BASE, [], INDEX_COLUMNS))
    edits = with_drops(read(run_dir, teacher, EDITS, (*INDEX_COLUMNS, *EDIT_COLUMNS)), teacher, {"long": sources})
    found = changes(edits, sources)
    assert found["tokens"] is None and found["growth"] is None and found["of_wrong"] == found["of_correct"] == 0


def test_the_run_says_why_edits_are_lost() -> None:
    found = {"correct": 1, "traces": 4, "prompts": 9, "prompts_solved": 1}
    assert pool_line(found) == "1 of 4 traces correct, 1 of 9 prompts solved"
    edits = {"kept": 1, "source missing": 1, "answer changed": 2}
    assert pool_line(found | {"edits": edits}) == (
        "1 of 4 edits kept (2 answer changed, 1 source missing), 1 of 9 prompts solved"
    )


def test_edits_of_dropped_edits_are_dropped_along_the_chain(run_dir: RunDir) -> None:
    first = RuleTeacher(name="short", style="short", reads="long", part="answer")
    second = RuleTeacher(name="last", style="short", reads="short", keep=0.5)
    known = {"long": marked(read(run_dir, BASE, SOURCES[:1], INDEX_COLUMNS))}
    edits = [edit(0, SOURCES[0].trace_id), edit(4, GONE)]
    traces = with_drops(read(run_dir, first, edits, (*INDEX_COLUMNS, *EDIT_COLUMNS)), first, known)
    known["short"] = marked(traces)
    lasts = [trace(one.sample_index, "last", n, parent=one.trace_id) for n, one in enumerate(edits)]
    found = with_drops(read(run_dir, second, lasts, (*INDEX_COLUMNS, *EDIT_COLUMNS)), second, known)
    assert outcomes(found, second, known) == {"kept": 1, "source missing": 1}


def test_a_pool_that_reads_an_empty_one_loses_all(run_dir: RunDir) -> None:
    teacher = RuleTeacher(name="short", style="short", reads="long", part="answer")
    known = {"long": marked(read(run_dir, BASE, [], INDEX_COLUMNS))}
    found = with_drops(read(run_dir, teacher, EDITS, (*INDEX_COLUMNS, *EDIT_COLUMNS)), teacher, known)
    assert outcomes(found, teacher, known) == {"source missing": len(EDITS)}
    assert outcomes(read(run_dir, BASE, SOURCES, INDEX_COLUMNS), BASE, known) == {}
