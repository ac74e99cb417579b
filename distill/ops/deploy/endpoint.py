"""The endpoint of a run's students and their base models: what is served, and the Serve config file that deploys it."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Console

from cluster.session import Device
from distill.config.evaluate import EvaluateConfig
from distill.config.mix import Mix
from distill.config.recipe import Recipe
from distill.core.errors import InputError
from distill.core.run_dir import RunDir, StageName, benchmark_scores, score_item
from distill.core.saved_files import weight_hashes
from distill.core.schema import Prompt, Score, Verdict
from distill.evaluate.models import (
    EvaluatedModel,
    asked_endpoints,
    endpoint_delimiters,
    evaluated_models,
    mode_name,
    same_weights,
    serve_config,
)
from distill.evaluate.proof import check_weights, weights_folders
from distill.evaluate.requests import benchmark_settings, benchmark_template, questions
from distill.grading import GraderPool, grade_request
from distill.models.chat_template import example_turns
from distill.run.context import RunContext, read_benchmark
from distill.train.cells import all_cells
from serve.config import Endpoint, ServingSettings
from serve.config_file import config_file
from serve.keys import Key
from serve.smoke_check import SmokeCheck, within

MAX_PLAYGROUND_PROBLEMS = 50
"""Problems per benchmark in the playground."""

SMOKE_CHECKS_PER_MODEL = 3

IMPORT_PATH = "distill.ops.deploy.served_run:from_config_file"
"""What Ray Serve calls to build the application of a written file."""


@dataclass(frozen=True)
class ServeRequest:
    """Arguments of `distill serve`."""

    host: str = "127.0.0.1"
    port: int = 8000
    names: tuple[str, ...] = ()
    """Models to serve; empty means all of the run."""
    keys: tuple[Key, ...] = ()
    """API keys of the clients; empty: programs on this machine need none."""


def serve_file(
    recipe: Recipe, run_dir: RunDir, request: ServeRequest, console: Console
) -> tuple[list[Endpoint], dict[str, Any]]:
    """The models of a run, and the Serve config file that deploys them."""
    with ExitStack() as resources:
        models, endpoints = run_endpoints(RunContext(recipe, Path.cwd(), run_dir, console, resources), request.names)
        check_weights(recipe, run_dir, models, console)
    # The cluster that will run it is not known here; without device = "cpu" it is assumed to have GPUs.
    device: Device = "cpu" if recipe.device == "cpu" else "gpu"
    config = serve_config(recipe.serve, device, **serving_settings(recipe), port=request.port)
    content = config_file(
        endpoints,
        config.model_copy(update={"host": request.host}),
        import_path=IMPORT_PATH,
        run_dir=run_dir.address,
    )
    return endpoints, content


def serving_settings(recipe: Recipe) -> dict[str, Any]:
    """Replicas and limits of an endpoint, which an evaluation leaves at their defaults."""
    return {name: getattr(recipe.serve, name) for name in ServingSettings.model_fields}


def run_endpoints(run: RunContext, names: Sequence[str]) -> tuple[list[EvaluatedModel], list[Endpoint]]:
    """The models of a run to serve, and their endpoints."""
    recipe, run_dir = run.recipe, run.run_dir
    known = evaluated_models(recipe, run.models, run_dir)
    if unknown := set(recipe.serve.on_demand) - {model.served_name for model in known}:
        raise InputError(f"serve.on_demand: {unknown_student(min(unknown), known)}")
    models = choose_models(known, names)
    first = same_weights(models)
    models = [model for model in models if first[model.name] == model.name]
    asked = {
        endpoint.name: endpoint
        for endpoint in asked_endpoints(models, recipe.student_chat, recipe.evaluate.reasoning_end)
    }
    return models, [served_endpoint(recipe, run_dir, model, asked[model.served_name]) for model in models]


def served_endpoint(recipe: Recipe, run_dir: RunDir, model: EvaluatedModel, asked: Endpoint) -> Endpoint:
    """A model's endpoint with its card, its delimiters and its modes."""
    mix = mix_of(recipe, model.served_name)
    return asked.model_copy(
        update={
            "metadata": model_card(recipe, run_dir, model),
            "reasoning_in_content": False,
            "mode_options": {
                str(style): dict(mode.template_options)
                for style, mode in (mix.modes.items() if mix else ())
                if mode.template_options
            },
            "on_demand": model.served_name in recipe.serve.on_demand,
        }
    )


