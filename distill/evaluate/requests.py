"""What an evaluation asks, and how answers become scores: requests, their keys, and graded rows. Pure functions."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Protocol

from distill.config.benchmarks import BenchmarkConfig, benchmark_config
from distill.config.decides import identity
from distill.config.evaluate import EvaluateConfig
from distill.config.serve import ServeSection
from distill.config.teachers import ChatFormat
from distill.core.run_dir import Parts, score_item
from distill.core.schema import Prompt, Score, Verdict, content_hash, seed_for
from distill.core.verifier_version import verifier_version
from distill.evaluate.language_detector import completion_languages
from distill.evaluate.models import EvaluatedModel
from distill.generate.pools import RequestFields, extra_body, sampling_params, taken_params
from distill.grading import Grade, GradeRequest, grade_request, reference_identity
from distill.grading.legacy_string_match import string_match
from distill.mix.trace_features import repeated_share
from distill.models.chat_template import chat_messages, with_mode
from distill.run.stage_keys import ASKING_VERSION, LANGUAGES_VERSION

ENDPOINT_RULE = "endpoint"
"""Rule of a score whose request failed: there is no answer."""

NEUTRAL = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "presence_penalty": 0.0, "frequency_penalty": 0.0}
"""What vLLM samples with where a request says nothing, once the model's own defaults are off."""


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
    answers_key: str
    """Of what decides the answers. Under it they are kept: what else changes has them graded anew, not asked again."""
    verdicts_key: str = ""
    """Of what decides the verdicts on them beside that: references, verifier, detection of languages."""

    @property
    def key(self) -> str:
        """Key of the score."""
        return content_hash(self.answers_key, self.verdicts_key)

    @property
    def folder(self) -> Parts:
        """Folder of its manifest; its rows are beside it."""
        return score_item(self.model.name, self.benchmark)


def items(
    models: Iterable[EvaluatedModel], benchmarks: Mapping[str, Sequence[Prompt]], recipe: Scoring
) -> list[EvaluationItem]:
    """Every model on every benchmark, with the keys of its answers and of their verdicts."""
    return [
        EvaluationItem(model, name, _answers_key(model, name, prompts, recipe), _verdicts_key(prompts))
        for model in models
        for name, prompts in benchmarks.items()
    ]


def _answers_key(model: EvaluatedModel, benchmark: str, prompts: Sequence[Prompt], recipe: Scoring) -> str:
    """Settings of other benchmarks are no part of it, and the seed only where answers are sampled."""
    settings = benchmark_settings(recipe.evaluate, benchmark)
    return content_hash(
        model.key,
        [prompt.prompt_id for prompt in prompts],
        identity(settings),
        recipe.seed if settings.sampling.temperature > 0 else None,
        ASKING_VERSION,
        identity(with_mode(recipe.student_chat, model.asked_as)),
        identity(recipe.serve.engine),
        benchmark_config(recipe.benchmarks, benchmark).template,
        model.opening,
    )


def _verdicts_key(prompts: Sequence[Prompt]) -> str:
    kinds = {prompt.answer_kind for prompt in prompts}
    languages = [LANGUAGES_VERSION] if any(prompt.language for prompt in prompts) else []
    return content_hash([reference_identity(prompt) for prompt in prompts], verifier_version(kinds), languages)


def benchmark_settings(evaluate: EvaluateConfig, benchmark: str) -> EvaluateConfig:
    """The evaluation's settings with `num_samples` and `sampling` of one benchmark."""
    one = evaluate.repeated.get(benchmark)
    if one is None:
        return evaluate
    sampling = evaluate.sampling.model_copy(update={"temperature": one.temperature, "top_p": one.top_p})
    return evaluate.model_copy(update={"num_samples": one.num_samples, "sampling": sampling})


@dataclass(frozen=True)
class Questions:
    """How a model is asked the problems of a benchmark."""

    evaluate: EvaluateConfig
    """With the sampling of the benchmark."""
    template: str
    chat: ChatFormat
    options: Mapping[str, Any]
    """Fields of a request beside the sampling."""
    seed: int

    def messages(self, problem: str) -> list[dict[str, str]]:
        """The turns that ask a problem."""
        return chat_messages(self.template.replace("{problem}", problem), self.chat)

    def sampling(self, prompt_id: str, sample: int) -> dict[str, Any]:
        """The other fields of a request, each sample with its own seed."""
        seed = seed_for(self.seed, prompt_id, sample)
        return {**sampling_params(self.evaluate.sampling, seed), **self.options}


def questions(model: EvaluatedModel, benchmark: str, recipe: Scoring) -> Questions:
    """How a model is asked the problems of a benchmark, for its scores and wherever an answer is compared with them."""
    chat = with_mode(recipe.student_chat, model.asked_as)
    options = model.plan.request if model.plan else {"mode": model.mode} if model.opening else {}
    options |= {"chat_template_kwargs": dict(chat.template_options)} if chat.template_options else {}
    settings, template = benchmark_settings(recipe.evaluate, benchmark), benchmark_template(recipe, benchmark)
    return Questions(settings, template, chat, options, recipe.seed)


