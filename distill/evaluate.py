"""Stage 6: students and their untouched selves answer the benchmarks through Ray Serve; the verifier that read the
traces reads their answers.

A score is kept per model and benchmark under a content key, so a finished one is never computed again. Models are
taken in waves of as many engines as may be up at once; adapters share their base model's engine.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest
from typing import Any, Protocol

from cluster.engine import parallel_arguments
from cluster.session import Device, Session
from distill.builtin_benchmarks import benchmark_config
from distill.config import BenchmarkConfig, EvaluateConfig, Recipe, ServeSection
from distill.config_teachers import ChatFormat
from distill.grading import VERIFIER_VERSION, Grade, GradeRequest, grade_request
from distill.grading.string_match import string_match
from distill.mix.features import repeated_share
from distill.models import ResolvedModel
from distill.render import chat_messages, with_mode
from distill.run_dir import RunDir
from distill.schema import Prompt, Score, Style, Verdict, content_hash, seed_for
from distill.teachers.pools import sampling_params
from distill.train.cells import Cell, all_cells
from serve.config import Endpoint, EngineSpec, ServeConfig, group_engines
from serve.plans import Speculation

STAGE = "evaluate"


class Scoring(Protocol):
    """The sections that decide a score: a recipe's, or those of `distill eval`."""

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
class Evaluated:
    """A model to be scored or served: a student's untouched self, or one of its cells."""

    name: str
    source: str
    adapter: str | None
    key: str
    """Content hash of the weights' origin."""
    mode: str = ""
    """The mode that it is asked in; empty where it knows none."""
    line: str = ""
    """What asks for the mode."""
    helper: Speculation | None = None
    """Who writes its hard steps."""

    @property
    def served_name(self) -> str:
        """The model's name at the endpoint, the same in every mode, helped or not."""
        alone = self.name.removesuffix(f"+{self.helper.model}") if self.helper else self.name
        return alone.removesuffix(mode_name("", self.mode))

    @property
    def endpoint(self) -> Endpoint:
        """How Serve is told of it."""
        return Endpoint(name=self.served_name, source=self.source, adapter=self.adapter)


@dataclass(frozen=True)
class Item:
    """One model on one benchmark: what is scored, kept and skipped as a whole."""

    model: Evaluated
    benchmark: str
    key: str

    @property
    def folder(self) -> tuple[str, str, str]:
        """Where its manifest is; its rows are beside that folder."""
        return STAGE, self.model.name, self.benchmark


def evaluated_models(recipe: Recipe, models: Mapping[str, ResolvedModel], run_dir: RunDir) -> list[Evaluated]:
    """Untouched students first, then their cells, once in each mode; an adapter rides on the untouched weights."""
    untouched = [
        Evaluated(student.name, models[student.model].place, None, models[student.model].identity)
        for student in recipe.students
    ]
    modes = {mix.name: mix.modes for mix in recipe.mixes}
    trained = [(_trained(cell, models, run_dir), modes.get(cell.mix, {})) for cell in all_cells(recipe)]
    return untouched + [one for model, lines in trained for one in _in_modes(model, lines)]


def _in_modes(model: Evaluated, lines: Mapping[Style, str]) -> list[Evaluated]:
    found = [replace(model, name=mode_name(model.name, mode), mode=mode, line=line) for mode, line in lines.items()]
    return found or [model]


def mode_name(name: str, mode: str) -> str:
    """What a model is called where it is scored in one of its modes: `student@mix:long`."""
    return f"{name}:{mode}" if mode else name


def _trained(cell: Cell, models: Mapping[str, ResolvedModel], run_dir: RunDir) -> Evaluated:
    manifest = run_dir.read_manifest("train", cell.name)
    key = manifest.key if manifest else ""
    if cell.student.tune.kind == "lora" and cell.merge is None:
        adapter = run_dir.place("train", cell.name, "adapter", version=key)
        return Evaluated(cell.name, models[cell.student.model].place, adapter, key)
    return Evaluated(cell.name, run_dir.place("train", cell.name, "model", version=key), None, key)


def helped_models(recipe: Recipe, models: Sequence[Evaluated]) -> list[Evaluated]:
    """The arms of speculative thinking: a student under the name `student@mix+helper`."""
    by_name = {model.name: model for model in models}
    return [
        replace(
            by_name[arm.student],
            name=arm.student + arm.suffix,
            key=content_hash([by_name[arm.student].key, helper_of(arm.helper, models).key]),
            helper=arm.helper,
        )
        for arm in recipe.evaluate.speculative
    ]


def helper_of(option: Speculation, models: Sequence[Evaluated]) -> Evaluated:
    """The model that helps."""
    return next(model for model in models if model.served_name == option.model)


def same_weights(models: Iterable[Evaluated]) -> dict[str, str]:
    """model -> the first model with the very same weights: one base under two students is loaded and scored once."""
    first: dict[tuple[str, str | None, str, Speculation | None], str] = {}
    return {
        model.name: first.setdefault((model.source, model.adapter, model.line, model.helper), model.name)
        for model in models
    }


