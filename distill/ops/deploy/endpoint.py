"""`distill serve`: a run's students and their untouched selves behind one address, or as a file that deploys them."""

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from cluster.session import Device
from distill.config.recipe import Recipe
from distill.core.errors import InputError
from distill.core.run_dir import RunDir
from distill.core.schema import Prompt, Score, Verdict, seed_for
from distill.evaluate.models import Evaluated, evaluated_models, mode_name, same_weights, serve_config
from distill.generate.pools import sampling_params
from distill.grading import GraderPool, grade_request
from distill.models.chat_template import chat_messages, prompt_text, with_mode
from distill.models.resolve import load_tokenizer
from distill.run.context import Run, load_run_recipe
from distill.train.cells import all_cells
from serve.api.reasoning_parser import Delimiters
from serve.config import Endpoint
from serve.config_file import config_file, read_arguments
from serve.keys import Key
from serve.smoke_check import Probe

MAX_PAGE_PROBLEMS = 50
"""Problems per benchmark that the page offers."""

PROBES_PER_MODEL = 3


@dataclass(frozen=True)
class ServeRequest:
    """What the command line asks of `distill serve`."""

    host: str = "127.0.0.1"
    port: int = 8000
    names: tuple[str, ...] = ()
    """Models to serve; empty means all of the run."""
    keys: tuple[Key, ...] = ()
    """Who may ask; empty means everybody on this machine."""


def serve_file(
    recipe: Recipe, run_dir: RunDir, request: ServeRequest, console: Console
) -> tuple[list[Endpoint], dict[str, Any]]:
    """The models of a run, and the Serve config file that deploys them."""
    with ExitStack() as resources:
        _, endpoints = run_endpoints(Run(recipe, Path.cwd(), run_dir, console, resources), request.names)
    # Where it will run is not known here; a recipe that does not say "cpu" means a cluster with GPUs.
    device: Device = "cpu" if recipe.device == "cpu" else "gpu"
    config = serve_config(recipe.serve, device, **serving_settings(recipe), port=request.port)
    content = config_file(
        endpoints,
        config.model_copy(update={"host": request.host}),
        import_path=f"{__name__}:{from_config_file.__name__}",
        run_dir=run_dir.address,
    )
    return endpoints, content


def from_config_file(arguments: dict[str, Any]) -> Any:
    """The application of a file that `write_config` wrote; called where Ray Serve deploys it."""
    from serve.app import build_app

    run_dir = RunDir(arguments["run_dir"])
    checker = BenchmarkChecker.of(load_run_recipe(run_dir), run_dir)
    return build_app(*read_arguments(arguments, os.environ), checker)


def serving_settings(recipe: Recipe) -> dict[str, Any]:
    """What users of an endpoint meet and an evaluation does not: replicas and limits."""
    section = recipe.serve
    return {
        "min_replicas": section.min_replicas,
        "max_replicas": section.max_replicas,
        "target_ongoing": section.target_requests,
        "max_ongoing": section.max_requests,
        "idle_s": section.idle_s,
        "surge_percent": section.surge_percent,
        "limits": section.limits,
    }


def run_endpoints(current: Run, names: Sequence[str]) -> tuple[list[Evaluated], list[Endpoint]]:
    """The models of a run that are to be served, and how."""
    recipe, run_dir = current.recipe, current.run_dir
    known = evaluated_models(recipe, current.models, run_dir)
    if unknown := set(recipe.serve.on_demand) - {model.served_name for model in known}:
        raise InputError(f"serve.on_demand: {unknown_student(min(unknown), known)}")
    models = choose_models(known, names)
    first = same_weights(models)
    models = [model for model in models if first[model.name] == model.name]
    delimiters = {source: run_delimiters(recipe, source) for source in {model.source for model in models}}
    return models, [
        model.endpoint.model_copy(
            update={
                "metadata": model_card(recipe, run_dir, model),
                "reasoning": delimiters[model.source],
                "on_demand": model.served_name in recipe.serve.on_demand,
            }
        )
        for model in models
    ]


def run_delimiters(recipe: Recipe, source: str) -> Delimiters | None:
    """What opens and closes the reasoning of a run's models; none where the recipe says that nothing does."""
    end = recipe.evaluate.reasoning_end
    if not end:
        return None
    start = opening_of(end)
    asked = prompt_text(load_tokenizer(source), chat_messages("?", recipe.student_chat))
    return Delimiters(start=start, end=end, is_open=asked.rstrip().endswith(start))


def opening_of(end: str) -> str:
    """The delimiter that `end` closes, by its look: `</think>` -> `<think>`."""
    return end.replace("</", "<").replace("[/", "[").replace("end_of", "begin_of")


def model_card(recipe: Recipe, run_dir: RunDir, model: Evaluated) -> dict[str, Any]:
    """What /v1/models tells: how the model wants to be asked, where it comes from, what it scored (in each mode)."""
    student, _, mix = model.served_name.partition("@")
    chat = chat_card(recipe, model.served_name)
    card: dict[str, Any] = {**chat, "run": recipe.name, "student": student, "weights": model.key}
    manifest = run_dir.read_manifest("mix")
    if mix and manifest is not None:
        card |= {"mix": mix, "mix_manifest": manifest.key}
    for mode in chat.get("modes", {"": ""}):
        scores = accuracies(recipe, run_dir, mode_name(model.served_name, mode))
        card |= {mode_name(f"accuracy:{name}", mode): value for name, value in scores.items()}
    return card


