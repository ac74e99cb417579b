"""Imported pools: rows find their prompts, what is gone from the source is gone here, lost reasoning is loud."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from distill.config.verify import VerifyConfig
from distill.core.errors import InputError
from distill.core.run_dir import FAILED_REQUESTS, RunDir, pool_shards
from distill.core.schema import Dropped, Prompt, Trace, prompt_id
from distill.generate import dataset_teacher
from distill.generate.dataset_teacher import ImportedPool, import_pool
from distill.run.pools import Pool
from tests.fixtures.data_sources import teacher_of

PROBLEMS = {"What is 17 + 17?": "34", "What is 3⁴?": "81", "What is 34?": "34"}
PROMPTS = {
    prompt_id(problem): Prompt(prompt_id(problem), problem, answer, "number", "s", "", "", "")
    for problem, answer in PROBLEMS.items()
}
LONG = "<think>\n17 and 17 make 34.\n</think>\n\n\\boxed{34}"


@pytest.fixture(autouse=True)
def _no_tokenizer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dataset_teacher, "token_counter", lambda path: len)


def imported(folder: Path, rows: list[dict[str, Any]], **fields: Any) -> tuple[ImportedPool, list[dict[str, Any]]]:
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    teacher = teacher_of(kind="dataset", source={"kind": "file", "path": "rows.jsonl"}, **fields)
    pool, run_dir = Pool(teacher, "model", "f"), RunDir(str(folder / "run"))
    found = import_pool(pool, PROMPTS, base=folder, run_dir=run_dir, verify=VerifyConfig())
    traces = run_dir.read_table(*pool_shards(pool.folder), row_type=Trace).to_pylist()
    return found, sorted(traces, key=lambda trace: str(trace["completion"]))


def row(completion: Any, problem: str = "What is 17 + 17?", **more: Any) -> dict[str, Any]:
    return {"problem": problem, "completion": completion, **more}


def test_traces_find_their_prompts_and_are_graded(tmp_path: Path) -> None:
    rows = [row(LONG), row("\\boxed{35}"), row("\\boxed{1}", "A stranger"), row(LONG), row(None)]
    found, traces = imported(tmp_path, rows)
    assert [trace["verdict"] for trace in traces] == ["CORRECT", "INCORRECT"]
    assert found.counts == Counter(
        {"traces": 2, "not one of the run's prompts": 1, "duplicate trace": 1, "no completion": 1}
    )


def test_a_power_is_another_problem_than_its_digits(tmp_path: Path) -> None:
    _, traces = imported(tmp_path, [row("\\boxed{81}", "What is 3⁴?"), row("\\boxed{34}", "What is 34?")])
    assert [trace["verdict"] for trace in traces] == ["CORRECT", "CORRECT"]
    assert len({trace["prompt_id"] for trace in traces}) == 2


def test_a_row_that_was_deleted_in_the_source_is_deleted_here(tmp_path: Path) -> None:
    first, before = imported(tmp_path, [row(LONG), row("\\boxed{34}")])
    second, after = imported(tmp_path, [row(LONG)])
    assert (len(before), first.num_removed) == (2, 0)
    assert ([trace["completion"] for trace in after], second.num_removed) == ([LONG], 1)
    assert second.counts["traces"] == 1
    third, again = imported(tmp_path, [row(LONG), row("\\boxed{34}")])
    assert (len(again), third.num_removed) == (2, 0)


def test_traces_of_prompts_that_are_not_asked_now_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row(LONG), row("\\boxed{81}", "What is 3⁴?")]
    imported(tmp_path, rows)
    monkeypatch.delitem(PROMPTS, prompt_id("What is 3⁴?"))
    found, traces = imported(tmp_path, rows[:1])
    assert len(traces) == 2 and found.num_removed == 0


def test_nothing_is_removed_after_a_source_that_broke_off(tmp_path: Path) -> None:
    imported(tmp_path, [row(LONG)])
    with pytest.raises(InputError, match="no row has 'modell'"):
        imported(tmp_path, [row("\\boxed{34}")], where={"modell": "x"})
    _, traces = imported(tmp_path, [row(LONG)])
    assert [trace["completion"] for trace in traces] == [LONG]


def test_a_column_that_no_row_has_is_an_error_that_names_those_there_are(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="named in its columns -> did you mean 'completion'"):
        imported(tmp_path, [row(LONG)], columns={"completion": "completions"})
    with pytest.raises(InputError, match="known: completion, model, problem"):
        imported(tmp_path, [row(LONG, model="m")], where={"x": 1})


def test_rows_of_other_pools_are_counted_and_not_kept(tmp_path: Path) -> None:
    rows = [row(LONG, model="a", score=0.9), row("\\boxed{34}", model="b", score=0.9), row("no", model="a", score=0.1)]
    found, traces = imported(tmp_path, rows, where={"model": ["a", "c"], "score": {"min": 0.5}})
    assert len(traces) == 1 and found.counts == Counter({"traces": 1, "excluded by where": 2})


def test_parallel_columns_keep_their_places(tmp_path: Path) -> None:
    rows = [row([None, "\\boxed{34}", LONG, "cut"], finish_reason=["stop", "stop", "stop", "length"], ok=[1, 0, 1, 1])]
    found, traces = imported(tmp_path, rows, columns={"correct": "ok"})
    assert [(trace["completion"], trace["finish_reason"]) for trace in traces] == [(LONG, "stop"), ("cut", "length")]
    assert found.counts["the data set calls it wrong"] == 1 and found.counts["no completion"] == 1


def test_reasoning_in_a_column_of_its_own_becomes_part_of_the_trace(tmp_path: Path) -> None:
    rows = [row("\\boxed{34}", thoughts="17 and 17 make 34.")]
    found, (trace,) = imported(tmp_path, rows, columns={"reasoning": "thoughts"})
    assert trace["completion"] == LONG and "17 and 17" in trace["reasoning"] and not found.warning


def test_a_row_whose_reasoning_is_lost_is_dropped_and_counted(tmp_path: Path) -> None:
    rows = [row(["\\boxed{34}", "34"], thoughts=["Hm."]), row("\\boxed{34}", thoughts=["Hm.", "So."])]
    found, traces = imported(tmp_path, rows, columns={"reasoning": "thoughts"})
    assert not traces
    assert found.counts == {"its list of reasoning is not as long as its list of completions": 3, "traces": 0}


def test_marks_that_do_not_say_whose_they_are_drop_their_row(tmp_path: Path) -> None:
    rows = [
        row([LONG, "34"], finish_reason=["length"], ok=[1, 1]),
        row([LONG, "34"], finish_reason="stop", ok=[0, 1, 1]),
        row([], finish_reason=["stop"], ok=[1]),
    ]
    found, traces = imported(tmp_path, rows, columns={"correct": "ok"})
    assert not traces and found.counts == {
        "its list of finish_reason is not as long as its list of completions": 2,
        "its list of ok is not as long as its list of completions": 2,
        "no completion": 1,
        "traces": 0,
    }


def test_a_long_pool_without_reasoning_is_warned_about_with_examples(tmp_path: Path) -> None:
    rows = [row("\\boxed{34}"), row("It is \\boxed{34}."), row(LONG)]
    found, _ = imported(tmp_path, rows)
    assert "2 of its 3 traces hold no reasoning that ends in '</think>'" in found.warning
    assert "It is" in found.warning and "columns.reasoning" in found.warning
    again, _ = imported(tmp_path, rows)
    assert again.warning == found.warning, "also of traces that are on disk"
    for fields in ({"style": "short"}, {"reasoning_end": "\\boxed"}, {"reasoning_end": ""}):
        assert not imported(tmp_path, rows, **fields)[0].warning


def test_of_millions_of_strangers_some_are_kept_and_all_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset_teacher, "MAX_KEPT_DROPS", 3)
    found, _ = imported(tmp_path, [row(LONG), *(row(LONG, f"Stranger {n}") for n in range(9))])
    assert found.counts["not one of the run's prompts"] == 9
    kept = RunDir(str(tmp_path / "run")).read_table(*FAILED_REQUESTS, row_type=Dropped)
    assert kept.num_rows == 3
    imported(tmp_path, [row(LONG)])
    assert RunDir(str(tmp_path / "run")).read_table(*FAILED_REQUESTS, row_type=Dropped).num_rows == 0
