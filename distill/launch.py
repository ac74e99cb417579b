"""What the verbs do: a run directory held by one process at a time, libraries quiet, the result shown last.

Libraries that take seconds to import are imported by the verb that needs them: a finished run answers at once.
"""

import fcntl
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING, Any

from rich.console import Console

from distill.config import Recipe
from distill.errors import InputError
from distill.pipeline import run
from distill.run import Run
from distill.run_dir import RunDir
from distill.schema import Prompt
from distill.terminal import quiet
from distill.train import cells

if TYPE_CHECKING:
    from distill.evaluate import Evaluated


def launch(recipe: Recipe, base: Path, uri: str) -> int:
    """`distill run`: bring a run up to date and show its report."""
    started = time.monotonic()
    run_dir = RunDir(uri)
    log_file = log_path(run_dir)
    with held(run_dir), quiet(log_file) as console:
        console.print(f"[bold]{recipe.name}[/] -> {uri}   [dim](libraries' messages: {log_file})[/]")
        had_work = run(recipe, base, run_dir, console)
        if had_work:
            from distill.report import build_report, render_terminal

            console.print(render_terminal(build_report(recipe, run_dir)))
        minutes = (time.monotonic() - started) / 60
        console.print(f"finished in {minutes:.1f} minutes" if had_work else "nothing to do: every stage is done")
        show_next(console, recipe, run_dir)
    return 0


def show_next(console: Console, recipe: Recipe, run_dir: RunDir) -> None:
    """What a person does with a finished run."""
    name = [cell.name for cell in cells(recipe) if cell.student == recipe.students[0]][-1]
    console.print("\nserve the students   distill serve " + run_dir.uri, markup=False)
    console.print(f'ask one of them      distill ask {name} "{sample_problem(recipe, run_dir)}"', markup=False)
    console.print("report               " + run_dir.path("report", "report.html"), markup=False)


def sample_problem(recipe: Recipe, run_dir: RunDir) -> str:
    """A short problem of the first benchmark, of the kind that the students were trained for."""
    name = f"{recipe.evaluate.benchmarks[0]}.parquet"
    table = run_dir.read_table("prompts", "benchmarks", name, row_type=Prompt, columns=("problem",))
    short = [text for text in table.column("problem").to_pylist() if len(text) < 90 and '"' not in text]
    return str(short[0]) if short else "What is 3 + 4?"


def log_path(run_dir: RunDir) -> Path:
    """Where libraries' messages go: into the run directory where it is local."""
    return run_dir.local_path("logs", "run.log") if run_dir.is_local else Path(gettempdir()) / "distill-run.log"


@contextmanager
def held(run_dir: RunDir) -> Iterator[None]:
    """Keep a second process off a local run directory. The lock goes with the process, however it ends.

    Raises:
        InputError: another process has it.
    """
    if not run_dir.is_local:
        yield
        return
    path = run_dir.local_path(".lock")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(
                f"{run_dir.uri} is being worked on by another process -> wait for it or stop it"
            ) from error
        yield


def load_run_recipe(run_dir: RunDir) -> Recipe:
    """The resolved recipe of an existing run."""
    return Recipe.model_validate_json(run_dir.fs.cat_file(run_dir.path("recipe.json")))


def show_report(run_dir: RunDir) -> int:
    """`distill report`."""
    from distill.report import build_report, render_terminal

    console = Console()
    console.print(render_terminal(build_report(load_run_recipe(run_dir), run_dir)))
    console.print("report " + run_dir.path("report", "report.html"), markup=False, soft_wrap=True)
    return 0


def serve_run(run_dir: RunDir, *, host: str, port: int, names: tuple[str, ...]) -> int:
    """`distill serve`: the run's students, and their untouched selves, until Ctrl-C."""
    from distill.evaluate import endpoints, evaluated_models, same_weights, serve_config
    from serve.deploy import deploy, undeploy

    recipe = load_run_recipe(run_dir)
    with quiet(log_path(run_dir)) as console, ExitStack() as resources:
        current = Run(recipe, Path.cwd(), run_dir, console, resources)
        models = choose_models(evaluated_models(recipe, current.models, run_dir), names)
        first = same_weights(models)
        models = [model for model in models if first[model.name] == model.name]
        config = serve_config(recipe.serve, current.session.device, host=host, port=port)
        console.print(f"  [dim]starting {', '.join(model.name for model in models)} ...[/]")
        cards = {model.served_name: chat_card(recipe, model.served_name) for model in models}
        carded = [one.model_copy(update={"metadata": cards[one.name]}) for one in endpoints(models)]
        url = deploy(carded, config, log_dir=current.session.log_dir)
        console.print(f"{url}/v1 answers the OpenAI protocol. Models:", markup=False)
        for name, card in cards.items():
            modes = f"   modes: {', '.join(card['modes'])}" if "modes" in card else ""
            console.print(f"  {name}{modes}", markup=False)
        name = next((name for name in cards if "@" in name), models[-1].served_name)
        console.print(f'\ndistill ask {name} "{sample_problem(recipe, run_dir)}" --url {url}', markup=False)
        console.print("Ctrl-C stops it")
        wait_for_stop()
        console.print("stopping")
        undeploy()
    return 0


def chat_card(recipe: Recipe, name: str) -> dict[str, Any]:
    """How a student wants to be asked, for whoever asks it by hand: `distill ask` reads it under /v1/models."""
    chat = recipe.student_chat
    mixes = {cell.name: cell.mix for cell in cells(recipe)}
    modes = {mix.name: {str(mode): line for mode, line in mix.modes.items()} for mix in recipe.mixes}.get(
        mixes.get(name, "")
    )
    return (
        {"template": chat.template}
        | ({"system": chat.system} if chat.system else {})
        | ({"modes": modes} if modes else {})
    )


def choose_models(models: "list[Evaluated]", names: tuple[str, ...]) -> "list[Evaluated]":
    """The models to serve: those named, or all that are trained and their untouched selves.

    Raises:
        InputError: a name that the run does not have, or a student that is not trained yet.
    """
    known = {model.served_name: model for model in models}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(f"the run has no student {unknown[0]!r} -> it has: {', '.join(known)}")
    chosen = [known[name] for name in names] or list(known.values())
    missing = [model.served_name for model in chosen if not model.key]
    if missing:
        raise InputError(f"not trained yet: {', '.join(missing)} -> finish the run with distill run first")
    return chosen


def wait_for_stop() -> None:
    """Until Ctrl-C or a polite kill."""
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stopped.set())
    try:
        while not stopped.wait(1.0):
            pass
    except KeyboardInterrupt:
        return


def ask_student(url: str, model: str, problem: str, mode: str) -> int:
    """`distill ask`: stream one answer."""
    from serve.client import ask

    for piece in ask(url, model, problem, mode=mode):
        print(piece, end="", flush=True)
    print()
    return 0