def accuracies(recipe: Recipe, run_dir: RunDir, name: str) -> dict[str, float]:
    """Share of correct answers per benchmark, of those that could be judged; no entry where there is no score."""
    found = {}
    for benchmark in recipe.evaluate.benchmarks:
        table = run_dir.read_table("evaluate", name, f"{benchmark}.parquet", row_type=Score, columns=("verdict",))
        verdicts = [verdict for verdict in table.column("verdict").to_pylist() if verdict != Verdict.ERROR]
        if verdicts:
            found[benchmark] = round(verdicts.count(Verdict.CORRECT) / len(verdicts), 4)
    return found


def chat_card(recipe: Recipe, name: str) -> dict[str, Any]:
    """How a student wants to be asked, for whoever asks it by hand: `distill ask` reads it under /v1/models."""
    chat = recipe.student_chat
    mix = {cell.name: cell.mix for cell in all_cells(recipe)}.get(name)
    lines = {one.name: {str(mode): line for mode, line in one.modes.items()} for one in recipe.mixes}
    said = {"template": chat.template, "system": chat.system, "modes": lines.get(mix or "")}
    return {key: value for key, value in said.items() if value}


def choose_models(models: Sequence[Evaluated], names: Sequence[str]) -> list[Evaluated]:
    """The models to serve: those named, or all that are trained and their untouched selves.

    Raises:
        InputError: a name that the run does not have, or a student that is not trained yet.
    """
    known: dict[str, Evaluated] = {}
    for model in models:
        known.setdefault(model.served_name, model)  # of a student with modes the first
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(unknown_student(unknown[0], models))
    chosen = [known[name] for name in names] or list(known.values())
    missing = [model.served_name for model in chosen if not model.key]
    if missing:
        raise InputError(f"not trained yet: {', '.join(missing)} -> finish the run with distill run first")
    return chosen


def unknown_student(name: str, models: Sequence[Evaluated]) -> str:
    """What is wrong with a name, and which there are."""
    known = dict.fromkeys(model.served_name for model in models)
    return f"the run has no student {name!r} -> it has: {', '.join(known)}"


@dataclass(frozen=True)
class BenchmarkChecker:
    """A run's benchmark problems and its verifier, for the page. Travels to the ingress; starts its worker there."""

    by_id: Mapping[str, tuple[str, Prompt]]
    """prompt_id -> benchmark and prompt."""
    reasoning_end: str
    graders: list[GraderPool] = field(default_factory=list)
    """Filled at the first verdict."""

    @classmethod
    def of(cls, recipe: Recipe, run_dir: RunDir) -> "BenchmarkChecker":
        """The first problems of every benchmark of a run."""
        by_id = {
            prompt.prompt_id: (name, prompt)
            for name in recipe.evaluate.benchmarks
            for prompt in benchmark_prompts(run_dir, name)[:MAX_PAGE_PROBLEMS]
        }
        return cls(by_id, recipe.evaluate.reasoning_end)

    def problems(self) -> list[dict[str, str]]:
        """What the page offers."""
        return [
            {"id": prompt_id, "benchmark": name, "problem": prompt.problem}
            for prompt_id, (name, prompt) in self.by_id.items()
        ]

    def verdict(self, problem_id: str, completion: str, finish_reason: str) -> dict[str, str]:
        """The verifier's verdict on a completion, and the reference answer."""
        _, prompt = self.by_id[problem_id]
        if not self.graders:
            self.graders.append(GraderPool())
        asked = grade_request(prompt, completion, finish_reason=finish_reason, reasoning_end=self.reasoning_end)
        (grade,) = self.graders[0].grade_batch([asked])
        return {"verdict": grade.verdict, "expected": prompt.reference, "extracted": grade.extracted}


def benchmark_prompts(run_dir: RunDir, name: str) -> list[Prompt]:
    """The prompts of one benchmark of a run."""
    table = run_dir.read_table("prompts", "benchmarks", f"{name}.parquet", row_type=Prompt)
    return [Prompt(**row) for row in table.to_pylist()]


def run_probes(
    recipe: Recipe, run_dir: RunDir, models: Sequence[Evaluated], endpoints: Sequence[Endpoint]
) -> list[Probe]:
    """Questions whose answers the evaluation has kept: the shortest of the first benchmark; none if it was sampled."""
    if recipe.evaluate.sampling.temperature > 0:
        return []
    name = recipe.evaluate.benchmarks[0]
    prompts = {prompt.prompt_id: prompt for prompt in benchmark_prompts(run_dir, name)}
    asked = [(model, endpoint.reasoning) for model, endpoint in zip(models, endpoints, strict=True)]
    return [probe for model, delimiters in asked for probe in _probes(recipe, run_dir, model, delimiters, prompts)]


def _probes(
    recipe: Recipe, run_dir: RunDir, model: Evaluated, delimiters: Delimiters | None, prompts: Mapping[str, Prompt]
) -> list[Probe]:
    benchmark, chat = recipe.evaluate.benchmarks[0], with_mode(recipe.student_chat, model.line)
    table = run_dir.read_table("evaluate", model.name, f"{benchmark}.parquet", row_type=Score)
    rows = [Score(**row) for row in table.to_pylist()]
    answered = [row for row in rows if row.completion and row.prompt_id in prompts]
    shortest = sorted(answered, key=lambda row: (row.completion_tokens, row.prompt_id))[:PROBES_PER_MODEL]
    return [
        Probe(
            model=model.served_name,
            messages=chat_messages(prompts[row.prompt_id].problem, chat),
            sampling=sampling_params(recipe.evaluate.sampling, seed_for(recipe.seed, row.prompt_id, row.sample_index)),
            expected=row.completion,
            delimiters=delimiters,
        )
        for row in shortest
    ]
