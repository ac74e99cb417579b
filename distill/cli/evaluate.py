"""`distill eval`: score one model without a run: a hub id, a folder, any URI, or the model of an endpoint.

Prompts, verifier and statistics are those of a run, so the scores can be compared with a run's. Answers are kept in a
folder of its own: the same command continues, and sends no request again that has been answered.
"""

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError
from rich.console import Console

from cluster.session import Session, connect
from distill.config.base import one_of, repeated
from distill.config.benchmarks import DEFINITIONS, benchmark_config, regression_benchmarks
from distill.config.eval_command import EvalConfig
from distill.config.evaluate import with_suites
from distill.config.field_problems import field_problems
from distill.config.load import apply_override
from distill.config.teacher_problems import OWN_FIELDS
from distill.core.errors import ConfigError, InputError, Problem
from distill.core.progress_bars import quiet
from distill.core.run_dir import EVAL_CONFIG, EVAL_JSON, EVAL_SCORES, RunDir, benchmark_problems, log_path
from distill.core.run_lock import run_lock
from distill.core.schema import Prompt, content_hash
from distill.evaluate.engine_progress import told_on
from distill.evaluate.judge_refusals import judge_refusals
from distill.evaluate.models import EvaluatedModel, asked_endpoints, serve_config
from distill.evaluate.read_scores import Scored, ScoredModel, outcome_shares, read_scored
from distill.evaluate.requests import items
from distill.evaluate.score import EndpointAddress, ScoreSink, score_answered, score_items, unscored
from distill.evaluate.statistics import accuracy, macro_interval
from distill.models.resolve import resolve_model
from distill.prompts.stage import left_out, read_benchmark
from distill.report.arms import Arm
from distill.report.files import scores_json, scores_table
from distill.report.formats import bounds, percent
from distill.report.languages import language_scores, level_scores
from distill.report.model_scores import model_score
from distill.report.tables import language_table, levels_table, model_table
from distill.run.context import read_benchmark as read_problems
from serve.dataset_client import BatchConfig
from serve.deploy import deploy, undeploy
from serve.http_client import endpoint_address


def eval_config(model: str, benchmarks: Sequence[str], url: str, overrides: Sequence[str]) -> EvalConfig:
    """The command line as a checked config.

    Raises:
        ConfigError: with every problem.
    """
    name = re.sub(r"[^A-Za-z0-9._@+-]", "-", Path(model.rstrip("/")).name).lstrip("._@+-") or "model"
    raw: dict[str, Any] = {
        "name": name,
        "model": {"sources": [model]},
        "url": endpoint_address(url) if url else "",
        "served_name": model if url else "",
        "benchmarks": {},
        "student_chat": {},
        "evaluate": {"benchmarks": list(benchmarks), "repeated": {}},
        "serve": {"engine": {}},
        "verify": {},
    }
    problems = [problem for override in overrides if (problem := _set(raw, override))]
    raw, unnamed = with_suites(raw)
    problems += unnamed
    try:
        config = EvalConfig.model_validate(raw)
    except ValidationError as error:
        raise ConfigError([*problems, *field_problems(error, raw, EvalConfig)]) from error
    if found := [*problems, *_problems(config)]:
        raise ConfigError(found)
    return config


def _set(raw: dict[str, Any], override: str) -> Problem | None:
    """Apply an override, also in a section that does not exist yet."""
    node: Any = raw
    for part in override.partition("=")[0].split(".")[:-1]:
        if not isinstance(node, dict):
            break
        node = node.setdefault(part, {})
    return apply_override(raw, override)


def _problems(config: EvalConfig) -> Iterator[Problem]:
    known = {*config.benchmarks, *DEFINITIONS}
    for name in config.evaluate.benchmarks:
        if name not in known:
            yield Problem("--benchmarks", f"no benchmark is called {name!r}", one_of(name, known))
    for name in repeated(config.evaluate.benchmarks):
        yield Problem("--benchmarks", f"names {name!r} twice: it would count twice in the mean", "name it once")
    for name in config.evaluate.repeated:
        if name not in config.evaluate.benchmarks:
            yield Problem("evaluate.repeated", f"{name!r} is not evaluated", one_of(name, config.evaluate.benchmarks))
    for name in sorted(config.extra_body.keys() & OWN_FIELDS.keys()):
        remedy = "remove it: evaluate.sampling, student_chat and the command line decide it"
        yield Problem("extra_body", f"holds {name!r}, which requests have already", remedy)
    is_greedy = config.evaluate.sampling.temperature == 0 and "temperature" not in config.omit_sampling
    if config.evaluate.num_samples > 1 and is_greedy:
        what = f"num_samples {config.evaluate.num_samples} at temperature 0 gives the same completion each time"
        yield Problem("evaluate", what, "raise evaluate.sampling.temperature or use evaluate.repeated")


def eval_model(config: EvalConfig, uri: str) -> int:
    """Compute missing scores, write scores.parquet and scores.json, print the table."""
    run_dir = RunDir(uri)
    with run_lock(run_dir), quiet(log_path(run_dir)) as console, ExitStack() as resources:
        benchmarks = read_benchmarks(config, run_dir, console)
        run_dir.write_bytes(config.model_dump_json(indent=1).encode(), *EVAL_CONFIG)
        model, config = identify(config, console)
        wanted = items([model], benchmarks, config)
        sink = ScoreSink(run_dir, console, config.verify)
        if todo := list(unscored(wanted, run_dir)):
            todo = score_answered(todo, benchmarks, config, sink, config if config.url else None)
            if todo:
                console.print("  [dim]starting Ray ...[/]")
                session = resources.enter_context(connect(config.device))
                with served(config, model, console, session) as address:
                    score_items(todo, benchmarks, config, sink, address)
        else:
            console.print("nothing to do: all scores are on disk")
        if config.evaluate.judge:
            judge_refusals(run_dir, wanted, config.evaluate.judge, config.evaluate.reasoning_end)
        show(config, model, run_dir, console)
    return 0


