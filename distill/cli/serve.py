"""`distill serve`: a run's students behind one address, or a file that deploys them."""

import signal
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import yaml

from distill.cli.run import sample_problem
from distill.core.errors import InputError
from distill.core.progress_bars import quiet
from distill.core.run_dir import RunDir, log_path
from distill.evaluate.models import serve_config
from distill.ops.deploy.endpoint import (
    BenchmarkChecker,
    ServeRequest,
    run_endpoints,
    run_probes,
    serve_file,
    serving_settings,
)
from distill.ops.deploy.kubernetes import kubernetes_config, refuse_unmounted, service_file, with_overrides
from distill.run.context import Run, load_run_recipe
from serve.config import open_door
from serve.proxy_settings import prepare_environment

EVERYWHERE = "0.0.0.0"
"""A pod is asked from other machines; its keys are in the Secret."""


def serve_run(run_dir: RunDir, request: ServeRequest) -> int:
    """`distill serve`: until Ctrl-C."""
    from serve.deploy import deploy, undeploy

    if problem := open_door(request.host, request.keys):
        raise InputError(problem)
    prepare_environment()
    recipe = load_run_recipe(run_dir)
    with quiet(log_path(run_dir)) as console, ExitStack() as resources:
        current = Run(recipe, Path.cwd(), run_dir, console, resources)
        models, endpoints = run_endpoints(current, request.names)
        address = {"host": request.host, "port": request.port, "keys": request.keys}
        config = serve_config(recipe.serve, current.session.device, **serving_settings(recipe), **address)
        console.print(f"  [dim]starting {', '.join(endpoint.name for endpoint in endpoints)} ...[/]")
        url = deploy(
            endpoints,
            config,
            log_dir=current.session.log_dir,
            checker=BenchmarkChecker.of(recipe, run_dir),
            probes=run_probes(recipe, run_dir, models, endpoints),
        )
        console.print(f"{url}/v1 answers the OpenAI protocol; {url} is a page to talk to them. Models:", markup=False)
        for endpoint in endpoints:
            modes = f"   modes: {', '.join(endpoint.modes)}" if endpoint.modes else ""
            waits = "   starts when it is asked" if endpoint.on_demand else ""
            console.print(f"  {endpoint.name}{modes}{waits}", markup=False)
        name = next((endpoint.name for endpoint in endpoints if "@" in endpoint.name), endpoints[-1].name)
        console.print(f'\ndistill ask {name} "{sample_problem(recipe, run_dir)}" --url {url}', markup=False)
        console.print("Ctrl-C stops it")
        wait_for_stop()
        console.print("stopping")
        undeploy()
    return 0


def write_config(run_dir: RunDir, request: ServeRequest, target: Path) -> int:
    """`distill serve --write-config`: a Serve config file, for clusters that see the same folders."""
    recipe = load_run_recipe(run_dir)
    with quiet(log_path(run_dir)) as console:
        endpoints, content = serve_file(recipe, run_dir, request, console)
        target.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
        console.print(f"{target}: `serve deploy {target}` starts {len(endpoints)} models", markup=False)
    return 0


def write_manifest(run_dir: RunDir, request: ServeRequest, target: Path, overrides: Sequence[str]) -> int:
    """`distill serve --write-manifest`: the same as a RayService; run where the claim is mounted as pods have it."""
    recipe = with_overrides(load_run_recipe(run_dir), overrides)
    refuse_unmounted(kubernetes_config(recipe), [run_dir.address])
    with quiet(log_path(run_dir)) as console:
        endpoints, content = serve_file(recipe, run_dir, replace(request, host=EVERYWHERE), console)
        target.write_text(service_file(recipe, run_dir, endpoints, content), encoding="utf-8")
        console.print(f"{target}: `kubectl apply -f {target}` starts {len(endpoints)} models", markup=False)
    return 0


def wait_for_stop() -> None:
    """Until Ctrl-C or a polite kill."""
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.set())
    try:
        while not stopped.wait(1.0):
            pass
    except KeyboardInterrupt:
        return
