"""Evaluation: how models are scored."""

from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field, ValidationError

from distill.config.base import Section, items_of, one_of, repeated, section_of
from distill.config.benchmarks import DEFINITIONS, SUITES, BenchmarkConfig, suite_benchmarks
from distill.config.decides import EXTENT, NOTHING
from distill.config.eval_arms import EvaluationArm
from distill.config.sources import GymSource
from distill.config.teachers import EngineConfig, GreedySampling
from distill.config.verify import JudgeConfig
from distill.core.errors import Problem


class RepeatedConfig(Section):
    """A benchmark with several completions per problem (avg@k), as small benchmarks need."""

    num_samples: int = Field(ge=2, le=1024)
    """Completions per problem."""
    temperature: float = Field(default=0.6, gt=0.0, le=2.0)
    """Sampling temperature."""
    top_p: float = Field(default=0.95, gt=0.0, le=1.0)
    """Probability mass of nucleus sampling."""


class EvaluateConfig(Section):
    """How models are scored."""

    benchmarks: tuple[str, ...] = Field(min_length=1, json_schema_extra=EXTENT)
    """Names in `[benchmarks]`, or built-in ones; those of `suite` come behind them, and may be all."""
    suite: tuple[str, ...] = Field(default=(), json_schema_extra=NOTHING)
    """Suites whose benchmarks are asked: `maths`, `languages`, `choices`, or one that benchmarks of the recipe name as
    theirs. Of a suite that the recipe has benchmarks of, only those are asked, else the built-in ones."""
    sampling: GreedySampling = Field(default_factory=GreedySampling)
    """How completions are sampled."""
    num_samples: int = Field(default=1, ge=1)
    """Completions per prompt; more than one needs a temperature above 0."""
    repeated: dict[str, RepeatedConfig] = Field(default={}, json_schema_extra=EXTENT)
    """Benchmarks with their own number of samples, temperature and nucleus mass. Length and stop strings stay those of
    `sampling`."""
    max_in_flight: int = Field(default=64, ge=1, json_schema_extra=NOTHING)
    """Most requests that are open at once at one engine; on a CPU, whose cores all engines share, at all of them."""
    reasoning_end: str = "</think>"
    """Text that ends the reasoning; the answer is taken after its last occurrence."""
    arms: tuple[EvaluationArm, ...] = Field(default=(), json_schema_extra=EXTENT)
    """Students that are made to answer in another way, each scored beside itself as it answers by itself, whose answers
    are not asked again."""
    judge: JudgeConfig | None = Field(default=None, json_schema_extra=EXTENT)
    """LLM judge of the answers to questions that might be refused; its verdicts stand beside those of the rules.
    Absent: the rules alone."""


def with_suites(raw: Mapping[str, Any]) -> tuple[dict[str, Any], list[Problem]]:
    """The config with the benchmarks of its suites in `evaluate.benchmarks`; which suites there are none of."""
    evaluate = section_of(raw, "evaluate")
    suites, listed = evaluate.get("suite", ()), evaluate.get("benchmarks", ())
    if not suites or not _are_names(suites) or not isinstance(listed, list | tuple):
        return dict(raw), []
    own = {name: section.get("suite", ()) for name, section in section_of(raw, "benchmarks").items() if _is_in(section)}
    found = {suite: suite_benchmarks(suite, own) for suite in suites}
    known = {*SUITES, *(suite for named in own.values() for suite in named)}
    problems = [
        Problem("evaluate.suite", f"no suite is called {suite!r}", one_of(suite, known))
        for suite, names in found.items()
        if not names
    ]
    names = [*dict.fromkeys([*listed, *(name for names in found.values() for name in names)])]
    # Beside a suite that is unknown, an empty list is no fault of its own.
    return {**raw, "evaluate": {**evaluate, "benchmarks": names or list(SUITES["maths"])}}, problems


def _are_names(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(name, str) for name in value)


def _is_in(benchmark: Any) -> bool:
    """Whether a benchmark, as it was written, belongs to suites."""
    return isinstance(benchmark, dict) and _are_names(benchmark.get("suite", ()))


def benchmark_problems(raw: Mapping[str, Any]) -> Iterator[Problem]:
    known = {*section_of(raw, "benchmarks"), *DEFINITIONS}
    named = [("evaluate.benchmarks", name) for name in items_of(section_of(raw, "evaluate").get("benchmarks"))]
    named += [("search.benchmark", name) for name in filter(None, [section_of(raw, "search").get("benchmark")])]
    for where, name in named:
        if name not in known:
            yield Problem(where, f"no benchmark is called {name!r}", one_of(str(name), known))


def template_problems(raw: Mapping[str, Any]) -> Iterator[Problem]:
    for name, benchmark in section_of(raw, "benchmarks").items():
        template = benchmark.get("template") if isinstance(benchmark, dict) else None
        if isinstance(template, str) and "{problem}" not in template:
            where = f"benchmarks.{name}.template"
            yield Problem(where, "does not contain {problem}", "add {problem} where the problem goes")


def leak_problems(raw: Mapping[str, Any]) -> Iterator[Problem]:
    """A benchmark with the generator and seed of the training prompts: it would consist of training prompts."""
    sources = items_of(section_of(raw, "prompts").get("sources"))
    for name, benchmark in section_of(raw, "benchmarks").items():
        try:
            source = BenchmarkConfig.model_validate(benchmark).source
        except ValidationError:
            continue
        if isinstance(source, GymSource) and any(_same_generator(source, other) for other in sources):
            what = f"generates {source.task!r} with seed {source.seed}, as the training prompts do"
            yield Problem(f"benchmarks.{name}", what, "give the benchmark another seed")


def _same_generator(source: GymSource, other: Any) -> bool:
    keys = ("kind", "task", "seed")
    return isinstance(other, dict) and all(other.get(key, 0) == getattr(source, key) for key in keys)


def evaluate_problems(raw: Mapping[str, Any]) -> Iterator[Problem]:
    evaluate = section_of(raw, "evaluate")
    samples, temperature = evaluate.get("num_samples", 1), section_of(evaluate, "sampling").get("temperature", 0.0)
    if isinstance(samples, int) and samples > 1 and temperature == 0:
        what = f"num_samples {samples} at temperature 0 gives {samples} times the same completion"
        yield Problem("evaluate", what, "raise evaluate.sampling.temperature or set num_samples = 1")
    benchmarks = [str(name) for name in items_of(evaluate.get("benchmarks"))]
    for name in repeated(benchmarks):
        yield Problem("evaluate.benchmarks", f"names {name!r} twice: it would count twice in the mean", "name it once")
    for name in section_of(evaluate, "repeated"):
        if name not in benchmarks:
            yield Problem("evaluate.repeated", f"{name!r} is not evaluated", one_of(name, benchmarks))
    yield from _room_problems(raw)


def _room_problems(raw: Mapping[str, Any]) -> Iterator[Problem]:
    """Completions that leave no room for a problem: the engine would refuse every request, when all is trained."""
    sampling, engine = (
        section_of(section_of(raw, "evaluate"), "sampling"),
        section_of(section_of(raw, "serve"), "engine"),
    )
    asked = sampling.get("max_tokens", GreedySampling.model_fields["max_tokens"].default)
    room = engine.get("max_model_len", EngineConfig.model_fields["max_model_len"].default)
    if isinstance(asked, int) and isinstance(room, int) and asked >= room:
        what = f"{asked} leaves no room for a problem in serve.engine.max_model_len {room}"
        yield Problem("evaluate.sampling.max_tokens", what, "lower it, or raise serve.engine.max_model_len")