def read_benchmarks(config: EvalConfig, run_dir: RunDir, console: Console) -> dict[str, list[Prompt]]:
    """The problems of the benchmarks, which are also written beside the scores; says which rows are no problem."""
    found = {}
    for name in config.evaluate.benchmarks:
        source = benchmark_config(config.benchmarks, name)
        limit = config.max_problem_chars
        loaded = read_benchmark(name, source, Path.cwd(), max_problem_chars=limit, seed=config.seed)
        if why := left_out(loaded):
            console.print(f"  of benchmark {name} dropped: {why}", markup=False)
        run_dir.write_rows(loaded.prompts, Prompt, *benchmark_problems(name))
        found[name] = loaded.prompts
    return found


def identify(config: EvalConfig, console: Console) -> tuple[EvaluatedModel, EvalConfig]:
    """The model to evaluate, and the settings with the engine's length limited to the model's context.

    Raises:
        InputError: the model cannot be found, or completions do not fit its context.
    """
    if config.url:
        return EvaluatedModel(config.name, config.served_name, None, endpoint_key(config)), config
    resolved = resolve_model(config.name, config.model, lambda text: console.print(f"  [dim]{text}[/]"))
    engine, max_tokens = config.serve.engine, config.evaluate.sampling.max_tokens
    longest = min(engine.max_model_len, resolved.context_tokens or engine.max_model_len)
    if max_tokens >= longest:
        remedy = "lower evaluate.sampling.max_tokens, or raise serve.engine.max_model_len where the model allows it"
        raise InputError(
            f"completions of {max_tokens} tokens leave no room for a problem in {longest} tokens -> {remedy}"
        )
    serve = config.serve.model_copy(update={"engine": engine.model_copy(update={"max_model_len": longest})})
    model = EvaluatedModel(config.name, resolved.path, None, resolved.identity, tokenizer=resolved.path)
    return model, config.model_copy(update={"serve": serve})


def endpoint_key(config: EvalConfig) -> str:
    """The identity of an endpoint's model; the name of the field that limits its tokens changes no answer. Where the
    endpoint decides the temperature, answers may be sampled, and the seed is part of it."""
    options = [sorted(config.omit_sampling), config.extra_body]
    seed = [config.seed] if "temperature" in config.omit_sampling else []
    return content_hash(config.url, config.served_name, *(options if any(options) else []), *seed)


@contextmanager
def served(config: EvalConfig, model: EvaluatedModel, console: Console, session: Session) -> Iterator[EndpointAddress]:
    """An address that serves the model: the endpoint, or an engine that runs until the block ends."""
    batch = BatchConfig(max_in_flight=config.evaluate.max_in_flight, api_key_env=config.api_key_env)
    if config.url:
        yield EndpointAddress(config.url, batch, served_as=config.served_name, fields=config)
        return
    console.print(f"  [dim]starting the engine of {model.name} ...[/]")
    asked = asked_endpoints([model], config.student_chat, config.evaluate.reasoning_end)
    settings = serve_config(config.serve, session.device, port=0)
    url = deploy(asked, settings, log_dir=session.log_dir, on_progress=told_on(console))
    try:
        yield EndpointAddress(url, batch)
    finally:
        undeploy()


def show_languages(scored: Sequence[Scored], run_dir: RunDir, console: Console) -> None:
    """The tables by language and by level, of benchmarks that have them."""
    arms = [
        Arm(one.student, "", one.benchmark, (one,), ids, outcome_shares([one], ids))
        for one in scored
        if len(ids := np.unique(one.prompt_ids))
    ]
    problems = {one.benchmark: read_problems(run_dir, one.benchmark) for one in scored}
    if languages := language_scores(run_dir, arms, problems):
        console.print(language_table(languages))
    if levels := level_scores(arms, problems):
        console.print(levels_table(levels))


def show(config: EvalConfig, model: EvaluatedModel, run_dir: RunDir, console: Console) -> None:
    """Write the scores to files and print them as a table."""
    named = ScoredModel(model.name, model.name, "", None)
    scored = [read_scored(run_dir, named, benchmark) for benchmark in config.evaluate.benchmarks]
    apart = regression_benchmarks(config.benchmarks, config.evaluate.benchmarks)
    aims = [one for one in scored if one.benchmark not in apart]
    shares = [outcome_shares([one], np.unique(one.prompt_ids)) for one in aims]
    scores = tuple(model_score(one) for one in scored)
    run_dir.write_table(scores_table(scores), *EVAL_SCORES)
    settings = json.loads(config.model_dump_json())
    run_dir.write_bytes(scores_json(scores, settings), *EVAL_JSON)
    console.print(model_table(scores))
    show_languages(scored, run_dir, console)
    if len(shares) > 1 and not any(np.isnan(one).all() for one in shares):
        mean = sum(map(accuracy, shares)) / len(shares)
        console.print(f"mean of the {len(shares)} benchmarks: {percent(mean, 1)} {bounds(macro_interval(shares), 1)}")
    console.print("scores   " + run_dir.path(*EVAL_JSON), markup=False)