def benchmark_template(recipe: Scoring, benchmark: str) -> str:
    """What the problems of a benchmark are put into, before the student's own template; with `{problem}`."""
    return benchmark_config(recipe.benchmarks, benchmark).template or "{problem}"


def as_taken(sampling: Mapping[str, Any], fields: RequestFields | None) -> dict[str, Any]:
    """The sampling of a request as an endpoint with other fields takes it; None: unchanged."""
    if fields is None:
        return dict(sampling)
    ours = {name: value for name, value in sampling.items() if name != "chat_template_kwargs"}
    return taken_params(ours, fields) | extra_body(fields, sampling.get("chat_template_kwargs", {}))


def request_rows(
    item: EvaluationItem,
    prompts: Sequence[Prompt],
    recipe: Scoring,
    *,
    served_as: str = "",
    fields: RequestFields | None = None,
) -> Iterator[dict[str, Any]]:
    """The requests of an item: a row per prompt and sample, each with its own seed.

    `served_as`: the model's name at the endpoint where it has another there; `fields`: what the endpoint takes.
    """
    asked = questions(item.model, item.benchmark, recipe)
    for prompt in prompts:
        for sample in range(asked.evaluate.num_samples):
            yield {
                "model": served_as or item.model.served_name,
                "scored_as": item.model.name,
                "benchmark": item.benchmark,
                "prompt_id": prompt.prompt_id,
                "sample_index": sample,
                "messages": asked.messages(prompt.problem),
                "sampling": as_taken(asked.sampling(prompt.prompt_id, sample), fields),
            }


def asked_sampling(item: EvaluationItem, recipe: Scoring, fields: RequestFields | None = None) -> dict[str, Any]:
    """What applied to every answer of a score, for the record: nothing of it is a default of the model."""
    chat = with_mode(recipe.student_chat, item.model.asked_as)
    engine = {name: value for name, value in recipe.serve.engine.kwargs.items() if "generation_config" in name}
    found = {
        **NEUTRAL,
        **sampling_params(benchmark_settings(recipe.evaluate, item.benchmark).sampling, None),
        "template_options": chat.template_options,
        "engine": engine,
        "extra_body": dict(fields.extra_body) if fields else {},
        **(item.model.plan.request if item.model.plan else {}),
        "opening": item.model.opening or {},
    }
    unsent = fields.omit_sampling if fields else ()
    return {name: value for name, value in found.items() if value not in ({}, []) and name not in unsent}


def interleave(groups: Iterable[Sequence[dict[str, Any]]], at_once: int) -> Iterator[dict[str, Any]]:
    """The rows of so many groups in turn (round robin); where one ends, the next takes its place."""
    waiting = map(iter, groups)
    current = deque(islice(waiting, at_once))
    while current:
        row = next(current[0], None)
        if row is None:
            current.popleft()
            current.extendleft(islice(waiting, 1))
        else:
            yield row
            current.rotate(-1)


def score_rows(
    rows: Sequence[Mapping[str, Any]],
    prompts: Mapping[str, Prompt],
    evaluate: EvaluateConfig,
    grade_batch: Callable[[Sequence[GradeRequest]], list[Grade]],
    *,
    must_reason: bool = False,
    opening: str = "",
) -> list[Score]:
    """Grade answered rows, and tell their languages where prompts have one. A failed request is ERROR, never a wrong
    answer.

    `must_reason`: the prompts open the reasoning, so that a completion without its end has no answer; `opening`: the
    sentence of a forced language, which no model wrote.
    """
    requests = [
        grade_request(
            prompts[row["prompt_id"]],
            row["completion"],
            finish_reason=row["finish_reason"],
            reasoning_end=evaluate.reasoning_end,
            must_reason=must_reason,
        )
        for row in rows
        if not row["error"]
    ]
    grades = iter(grade_batch(requests))
    compared = iter([string_match(request) for request in requests])
    scores = [_score(row, _failed(row)) if row["error"] else _score(row, next(grades), next(compared)) for row in rows]
    return [_with_languages(score, prompts[score.prompt_id].language, evaluate, opening) for score in scores]


def _with_languages(score: Score, own: str, evaluate: EvaluateConfig, opening: str) -> Score:
    if not own or not score.completion:
        return score
    told = completion_languages(score.completion, own, reasoning_end=evaluate.reasoning_end, given=opening)
    return replace(
        score,
        reasoning_language=told.reasoning,
        answer_language=told.answer,
        told_letters=told.told,
        own_letters=told.own,
    )


def _failed(row: Mapping[str, Any]) -> Grade:
    return Grade(verdict=Verdict.ERROR, extracted="", rule=ENDPOINT_RULE, detail=str(row["error"])[:500])


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
