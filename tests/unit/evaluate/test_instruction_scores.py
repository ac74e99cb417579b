"""Answers to the set of instructions that ships, from requests to the numbers of the report, without an engine."""

from pathlib import Path
from typing import Any

from distill.config.benchmarks import DEFINITIONS
from distill.core.run_dir import RunDir, benchmark_scores
from distill.core.schema import Prompt, Score, Verdict
from distill.evaluate.models import EvaluatedModel
from distill.evaluate.read_scores import ScoredModel, read_scored
from distill.evaluate.requests import EvaluationItem, items, request_rows, score_rows
from distill.grading import GraderPool
from distill.prompts.stage import read_benchmark
from distill.report.model_scores import model_score
from tests.fixtures.report_run import make_recipe

NAME = "instructions-60"
MODEL = EvaluatedModel("student", "student", None, "key")
ANSWERS = {
    "Name three colours of autumn leaves": "Red on the maple and gold on the birch and brown on the oak.",
    "Describe a market on a Saturday": "Well, it is:\nLoud and full of fruit.",
    "Write a sentence that could stand on a postcard": "The peaks are white.",
}
"""Beginning of a prompt -> an answer: followed, followed loosely, and not."""


def prompts() -> list[Prompt]:
    config = DEFINITIONS[NAME].config
    found = read_benchmark(NAME, config, Path("/nowhere"), max_problem_chars=1000, seed=0).prompts
    return [prompt for prompt in found if prompt.problem.startswith(tuple(ANSWERS))]


def answered(row: dict[str, Any], problem: str) -> dict[str, Any]:
    text = next(answer for beginning, answer in ANSWERS.items() if problem.startswith(beginning))
    counts = {"prompt_tokens": 9, "completion_tokens": 9}
    return {**row, "completion": f"<think>Hm, so.</think>{text}", "error": "", "finish_reason": "stop", **counts}


def test_scores_hold_both_readings_and_single_instructions(run_dir: RunDir) -> None:
    recipe, asked = make_recipe(evaluate={"benchmarks": [NAME]}), prompts()
    by_id = {prompt.prompt_id: prompt for prompt in asked}
    rows = list(request_rows(EvaluationItem(MODEL, NAME, "k"), asked, recipe))
    assert {row["messages"][-1]["content"] for row in rows} == {prompt.problem for prompt in asked}
    done = [answered(row, by_id[row["prompt_id"]].problem) for row in rows]
    with GraderPool(deadline_s=60.0) as graders:
        scores = score_rows(done, by_id, recipe.evaluate, graders.grade_batch)
    run_dir.write_rows(scores, Score, *benchmark_scores("student", NAME))
    scored = read_scored(run_dir, ScoredModel("student", "student", "", None), NAME)
    strict = {name: Verdict(verdict) for name, verdict in zip(scored.prompt_ids, scored.verdicts, strict=True)}
    loose = {name: Verdict(verdict) for name, verdict in zip(scored.prompt_ids, scored.second_verdicts, strict=True)}
    found = {beginning: _of(beginning, by_id, strict, loose) for beginning in ANSWERS}
    right, wrong = Verdict.CORRECT, Verdict.INCORRECT
    assert list(found.values()) == [(right, right), (wrong, right), (wrong, wrong)]
    assert scored.instructions.sum(axis=0).tolist() == [3, 1, 2]
    score = model_score(scored)
    assert (score.correct, score.incorrect, score.string_match) == (1, 2, None)


def test_a_prompt_without_an_answer_follows_nothing_under_either_reading(run_dir: RunDir) -> None:
    recipe, asked = make_recipe(evaluate={"benchmarks": [NAME]}), prompts()
    by_id = {prompt.prompt_id: prompt for prompt in asked}
    followed, *texts = [next(iter(ANSWERS.values())), "<think>Hm, so", "<think>Hm, so.</think>", "la " * 9_000]
    first = next(prompt.prompt_id for prompt in asked if prompt.problem.startswith(next(iter(ANSWERS))))
    rows = [row for row in request_rows(EvaluationItem(MODEL, NAME, "k"), asked, recipe) if row["prompt_id"] == first]
    done = [
        {**answered(row, by_id[row["prompt_id"]].problem), "completion": text, "sample_index": sample}
        for row in rows
        for sample, text in enumerate([followed, *texts])
    ]
    with GraderPool(deadline_s=60.0) as graders:
        scores = score_rows(done, by_id, recipe.evaluate, graders.grade_batch)
    assert [score.verdict for score in scores] == [Verdict.CORRECT, *[Verdict.NO_ANSWER] * 3]
    assert [score.rule for score in scores[1:]] == ["reasoning_not_closed", "empty", "answer_too_long"]
    run_dir.write_rows(scores, Score, *benchmark_scores("student", NAME))
    scored = read_scored(run_dir, ScoredModel("student", "student", "", None), NAME)
    assert scored.second_verdicts.tolist() == [Verdict.CORRECT.value, *[Verdict.INCORRECT.value] * 3]
    assert scored.instructions.tolist() == [[1, 1, 1], *[[1, 0, 0]] * 3]


def _of(beginning: str, by_id: dict[str, Prompt], *verdicts: dict[str, Verdict]) -> tuple[Verdict, ...]:
    name = next(name for name, prompt in by_id.items() if prompt.problem.startswith(beginning))
    return tuple(one[name] for one in verdicts)


def test_only_keys_of_instructions_depend_on_their_checkers(monkeypatch: Any) -> None:
    recipe, sums = make_recipe(), [Prompt("s", "1 + 1", "2", "number", "s", "", "", "")]
    asked = {"arithmetic": sums, NAME: [Prompt("i", "Write.", "", "instructions", "s", "", "", "[]")]}

    def keys() -> list[str]:
        return [item.key for item in items([MODEL], asked, recipe)]

    before = keys()
    monkeypatch.setattr("distill.core.verifier_version.version", lambda package: "9")
    after = keys()
    assert before[0] == after[0] and before[1] != after[1]
