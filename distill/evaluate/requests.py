"""What an evaluation asks, and how answers become scores: requests, their keys, and graded rows. Pure functions."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, Protocol

from distill.config.benchmarks import BenchmarkConfig, benchmark_config
from distill.config.decides import identity
from distill.config.evaluate import EvaluateConfig
from distill.config.serve import ServeSection
from distill.config.teachers import ChatFormat
from distill.core.run_dir import Parts, score_item
from distill.core.schema import Prompt, Score, Verdict, content_hash, seed_for
from distill.evaluate.models import EvaluatedModel
from distill.generate.pools import sampling_params
from distill.grading import VERIFIER_VERSION, Grade, GradeRequest, grade_request
from distill.grading.legacy_string_match import string_match
from distill.mix.trace_features import repeated_share
from distill.models.chat_template import chat_messages, with_mode


class Scoring(Protocol):
    """The sections that decide a score: of a recipe, or of `distill eval`."""

    @property
    def seed(self) -> int: ...
    @property
    def student_chat(self) -> ChatFormat: ...
    @property
    def benchmarks(self) -> dict[str, BenchmarkConfig]: ...
    @property
    def evaluate(self) -> EvaluateConfig: ...
    @property
    def serve(self) -> ServeSection: ...


@dataclass(frozen=True)
class EvaluationItem:
    """One model on one benchmark: scored, kept and skipped as a whole."""

    model: EvaluatedModel
    benchmark: str
    key: str

    @property
    def folder(self) -> Parts:
        """Folder of its manifest; its rows are beside it."""
        return score_item(self.model.name, self.benchmark)


def items(
    models: Iterable[EvaluatedModel], benchmarks: Mapping[str, Sequence[Prompt]], recipe: Scoring
) -> list[EvaluationItem]:
    """Every model on every benchmark, with the key of its score."""
    return [
        EvaluationItem(
            model,
            name,
            content_hash(model.key, [prompt.prompt_id for prompt in prompts], _settings(recipe, name, model.mode_line)),
        )
        for model in models
        for name, prompts in benchmarks.items()
    ]


def _settings(recipe: Scoring, benchmark: str, line: str) -> list[Any]:
    """What decides a score, beside the model and the problems; settings of other benchmarks are no part of it."""
    return [
        identity(benchmark_settings(recipe.evaluate, benchmark)),
        identity(with_mode(recipe.student_chat, line)),
        identity(recipe.serve.engine),
        VERIFIER_VERSION,
        benchmark_config(recipe.benchmarks, benchmark).template,
    ]


def benchmark_settings(evaluate: EvaluateConfig, benchmark: str) -> EvaluateConfig:
    """The evaluation's settings with `num_samples` and `sampling` of one benchmark."""
    one = evaluate.repeated.get(benchmark)
    if one is None:
        return evaluate
    sampling = evaluate.sampling.model_copy(update={"temperature": one.temperature, "top_p": one.top_p})
    return evaluate.model_copy(update={"num_samples": one.num_samples, "sampling": sampling})


def request_rows(
    item: EvaluationItem, prompts: Sequence[Prompt], recipe: Scoring, served_as: str = ""
) -> Iterator[dict[str, Any]]:
    """The requests of an item: a row per prompt and sample, each with its own seed."""
    evaluate = benchmark_settings(recipe.evaluate, item.benchmark)
    template = benchmark_config(recipe.benchmarks, item.benchmark).template or "{problem}"
    chat = with_mode(recipe.student_chat, item.model.mode_line)
    helped = {"speculative": item.model.helper.model_dump(mode="json")} if item.model.helper else {}
    for prompt in prompts:
        for sample in range(evaluate.num_samples):
            yield {
                "model": served_as or item.model.served_name,
                "scored_as": item.model.name,
                "benchmark": item.benchmark,
                "prompt_id": prompt.prompt_id,
                "sample_index": sample,
                "messages": chat_messages(template.replace("{problem}", prompt.problem), chat),
                "sampling": sampling_params(evaluate.sampling, seed_for(recipe.seed, prompt.prompt_id, sample))
                | helped,
            }


def interleave(groups: Iterable[Sequence[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """Rows of all groups in turn (round robin), so that every engine has work from the start."""
    for rows in zip_longest(*groups):
        yield from (row for row in rows if row is not None)


def score_rows(
    rows: Sequence[Mapping[str, Any]],
    prompts: Mapping[str, Prompt],
    evaluate: EvaluateConfig,
    grade_batch: Callable[[Sequence[GradeRequest]], list[Grade]],
) -> list[Score]:
    """Grade answered rows. A failed request is ERROR, never a wrong answer."""
    requests = [
        grade_request(
            prompts[row["prompt_id"]],
            row["completion"],
            finish_reason=row["finish_reason"],
            reasoning_end=evaluate.reasoning_end,
        )
        for row in rows
        if not row["error"]
    ]
    grades = iter(grade_batch(requests))
    compared = iter([string_match(request) for request in requests])
    return [_score(row, _failed(row)) if row["error"] else _score(row, next(grades), next(compared)) for row in rows]


def _failed(row: Mapping[str, Any]) -> Grade:
    return Grade(verdict=Verdict.ERROR, extracted="", rule="endpoint", detail=str(row["error"])[:500])


def _score(row: Mapping[str, Any], grade: Grade, compared: str = "") -> Score:
    return Score(
        model=row["model"],
        benchmark=row["benchmark"],
        prompt_id=row["prompt_id"],
        sample_index=int(row["sample_index"]),
        completion=row["completion"] or "",
        verdict=grade.verdict,
        extracted=grade.extracted,
        rule=grade.rule,
        detail=grade.detail,
        prompt_tokens=int(row["prompt_tokens"] or 0),
        completion_tokens=int(row["completion_tokens"] or 0),
        finish_reason=row["finish_reason"] or "",
        seed=int(row["sampling"]["seed"]),
        repetition=repeated_share((row["completion"] or "").split()),
        string_match=compared,
    )
