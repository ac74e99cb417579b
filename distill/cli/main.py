"""The command line: few verbs, a recipe and dotted overrides. Nothing below this package reads argv.

At the top it imports only what the parser and the messages need: `distill --help` answers at once.
"""

import argparse
import gc
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from distill.config.shipped import shipped_recipes
from distill.core.errors import DistillError
from distill.core.full_disk import full_disk_said
from distill.core.stage_names import StageName
from distill.mix.export.formats import FORMATS
from distill.ops.publish.formats import FORMATS as FORMAT_NAMES
from distill.ops.publish.formats import SAFETENSORS
from serve.errors import ServeError
from serve.key_variables import KEY_VARIABLE, KEYS_VARIABLE
from serve.loopback import exempt_loopback

INTERRUPTED = 130
MAX_PORT = 65535
COLLECT_EVERY = 100_000
"""New objects between two garbage collections. Nearly all that imports and config classes create stays: to look it
through every 700 objects, as Python does, takes a seventh of a short command."""
NO_PYDANTIC_PLUGINS = ("PYDANTIC_DISABLE_PLUGINS", "__all__")
"""Nothing here uses one; pydantic would read the entry points of every installed package to find some."""
EVAL_SETTINGS = (
    "for example evaluate.sampling.max_tokens=999; with --url also api_key_env=NAME and what the model takes in "
    'requests: token_limit_field=max_completion_tokens, omit_sampling=\'["temperature", "top_p"]\', '
    "extra_body='{ reasoning_effort = \"high\" }'"
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; user errors are printed without traceback. Returns the exit code."""
    gc.set_threshold(COLLECT_EVERY)
    os.environ.setdefault(*NO_PYDANTIC_PLUGINS)
    arguments = parse_arguments(argv)
    os.environ.update(exempt_loopback(os.environ))
    try:
        with full_disk_said("."):  # of what is written beside a run: its lock, a manifest, a file of answers
            return verb_named(arguments.verb)(arguments)
    except DistillError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except ServeError as error:
        print(error, file=sys.stderr)
        return DistillError.exit_code
    except KeyboardInterrupt:
        print("stopped; what is finished is on disk, the same command continues", file=sys.stderr)
        return INTERRUPTED


def verb_named(name: str) -> Callable[[argparse.Namespace], int]:
    """What carries a verb out."""
    if name == "ask":
        from distill.cli.ask_verb import ask_verb  # start time: it needs neither recipes nor run directories

        return ask_verb
    from distill.cli.verbs import VERBS  # start time: --help and wrong arguments need no verb

    return VERBS[name]


def parse_arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Parsed arguments; overrides may stand before or after options, which argparse alone does not take."""
    parser = build_parser()
    arguments, rest = parser.parse_known_args(argv)
    if rest and (not hasattr(arguments, "overrides") or any(word.startswith("-") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    if rest:
        arguments.overrides = [*arguments.overrides, *rest]
    return arguments


def build_parser() -> argparse.ArgumentParser:
    """The verbs and their options."""
    parser = argparse.ArgumentParser(
        prog="distill", description="Mix distillation on Ray: a recipe in, trained and evaluated students out."
    )
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    recipes = f"path of a TOML file, or a shipped recipe: {', '.join(shipped_recipes())}"
    _add_run(verbs, recipes)
    _add_plan(verbs, recipes)
    _add_doctor(verbs, recipes)
    _add_submit(verbs, recipes)
    _add_views(verbs)
    _add_export(verbs)
    _add_publish(verbs)
    _add_eval(verbs)
    _add_serve(verbs)
    _add_ask(verbs)
    _add_chat(verbs)
    return parser


def _add_run(verbs: Any, recipes: str) -> None:
    run = verbs.add_parser("run", help="everything, resumable; a finished run does nothing")
    run.add_argument("recipe", metavar="RECIPE", help=recipes)
    run.add_argument("overrides", nargs="*", metavar="key=value", help="for example train.num_epochs=3")
    run.add_argument("--run-dir", metavar="DIR", help="folder or URI of the run (default: runs/NAME)")
    stages, which = [stage.value for stage in StageName], run.add_mutually_exclusive_group()
    which.add_argument("--until", metavar="STAGE", choices=stages, help=f"stop after this stage: {', '.join(stages)}")
    which.add_argument("--only", metavar="STAGE", choices=stages, help="this stage alone; those it reads must be done")
    run.set_defaults(verb="run")


def _add_views(verbs: Any) -> None:
    report = verbs.add_parser("report", help="tables of a run, and where its report.html is")
    report.add_argument("run_dir", metavar="RUN")
    report.set_defaults(verb="report")

    status = verbs.add_parser("status", help="how far a run is: stages, pools, arms being filled, cells in training")
    status.add_argument("run_dir", metavar="RUN")
    status.set_defaults(verb="status")

    audit = verbs.add_parser("audit", help="what became of a prompt's traces, and which traces are in an arm")
    audit.add_argument("run_dir", metavar="RUN")
    audit.add_argument("subject", metavar="SUBJECT", nargs="?", default="", help="a prompt id, a mix or STUDENT@MIX")
    audit.set_defaults(verb="audit")


def _add_export(verbs: Any) -> None:
    export = verbs.add_parser("export", help="an arm's examples for other trainers, with a card")
    export.add_argument("run_dir", metavar="RUN")
    export.add_argument("mix", metavar="MIX")
    export.add_argument("--format", default="dataset", choices=FORMATS, help="default: a Hugging Face data set")
    export.add_argument("--student", default="", help="whose chat template renders `text` (default: the first)")
    export.add_argument("--to", metavar="DIR", help="a new local folder (default: exports/RUN-MIX-FORMAT)")
    export.add_argument(
        "--push", metavar="hf://OWNER/NAME", help="a new data set of the model hub, in place of a folder"
    )
    export.set_defaults(verb="export")


def _add_publish(verbs: Any) -> None:
    publish = verbs.add_parser("publish", help="a trained student as a folder that other programs run, with its scores")
    publish.add_argument("run_dir", metavar="RUN")
    publish.add_argument("model", metavar="MODEL", help="name of a trained student, for example smol-135m@mix-long")
    publish.add_argument("--to", metavar="DIR|hf://OWNER/NAME", help="a new folder or repository (published/MODEL)")
    publish.add_argument("--formats", metavar="A,B", default=SAFETENSORS, help=f"of {', '.join(FORMAT_NAMES)}")
    publish.add_argument("--score", action="store_true", help="ask the GGUF files the run's benchmarks: what they lost")
    publish.add_argument("--calibrate", action="store_true", help="round GGUF files to fit the student's own traces")
    publish.add_argument("--dry-run", action="store_true", help="list the files with their sizes, and write nothing")
    publish.set_defaults(verb="publish")


def _add_serve(verbs: Any) -> None:
    serve = verbs.add_parser("serve", help="a run's students behind one OpenAI-compatible endpoint")
    serve.add_argument("run_dir", metavar="RUN")
    serve.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    serve.add_argument("--port", type=_port, default=8000, help="0 takes a free one (default: 8000)")
    serve.add_argument("--models", metavar="A,B", help="only these students (default: all of the run)")
    serve.set_defaults(verb="serve")
    serve.add_argument("--keys", metavar="FILE", help=f"who may ask (python -m serve.keys NAME); or {KEYS_VARIABLE}")
    serve.add_argument("--write-config", metavar="FILE", help="write what `serve deploy` takes, and serve nothing")
    serve.add_argument("--write-manifest", metavar="FILE", help="write a RayService for Kubernetes, and serve nothing")
    serve.add_argument("overrides", nargs="*", metavar="kubernetes.key=value", help="for --write-manifest")


def _port(text: str) -> int:
    """A TCP port.

    Raises:
        argparse.ArgumentTypeError: it is none.
    """
    if text.isdecimal() and int(text) <= MAX_PORT:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text}: a port is a number from 0, which takes a free one, to {MAX_PORT}")


def _add_ask(verbs: Any) -> None:
    ask = verbs.add_parser("ask", help="ask a served student; without a question, talk to it")
    ask.add_argument("model", metavar="MODEL", help="name of a student, for example smol-135m@mix-long")
    ask.add_argument("problem", metavar="TEXT", nargs="?")
    ask.add_argument(
        "--url", default="http://127.0.0.1:8000", help=f"where `distill serve` listens; key: {KEY_VARIABLE}"
    )
    ask.add_argument("--mode", default="", help="how a student of a mix with modes answers (default: its first mode)")
    ask.add_argument("--file", metavar="IN.jsonl", help="rows with `problem` or `messages` instead of a question")
    ask.add_argument("--out", metavar="OUT.jsonl", help="where the answers to the file go, one line per row")
    ask.add_argument("--max-tokens", type=int, metavar="N", help="longest answer")
    ask.add_argument("--thinking-budget", type=int, metavar="N", help="close the reasoning after so many tokens")
    ask.set_defaults(verb="ask")


def _add_chat(verbs: Any) -> None:
    chat = verbs.add_parser("chat", help="talk to a student on this machine, without an endpoint")
    chat.add_argument("run_dir", metavar="RUN")
    chat.add_argument("model", metavar="MODEL", help="name of a student, for example smol-135m@mix-long")
    chat.add_argument("--gguf", metavar="FILE", default="", help="its published GGUF file, in llama.cpp")
    chat.add_argument("--mode", default="", help="how a student of a mix with modes answers (default: its first mode)")
    chat.add_argument("--max-tokens", type=int, metavar="N", help="longest answer")
    chat.add_argument("--thinking-budget", type=int, metavar="N", help="close the reasoning after so many tokens")
    chat.set_defaults(verb="chat")


def _add_eval(verbs: Any) -> None:
    score = verbs.add_parser("eval", help="score any model on benchmarks, without a run")
    score.add_argument("model", metavar="MODEL", help="a hub id, folder or URI; with --url, its name there")
    score.add_argument("overrides", nargs="*", metavar="key=value", help=EVAL_SETTINGS)
    score.add_argument(
        "--benchmarks", metavar="A,B", default="", help="built-in ones, or set as benchmarks.NAME...; or evaluate.suite"
    )
    score.add_argument("--url", default="", help="an OpenAI-compatible endpoint (default: an engine is started here)")
    score.add_argument("--run-dir", metavar="DIR", help="folder or URI of the answers (default: evals/MODEL)")
    score.set_defaults(verb="eval")


def _add_plan(verbs: Any, recipes: str) -> None:
    plan = verbs.add_parser("plan", help="what a run would take: resources, layout, steps, hours, cost; runs nothing")
    plan.add_argument("recipe", metavar="RECIPE", help=recipes)
    plan.add_argument("overrides", nargs="*", metavar="key=value")
    plan.add_argument("--run-dir", metavar="DIR", help="folder or URI of the run (default: runs/NAME)")
    plan.add_argument(
        "--cluster", metavar="2x8xh100", help="2 nodes of 8 H100 (or 2x8x80: of 80 GB; 1x4cpu); default: here"
    )
    plan.add_argument("--measured", metavar="RUN", help="a run to learn rates from (default: the run itself)")
    plan.set_defaults(verb="plan")


def _add_doctor(verbs: Any, recipes: str) -> None:
    doctor = verbs.add_parser("doctor", help="whether a run can start and finish: versions, GPUs, disk, access, nodes")
    doctor.add_argument("recipe", metavar="RECIPE", nargs="?", default="quickstart", help=recipes)
    doctor.add_argument("overrides", nargs="*", metavar="key=value")
    doctor.add_argument("--run-dir", metavar="DIR", help="folder or URI of the run (default: runs/NAME)")
    doctor.set_defaults(verb="doctor")


def _add_submit(verbs: Any, recipes: str) -> None:
    submit = verbs.add_parser("submit", help="run as a job of a Ray cluster; the same command re-attaches")
    submit.add_argument("recipe", metavar="RECIPE", help=recipes)
    submit.add_argument("overrides", nargs="*", metavar="key=value")
    submit.add_argument("--run-dir", metavar="URI", required=True, help="on storage that the whole cluster shares")
    submit.add_argument("--address", metavar="URL", help="the cluster's dashboard, http://HEAD:8265 (or RAY_ADDRESS)")
    submit.add_argument("--no-wait", action="store_true", help="do not wait and do not show the job's log")
    submit.add_argument("--stop", action="store_true", help="stop the run's job; what is finished stays")
    submit.add_argument("--write-manifest", metavar="FILE", help="write a RayJob for Kubernetes, and submit nothing")
    submit.set_defaults(verb="submit")