def items(models: Iterable[Evaluated], benchmarks: Mapping[str, Sequence[Prompt]], recipe: Scoring) -> list[Item]:
    """Every model on every benchmark, with the key of its score."""
    return [
        Item(
            model,
            name,
            content_hash(model.key, [prompt.prompt_id for prompt in prompts], _settings(recipe, name, model.line)),
        )
        for model in models
        for name, prompts in benchmarks.items()
    ]


def _settings(recipe: Scoring, benchmark: str, line: str) -> list[Any]:
    """What decides a score beside the model and the problems; another benchmark's settings are no part of it."""
    evaluate = asked(recipe.evaluate, benchmark)
    return [
        evaluate.model_dump(mode="json", exclude={"benchmarks", "max_in_flight", "repeated", "speculative"}),
        with_mode(recipe.student_chat, line).model_dump(),
        recipe.serve.engine.model_dump(),
        VERIFIER_VERSION,
        *filter(None, [benchmark_config(recipe.benchmarks, benchmark).template]),
    ]


def asked(evaluate: EvaluateConfig, benchmark: str) -> EvaluateConfig:
    """The settings with `num_samples` and `sampling` as they are for one benchmark."""
    one = evaluate.repeated.get(benchmark)
    if one is None:
        return evaluate
    sampling = evaluate.sampling.model_copy(update={"temperature": one.temperature, "top_p": one.top_p})
    return evaluate.model_copy(update={"num_samples": one.num_samples, "sampling": sampling})


def waves(models: Sequence[Evaluated], max_engines: int) -> list[list[Evaluated]]:
    """Models in groups whose engines may be up together; an engine's models are never split."""
    specs: Sequence[EngineSpec] = group_engines(endpoints(models)) if models else ()
    by_name: dict[str, list[Evaluated]] = defaultdict(list)
    for model in models:
        by_name[model.served_name].append(model)
    return [
        [
            one
            for spec in specs[start : start + max_engines]
            for endpoint in spec.endpoints
            for one in by_name[endpoint.name]
        ]
        for start in range(0, len(specs), max_engines)
    ]


def with_helped(models: Sequence[Evaluated], unhelped: Sequence[Evaluated], max_engines: int) -> list[list[Evaluated]]:
    """The waves of all models: a helped student comes with a wave that has both its engines, else in one of its own."""
    found = waves([model for model in models if model.helper is None], max_engines)
    for model in models:
        if model.helper is None:
            continue
        both = {model.served_name, model.helper.model}
        fitting = [wave for wave in found if both <= {one.served_name for one in wave}]
        if fitting:
            fitting[0].append(model)
        else:
            found.append([model, helper_of(model.helper, unhelped)])
    return found


def endpoints(models: Iterable[Evaluated]) -> list[Endpoint]:
    """The endpoints of models: one for all modes of a student."""
    return list({model.served_name: model.endpoint for model in models}.values())


def engines_at_once(section: ServeSection, session: Session) -> int:
    """Engines that the nodes of the connected cluster can hold now."""
    nodes = session.nodes()
    num_cpus, num_gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    return engines_that_fit(section, session.device, num_cpus=num_cpus, num_gpus=num_gpus)


def engines_that_fit(section: ServeSection, device: Device, *, num_cpus: float, num_gpus: float) -> int:
    """Engines that a cluster can hold and still run Ray Data's small tasks, for which a CPU is left; at least one."""
    by_cpu = (num_cpus - 1.0) / section.cpus_per_engine
    per_engine = section.engine.tensor_parallel * section.engine.pipeline_parallel
    by_gpu = num_gpus / per_engine if device == "gpu" else by_cpu
    return max(1, min(section.max_engines, int(min(by_cpu, by_gpu))))


def serve_config(section: ServeSection, device: Device, **address: Any) -> ServeConfig:
    """The recipe's serving settings as the serve package takes them; `address`: host and port."""
    engine = section.engine
    return ServeConfig(
        device=device,
        engine_cpus=section.cpus_per_engine,
        gpu=section.gpu,
        kv_cache_gib=engine.kv_cache_gb,
        max_model_len=engine.max_model_len,
        engine_kwargs=parallel_arguments(engine.tensor_parallel, engine.pipeline_parallel) | engine.kwargs,
        **address,
    )


def request_rows(
    item: Item, prompts: Sequence[Prompt], recipe: Scoring, served_as: str = ""
) -> Iterator[dict[str, Any]]:
    """What the endpoint is asked: a row per prompt and sample, each with its own seed."""
    evaluate = asked(recipe.evaluate, item.benchmark)
    template = benchmark_config(recipe.benchmarks, item.benchmark).template or "{problem}"
    chat = with_mode(recipe.student_chat, item.model.line)
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
    """Rows of all groups in turn, so that every engine has work from the start."""
    for rows in zip_longest(*groups):
        yield from (row for row in rows if row is not None)


def score_rows(
    rows: Sequence[Mapping[str, Any]],
    prompts: Mapping[str, Prompt],
    evaluate: EvaluateConfig,
    grade_batch: Callable[[Sequence[GradeRequest]], list[Grade]],
) -> list[Score]:
    """Grade answered rows. A row that the endpoint could not answer is ERROR, never a wrong answer."""
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
