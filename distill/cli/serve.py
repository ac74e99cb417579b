"""`distill serve`: serves a run's students, or writes a file that deploys them."""

import signal
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import yaml

from cluster.session import Session, is_joined
from distill.cli.run import sample_problem
from distill.config.recipe import Recipe
from distill.core.errors import InputError
from distill.core.progress_bars import quiet
from distill.core.run_dir import RunDir, log_path
from distill.evaluate.engine_progress import told_on
from distill.evaluate.models import EvaluatedModel, engines_at_once, engines_at_work, serve_config
from distill.evaluate.proof import check_weights
from distill.evaluate.shared_engines import share_engines
from distill.ops.deploy.endpoint import (
    BenchmarkChecker,
    ServeRequest,
    limits_note,
    run_endpoints,
    serve_file,
    serving_settings,
    smoke_checks,
)
from distill.ops.deploy.kubernetes import kubernetes_config, service_file, validate_mounted, with_overrides
from distill.run.context import RunContext
from distill.run.run_recipe import load_run_recipe
from serve.config import Endpoint, ServeConfig, group_engines, keys_problem
from serve.deploy import deploy, free_port, undeploy
from serve.proxy_settings import prepare_environment
from serve.watch import EngineWatch

LOOK_EVERY_S = 2.0
"""Seconds between two looks at the engines while they serve."""
ALL_INTERFACES = "0.0.0.0"
"""A pod gets its requests from other machines; its API keys are in the Secret."""


def serve_run(run_dir: RunDir, request: ServeRequest) -> int:
    """`distill serve`: serve until Ctrl-C."""
    stop_on_signals()
    if problem := keys_problem(request.host, request.keys):
        raise InputError(problem)
    prepare_environment()
    recipe = load_run_recipe(run_dir)
    if not is_joined():  # on a joined cluster, Serve may run already and have the port
        free_port(ServeConfig(host=request.host, port=request.port, keys=request.keys))
    with quiet(log_path(run_dir)) as console, ExitStack() as resources:
        run = RunContext(recipe, Path.cwd(), run_dir, console, resources)
        models, endpoints = run_endpoints(run, request.names)
        check_weights(recipe, run_dir, models, console)
        checks = smoke_checks(recipe, run_dir, models, endpoints)
        if note := limits_note(recipe, has_checks=bool(checks)):
            console.print(f"  {note}", markup=False, highlight=False)
        started = time.monotonic()
        session = run.session
        stop_on_signals()  # again: Ray has set a handler of its own for SIGTERM
        endpoints = shared_where_needed(recipe, session, models, endpoints)
        address = {"host": request.host, "port": request.port, "keys": request.keys}
        config = serve_config(recipe.serve, session.device, **serving_settings(recipe), **address)
        console.print(f"  [dim]starting {', '.join(endpoint.name for endpoint in endpoints)} ...[/]")
        specs = group_engines(endpoints)
        for spec in specs:
            if spec.in_turn:
                console.print(f"  one engine for {', '.join(spec.in_turn)}, whose weights take turns", markup=False)
        url = deploy(
            endpoints,
            config,
            log_dir=session.log_dir,
            on_progress=told_on(console),
            checker=BenchmarkChecker.of(recipe, run_dir),
            smoke_checks=checks,
        )
        console.print(f"  [dim]ready after {time.monotonic() - started:.0f} s[/]", highlight=False)
        console.print(f"OpenAI-compatible API: {url}/v1; playground: {url}. Models:", markup=False)
        for endpoint in endpoints:
            modes = f"   modes: {', '.join(endpoint.modes)}" if endpoint.modes else ""
            start = "   starts at the first request" if endpoint.on_demand else ""
            console.print(f"  {endpoint.name}{modes}{start}", markup=False)
        name = next((endpoint.name for endpoint in endpoints if "@" in endpoint.name), endpoints[-1].name)
        console.print(f'\ndistill ask {name} "{sample_problem(recipe, run_dir)}" --url {url}', markup=False)
        console.print("Ctrl-C stops the server")
        serve_until_stopped(EngineWatch(specs, lambda line: console.print(line, markup=False, highlight=False)))
        console.print("stopping")
        undeploy()
    return 0


def write_config(run_dir: RunDir, request: ServeRequest, target: Path) -> int:
    """`distill serve --write-config`: a Serve config file, for clusters that see the same folders."""
    recipe = load_run_recipe(run_dir)
    with quiet(log_path(run_dir)) as console:
        endpoints, content = serve_file(recipe, run_dir, request, console)
        target.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        console.print(f"{target}: `serve deploy {target}` deploys {len(endpoints)} models", markup=False)
    return 0


def write_manifest(run_dir: RunDir, request: ServeRequest, target: Path, overrides: Sequence[str]) -> int:
    """`distill serve --write-manifest`: a RayService; to be run where the claim is mounted as in the pods."""
    recipe = with_overrides(load_run_recipe(run_dir), overrides)
    validate_mounted(kubernetes_config(recipe), [run_dir.address])
    with quiet(log_path(run_dir)) as console:
        endpoints, content = serve_file(recipe, run_dir, replace(request, host=ALL_INTERFACES), console)
        target.write_text(service_file(recipe, run_dir, endpoints, content), encoding="utf-8")
        console.print(f"{target}: `kubectl apply -f {target}` deploys {len(endpoints)} models", markup=False)
    return 0


def shared_where_needed(
    recipe: Recipe, session: Session, models: Sequence[EvaluatedModel], endpoints: Sequence[Endpoint]
) -> list[Endpoint]:
    """The endpoints; students of the same shapes take turns where the cluster has no room for an engine each, or no
    cores: engines that start at the same time, and then answer, would only take them from each other."""
    fitting = engines_at_once(recipe.serve, session)
    useful = engines_at_work(fitting, session.device, session.nodes(), [endpoint.source for endpoint in endpoints])
    shared = share_engines(models, recipe.serve, min(fitting, useful), alone=recipe.serve.on_demand)
    labels = {model.served_name: model.shared_engine for model in shared}
    return [endpoint.model_copy(update={"shared_engine": labels[endpoint.name]}) for endpoint in endpoints]


def stop_on_signals() -> None:
    """Have Ctrl-C and SIGTERM end this process in order, also where its parent ignored Ctrl-C (`distill serve RUN &` in
    a script)."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)


def serve_until_stopped(watch: EngineWatch) -> None:
    """Wait for Ctrl-C or SIGTERM; meanwhile tell of engines that are lost."""
    try:
        while True:
            time.sleep(LOOK_EVERY_S)
            watch.look()
    except KeyboardInterrupt:
        return