def mix_of(recipe: Recipe, name: str) -> Mix | None:
    """The mix that a student was trained on; None for an untouched or a merged one."""
    arm = {cell.name: cell.mix for cell in all_cells(recipe)}.get(name)
    return next((mix for mix in recipe.mixes if mix.name == arm), None)


def model_card(recipe: Recipe, run_dir: RunDir, model: EvaluatedModel) -> dict[str, Any]:
    """The metadata under /v1/models: prompt format, origin, and accuracies (in each mode)."""
    student, _, mix = model.served_name.partition("@")
    chat = chat_card(recipe, model.served_name)
    card: dict[str, Any] = {**chat, "run": recipe.name, "student": student, "weights": model.key}
    if hashes := own_hashes(recipe, run_dir, model):
        card["sha256"] = hashes
    manifest = run_dir.read_manifest(StageName.MIX)
    if mix and manifest is not None:
        card |= {"mix": mix, "mix_manifest": manifest.key}
    for mode in chat.get("modes", {"": ""}):
        scores = accuracies(recipe, run_dir, mode_name(model.served_name, mode), model.key)
        card |= {mode_name(f"accuracy:{name}", mode): value for name, value in scores.items()}
    return card


def own_hashes(recipe: Recipe, run_dir: RunDir, model: EvaluatedModel) -> dict[str, str]:
    """File -> SHA-256 of a model's own weights: of an adapter the adapter's alone. Empty where none were kept."""
    folders = weights_folders(recipe, run_dir, [model])
    return weight_hashes(next((folder.saved for folder in folders), None))


def accuracies(recipe: Recipe, run_dir: RunDir, name: str, weights: str) -> dict[str, float]:
    """Share of correct answers per benchmark, without grader errors; no entry where there is no score of these weights.

    `weights`: the model's key. A score of an earlier version, which did not record it, counts.
    """
    found = {}
    for benchmark in recipe.evaluate.benchmarks:
        manifest = run_dir.read_manifest(*score_item(name, benchmark))
        if manifest is not None and manifest.details.get("weights", weights) != weights:
            continue
        table = run_dir.read_table(*benchmark_scores(name, benchmark), row_type=Score, columns=("verdict",))
        verdicts = [verdict for verdict in table.column("verdict").to_pylist() if verdict != Verdict.ERROR]
        if verdicts:
            found[benchmark] = round(verdicts.count(Verdict.CORRECT) / len(verdicts), 4)
    return found


def chat_card(recipe: Recipe, name: str) -> dict[str, Any]:
    """The prompt format of a student, which `distill ask` and the playground read under /v1/models.

    `examples` are turns. An empty system text is kept: it is a turn, in whose place a chat template may have its own.
    The endpoint itself applies `system_as` and the options of the chat template.
    """
    chat = recipe.student_chat
    mix = mix_of(recipe, name)
    lines = {str(style): mode.line for style, mode in mix.modes.items()} if mix else {}
    modes_in = mix.modes_in if mix else None
    found = {
        "template": chat.template,
        "system": chat.system,
        "examples": example_turns(chat),
        "modes": lines,
        "modes_in": modes_in,
    }
    return {key: value for key, value in found.items() if value or value == ""}


def choose_models(models: Sequence[EvaluatedModel], names: Sequence[str]) -> list[EvaluatedModel]:
    """The models to serve: those named, or all trained students and their base models.

    Raises:
        InputError: the run has no model of a name, or a student is not trained yet.
    """
    known: dict[str, EvaluatedModel] = {}
    for model in models:
        known.setdefault(model.served_name, model)  # of a student with modes, the first
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(unknown_student(unknown[0], models))
    chosen = [known[name] for name in names] or list(known.values())
    missing = [model.served_name for model in chosen if not model.key]
    if missing:
        raise InputError(f"not trained yet: {', '.join(missing)} -> finish the run with distill run")
    return chosen


def unknown_student(name: str, models: Sequence[EvaluatedModel]) -> str:
    """The message about an unknown name, with the known ones."""
    known = dict.fromkeys(model.served_name for model in models)
    return f"the run has no student {name!r} -> it has: {', '.join(known)}"


