"""The verbs that open a recipe or a run. Each imports what it needs itself: most need little of it."""

import argparse
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console

from cluster.storage import cache_dir
from distill.core.errors import InputError
from distill.core.run_dir import RunDir, StageName, open_run
from serve.key_variables import KEYS_VARIABLE


def run_verb(arguments: argparse.Namespace) -> int:
    """`distill run`."""
    from distill.config.load import find_recipe, load_recipe  # start time

    path = find_recipe(arguments.recipe)
    recipe = load_recipe(path, arguments.overrides)
    from distill.cli.run import run_recipe  # start time: a wrong recipe is told first

    until, only = (StageName(name) if name else None for name in (arguments.until, arguments.only))
    return run_recipe(recipe, path.parent, arguments.run_dir or f"runs/{recipe.name}", until=until, only=only)


def plan_verb(arguments: argparse.Namespace) -> int:
    """`distill plan`."""
    from distill.config.load import find_recipe, load_recipe  # start time

    path = find_recipe(arguments.recipe)
    recipe = load_recipe(path, arguments.overrides)
    from distill.core.progress_bars import quiet  # start time, as those below
    from distill.ops.doctor.templates import show_templates  # start time
    from distill.ops.forecast.cell_plan import (  # start time
        fetch_settings,
        plan_recipe,
        show_plan,
        show_rounds,
        show_students_work,
    )
    from distill.ops.forecast.power import show_power  # start time
    from distill.ops.forecast.tables import show_forecast  # start time
    from distill.train.machines import planned_machines  # start time

    run_dir = RunDir(arguments.run_dir or f"runs/{recipe.name}")
    measured = open_run(arguments.measured) if arguments.measured else None
    with quiet(cache_dir().with_name("logs") / "plan.log") as console:
        machines = planned_machines(recipe, arguments.cluster)
        fetch_settings(recipe, console)
        show_plan(plan_recipe(recipe, path.parent, run_dir, machines), machines, console)
        show_students_work(recipe, machines, console)
        show_rounds(recipe, console)
        show_templates(recipe, console)
        show_forecast(recipe, run_dir, machines, console, measured=measured)
        show_power(recipe, run_dir, console, measured=measured)
    return 0


def doctor_verb(arguments: argparse.Namespace) -> int:
    """`distill doctor`."""
    from distill.config.load import find_recipe, load_recipe  # start time

    path = find_recipe(arguments.recipe)
    recipe = load_recipe(path, arguments.overrides)
    from distill.core.progress_bars import quiet  # start time
    from distill.ops.doctor.preflight import doctor  # start time

    with quiet(cache_dir().with_name("logs") / "doctor.log") as console:
        return doctor(recipe, path.parent, RunDir(arguments.run_dir or f"runs/{recipe.name}"), console)


def submit_verb(arguments: argparse.Namespace) -> int:
    """`distill submit`."""
    from distill.config.load import find_recipe, load_recipe  # start time

    recipe = load_recipe(find_recipe(arguments.recipe), arguments.overrides)
    from distill.ops.deploy.ray_job import stop, submit  # start time

    console = Console(highlight=False, soft_wrap=True)
    if arguments.write_manifest:
        from distill.ops.deploy.kubernetes import write_job  # start time

        return write_job(recipe, arguments.run_dir, Path(arguments.write_manifest), console)
    if arguments.stop:
        return stop(recipe, arguments.run_dir, arguments.address, console)
    return submit(recipe, arguments.run_dir, arguments.address, console, wait=not arguments.no_wait)


def report_verb(arguments: argparse.Namespace) -> int:
    """`distill report`."""
    from distill.cli.report import show_report  # start time

    return show_report(open_run(arguments.run_dir))


def status_verb(arguments: argparse.Namespace) -> int:
    """`distill status`."""
    from distill.cli.status import show_status  # start time
    from distill.run.run_recipe import load_run_recipe  # start time

    run_dir = open_run(arguments.run_dir)
    show_status(run_dir, load_run_recipe(run_dir), Console(highlight=False))
    return 0


