"""Has an LLM judge say which answers to harmless questions are refusals, beside the rules, which know English alone.

It reads and completes scores that are on disk: a judge that is named later, or another one, asks no student again. A
request that failed is no judgement, and is asked again when the stage runs again.
"""

import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from distill.config.verify import JudgeConfig, refusal_judge_name
from distill.core.run_dir import RunDir, benchmark_scores
from distill.core.schema import AnswerKind, Prompt, Score, Verdict
from distill.evaluate.requests import EvaluationItem
from distill.grading.extract import answer_part
from distill.models.api_key import endpoint_key
from distill.run.context import read_benchmark
from distill.verify.judge import REFUSAL, Judge, Judgement, Question


def judge_refusals(
    run_dir: RunDir, items: Sequence[EvaluationItem], config: JudgeConfig, reasoning_end: str
) -> dict[str, Any]:
    """Have answers judged that this judge has not judged yet; scores are rewritten in place, by rename.

    Returns:
        Counts for the manifest: answers judged, where judge and rules disagree, and why there is no judgement.

    Raises:
        InputError: the environment variable that the recipe names for the key is not set.
    """
    judge = Judge(config, endpoint_key(config.api_key_env, "evaluate.judge.api_key_env"), REFUSAL)
    counts: Counter[str] = Counter()
    for item in items:
        prompts = read_benchmark(run_dir, item.benchmark)
        asked = {name: one for name, one in prompts.items() if one.answer_kind == AnswerKind.REFUSAL}
        if asked:
            place = benchmark_scores(item.model.name, item.benchmark)
            scores = [Score(**row) for row in run_dir.read_table(*place, row_type=Score).to_pylist()]
            renewed = judged_scores(scores, asked, judge, reasoning_end)
            if renewed != scores:
                run_dir.write_rows(renewed, Score, *place)
            counts.update(map(_outcome, (one for one in renewed if one.prompt_id in asked)))
    return {"name": refusal_judge_name(config), **counts}


def judged_scores(
    scores: Sequence[Score], prompts: Mapping[str, Prompt], judge: Judge, reasoning_end: str
) -> list[Score]:
    """The scores with the judgements that were missing. An answer that the rules found none in has none to judge."""
    name = refusal_judge_name(judge.config)
    missing = {
        number: one
        for number, one in enumerate(scores)
        if one.prompt_id in prompts and one.verdict != Verdict.ERROR and not (one.judge == name and one.judge_verdict)
    }
    parts = {number: answer_part(one.completion, reasoning_end) or "" for number, one in missing.items()}
    sent = [number for number, one in missing.items() if one.verdict != Verdict.NO_ANSWER]
    questions = [Question(prompts[missing[number].prompt_id].problem, "", parts[number].strip()) for number in sent]
    found = dict(zip(sent, judge.judge_batch(questions) if questions else (), strict=True))
    renewed = list(scores)
    for number, one in missing.items():
        verdict, detail = found.get(number, Judgement(Verdict.NO_ANSWER, "no answer to judge"))
        renewed[number] = dataclasses.replace(one, judge_verdict=str(verdict), judge=name, judge_detail=detail)
    return renewed


def _outcome(score: Score) -> str:
    if not score.judge_verdict:
        return "no_judgement"
    return "agrees" if score.judge_verdict == score.verdict else "disagrees"