@dataclass(frozen=True)
class BenchmarkChecker:
    """A run's benchmark problems and its verifier, for the playground. Sent to the ingress, where its worker starts."""

    by_id: Mapping[str, tuple[str, Prompt]]
    """prompt_id -> benchmark and prompt, with the problem in the benchmark's template."""
    reasoning_end: str
    graders: list[GraderPool] = field(default_factory=list)
    """Created for the first verdict."""

    @classmethod
    def of(cls, recipe: Recipe, run_dir: RunDir) -> "BenchmarkChecker":
        """The first problems of every benchmark of a run."""
        by_id = {
            prompt.prompt_id: (name, replace(prompt, problem=template.replace("{problem}", prompt.problem)))
            for name in recipe.evaluate.benchmarks
            for template in [benchmark_template(recipe, name)]
            for prompt in islice(read_benchmark(run_dir, name).values(), MAX_PLAYGROUND_PROBLEMS)
        }
        return cls(by_id, recipe.evaluate.reasoning_end)

    def problems(self) -> list[dict[str, str]]:
        """The problems for the playground."""
        return [
            {"id": prompt_id, "benchmark": name, "problem": prompt.problem}
            for prompt_id, (name, prompt) in self.by_id.items()
        ]

    def verdict(self, problem_id: str, completion: str, finish_reason: str) -> dict[str, str]:
        """The verifier's verdict on a completion, and the reference answer."""
        _, prompt = self.by_id[problem_id]
        if not self.graders:
            self.graders.append(GraderPool())
        request = grade_request(prompt, completion, finish_reason=finish_reason, reasoning_end=self.reasoning_end)
        (grade,) = self.graders[0].grade_batch([request])
        return {"verdict": grade.verdict, "expected": prompt.reference, "extracted": grade.extracted}


def smoke_checks(
    recipe: Recipe, run_dir: RunDir, models: Sequence[EvaluatedModel], endpoints: Sequence[Endpoint]
) -> list[SmokeCheck]:
    """The shortest answers of each model to the first benchmark that was asked greedily, as checks within the limits of
    the endpoint; none if all were sampled."""
    name = greedy_benchmark(recipe.evaluate)
    if name is None:
        return []
    prompts = read_benchmark(run_dir, name)
    pairs = zip(models, endpoints, strict=True)
    return [
        check for model, endpoint in pairs for check in _smoke_checks(recipe, run_dir, model, endpoint, name, prompts)
    ]


def limits_note(recipe: Recipe, *, has_checks: bool) -> str:
    """What a person should know of limits that are below what the evaluation asked; empty where none is.

    `has_checks`: whether any problem of the evaluation can be asked again within them.
    """
    most, asked = recipe.serve.limits.max_output_tokens, recipe.evaluate.sampling.max_tokens
    if not has_checks and greedy_benchmark(recipe.evaluate) is not None:
        return "answers are not compared with those of the evaluation: it has none within serve.limits"
    if most is None or most >= asked:
        return ""
    return f"answers end after {most} tokens (serve.limits.max_output_tokens); those that were scored had up to {asked}"


def greedy_benchmark(evaluate: EvaluateConfig) -> str | None:
    """The first benchmark whose answers a model would give again."""
    names = evaluate.benchmarks
    return next((one for one in names if benchmark_settings(evaluate, one).sampling.temperature == 0), None)


def _smoke_checks(
    recipe: Recipe,
    run_dir: RunDir,
    model: EvaluatedModel,
    endpoint: Endpoint,
    benchmark: str,
    prompts: Mapping[str, Prompt],
) -> list[SmokeCheck]:
    asked = questions(model, benchmark, recipe)
    delimiters = endpoint.reasoning and endpoint_delimiters(model.tokenizer, asked.chat, recipe.evaluate.reasoning_end)
    table = run_dir.read_table(*benchmark_scores(model.name, benchmark), row_type=Score)
    rows = [Score(**row) for row in table.to_pylist()]
    answered = [row for row in rows if row.completion and row.prompt_id in prompts]
    shortest = sorted(answered, key=lambda row: (row.completion_tokens, row.prompt_id))
    checks = (
        within(
            SmokeCheck(
                model=model.served_name,
                messages=asked.messages(prompts[row.prompt_id].problem),
                sampling=asked.sampling(row.prompt_id, row.sample_index),
                expected=row.completion,
                delimiters=delimiters,
                finish_reason=row.finish_reason,
            ),
            recipe.serve.limits,
            known_tokens=row.completion_tokens,
        )
        for row in shortest
    )
    return list(islice(filter(None, checks), SMOKE_CHECKS_PER_MODEL))