def audit_verb(arguments: argparse.Namespace) -> int:
    """`distill audit`."""
    from distill.cli.audit import audit  # start time
    from distill.run.run_recipe import load_run_recipe  # start time

    run_dir = open_run(arguments.run_dir)
    recipe = load_run_recipe(run_dir)
    audit(run_dir, recipe, arguments.subject, Console(highlight=False))
    return 0


def export_verb(arguments: argparse.Namespace) -> int:
    """`distill export`."""
    from distill.cli.export import export_arm  # start time

    if arguments.to and arguments.push:
        raise InputError("--to and --push: a folder or a repository -> give one of them")
    run_dir, student = open_run(arguments.run_dir), arguments.student
    return export_arm(
        run_dir, arguments.mix, arguments.format, student=student, to=arguments.to or "", repo=arguments.push or ""
    )


def publish_verb(arguments: argparse.Namespace) -> int:
    """`distill publish`."""
    from distill.cli.publish import publish  # start time
    from distill.ops.publish.formats import read_formats  # start time

    formats = read_formats(arguments.formats)
    run_dir = open_run(arguments.run_dir)
    return publish(
        *(run_dir, arguments.model, arguments.to or "", formats),
        dry_run=arguments.dry_run,
        score=arguments.score,
        calibrate=arguments.calibrate,
    )


def eval_verb(arguments: argparse.Namespace) -> int:
    """`distill eval`."""
    from distill.cli.evaluate import eval_config, eval_model  # start time

    names = [name for name in arguments.benchmarks.split(",") if name]
    config = eval_config(arguments.model, names, arguments.url, arguments.overrides)
    return eval_model(config, arguments.run_dir or f"evals/{config.name}")


def serve_verb(arguments: argparse.Namespace) -> int:
    """`distill serve`."""
    from distill.cli.serve import serve_run, write_config, write_manifest  # start time
    from distill.ops.deploy.endpoint import ServeRequest  # start time
    from serve.keys import load_keys  # start time

    if arguments.overrides and not arguments.write_manifest:
        raise InputError(
            f"{arguments.overrides[0]}: settings for Kubernetes go with --write-manifest FILE, "
            "and students are named with --models A,B"
        )
    run_dir = open_run(arguments.run_dir)
    request = ServeRequest(
        host=arguments.host,
        port=arguments.port,
        names=tuple(arguments.models.split(",")) if arguments.models else (),
        keys=load_keys(arguments.keys, os.environ.get(KEYS_VARIABLE)),
    )
    if arguments.write_manifest:
        return write_manifest(run_dir, request, Path(arguments.write_manifest), arguments.overrides)
    if arguments.write_config:
        return write_config(run_dir, request, Path(arguments.write_config))
    return serve_run(run_dir, request)


def chat_verb(arguments: argparse.Namespace) -> int:
    """`distill chat`."""
    run_dir = open_run(arguments.run_dir)
    from distill.cli.chat import ChatRequest, chat_with  # start time: a wrong run is told first

    sampling = {"max_tokens": arguments.max_tokens, "thinking_budget": arguments.thinking_budget}
    given = {name: value for name, value in sampling.items() if value is not None}
    return chat_with(run_dir, arguments.model, ChatRequest(arguments.mode, arguments.gguf, given))


VERBS: Mapping[str, Callable[[argparse.Namespace], int]] = {
    "run": run_verb,
    "plan": plan_verb,
    "doctor": doctor_verb,
    "submit": submit_verb,
    "report": report_verb,
    "status": status_verb,
    "audit": audit_verb,
    "export": export_verb,
    "publish": publish_verb,
    "eval": eval_verb,
    "serve": serve_verb,
    "chat": chat_verb,
}
"""All but `ask`."""
