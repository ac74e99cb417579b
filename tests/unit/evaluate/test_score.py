"""A benchmark asked through a fake endpoint: stopped half-way, continued, written once."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import distill.evaluate.score
from distill.config.verify import VerifyConfig
from distill.core.run_dir import RunDir
from distill.core.schema import Score
from distill.evaluate.models import EvaluatedModel
from distill.evaluate.requests import ENDPOINT_RULE, items
from distill.evaluate.score import EndpointAddress, ScoreSink, score_answered, score_items, unscored
from serve.dataset_client import BatchConfig
from tests.fixtures.benchmark_prompts import make_prompts, two_benchmarks

MODEL = EvaluatedModel("student", "hub/student", None, "key")


class FakeRows:
    """What `complete` returns, as far as it is used; `stop_after` rows the process is interrupted."""

    def __init__(self, asked: list[str], stop_after: int) -> None:
        self.asked = asked
        self.stop_after = stop_after

    def __call__(self, rows: Sequence[dict[str, Any]], url: str, config: BatchConfig) -> "FakeRows":
        self.rows = rows
        return self

    def iter_rows(self) -> Iterator[dict[str, Any]]:
        for number, row in enumerate(self.rows):
            if number == self.stop_after:
                raise KeyboardInterrupt
            self.asked.append(f"{row['model']} {row['benchmark']} {row['prompt_id']}")
            answer = {"completion": r"\boxed{27}", "finish_reason": "stop", "prompt_tokens": 3, "completion_tokens": 5}
            yield row | answer | {"error": ""}


def test_an_interrupted_benchmark_resumes_and_no_request_is_sent_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, run_dir, asked = two_benchmarks(), RunDir(str(tmp_path)), list[str]()
    prompts = {"arithmetic": make_prompts(5), "other": make_prompts(5)}
    wanted = items([MODEL], prompts, recipe)
    place = ScoreSink(run_dir, Console(quiet=True), VerifyConfig())
    address = EndpointAddress("http://nowhere", BatchConfig(), served_as="org/remote")
    monkeypatch.setattr(distill.evaluate.score, "complete", FakeRows(asked, stop_after=7))
    with pytest.raises(KeyboardInterrupt):
        score_items(wanted, prompts, recipe, place, address)
    assert [item.benchmark for item in unscored(wanted, run_dir)] == ["other"]
    assert len(run_dir.shards("evaluate", "student", "other.answers")) == 1

    monkeypatch.setattr(distill.evaluate.score, "complete", FakeRows(asked, stop_after=99))
    score_items(list(unscored(wanted, run_dir)), prompts, recipe, place, address)
    assert len(asked) == len(set(asked)) == 10 and asked[0].startswith("org/remote arithmetic ")
    assert not list(unscored(wanted, run_dir)) and not run_dir.shards("evaluate", "student", "other.answers")
    for benchmark in prompts:
        rows = run_dir.read_table("evaluate", "student", f"{benchmark}.parquet", row_type=Score).to_pylist()
        assert {row["model"] for row in rows} == {"student"} and len({row["prompt_id"] for row in rows}) == 5
        assert sorted(row["verdict"] for row in rows) == ["CORRECT", *["INCORRECT"] * 4]


def test_a_benchmark_with_all_answers_is_graded_without_requests(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe, run_dir, asked = two_benchmarks(), RunDir(str(tmp_path)), list[str]()
    prompts = {"arithmetic": make_prompts(3)}
    wanted = items([MODEL], prompts, recipe)
    place, address = (
        ScoreSink(run_dir, Console(quiet=True), VerifyConfig()),
        EndpointAddress("http://x", BatchConfig(), True),
    )
    monkeypatch.setattr(distill.evaluate.score, "complete", FakeRows(asked, stop_after=99))
    with monkeypatch.context() as broken:
        broken.setattr(distill.evaluate.score, "write_scores", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            score_items(wanted, prompts, recipe, place, address)
    score_items(wanted, prompts, recipe, place, address)
    assert len(asked) == 3 and not list(unscored(wanted, run_dir))


def test_corrected_references_grade_the_same_answers_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, run_dir, asked = two_benchmarks(), RunDir(str(tmp_path)), list[str]()
    place, address = ScoreSink(run_dir, Console(quiet=True), VerifyConfig()), EndpointAddress("http://x", BatchConfig())
    before = {"arithmetic": make_prompts(3)}
    monkeypatch.setattr(distill.evaluate.score, "complete", FakeRows(asked, stop_after=99))
    score_items(items([MODEL], before, recipe), before, recipe, place, address)
    scores = [replace(one, judge_verdict="CORRECT", judge="j") for one in stored(run_dir)]
    assert sorted(one.verdict for one in scores) == ["CORRECT", "INCORRECT", "INCORRECT"]
    failed = replace(scores[0], rule=ENDPOINT_RULE, completion="", verdict="ERROR")

    corrected = {"arithmetic": [replace(one, reference="27") for one in before["arithmetic"]]}
    wanted = items([MODEL], corrected, recipe)
    run_dir.write_rows([failed, *scores[1:]], Score, "evaluate", "student", "arithmetic.parquet")
    assert score_answered(wanted, corrected, recipe, place) == wanted, "a failed request has no answer"
    run_dir.write_rows(scores, Score, "evaluate", "student", "arithmetic.parquet")
    assert list(unscored(wanted, run_dir)) == wanted and not score_answered(wanted, corrected, recipe, place)
    assert not list(unscored(wanted, run_dir)) and len(asked) == 3
    assert {(one.verdict, one.completion, one.judge) for one in stored(run_dir)} == {("CORRECT", r"\boxed{27}", "")}

    refusals = {"arithmetic": [replace(one, answer_kind="refusal") for one in before["arithmetic"]]}
    for verdict, kept in (("CORRECT", "j"), ("NO_ANSWER", "")):
        old = [replace(one, verdict=verdict) for one in scores]
        run_dir.write_rows(old, Score, "evaluate", "student", "arithmetic.parquet")
        assert not score_answered(items([MODEL], refusals, recipe), refusals, recipe, place)
        assert {(one.verdict, one.judge) for one in stored(run_dir)} == {("CORRECT", kept)}, "no answer was judged"
    assert not score_answered(wanted, corrected, recipe, place) and not any(one.judge for one in stored(run_dir))

    other = two_benchmarks(sampling={"max_tokens": 17})
    again = items([MODEL], corrected, other)
    assert score_answered(again, corrected, other, place) == again, "other answers"


def stored(run_dir: RunDir) -> list[Score]:
    rows = run_dir.read_table("evaluate", "student", "arithmetic.parquet", row_type=Score).to_pylist()
    return [Score(**row) for row in rows]
