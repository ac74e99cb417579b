"""`distill chat`: talk to a student of a run on this machine, without an endpoint: an engine, or llama.cpp."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from cluster.session import resolve_device
from distill.cli.ask import ServedStudent, chat
from distill.config.recipe import Recipe
from distill.core.errors import InputError
from distill.core.progress_bars import quiet
from distill.core.run_dir import RunDir, log_path
from distill.evaluate.models import EvaluatedModel, endpoint_delimiters, serve_config
from distill.evaluate.proof import check_weights
from distill.models.chat_template import with_mode
from distill.ops.deploy.endpoint import mix_of, run_endpoints, serving_settings
from distill.ops.publish.llama_server import llama_server
from distill.run.context import RunContext
from distill.run.run_recipe import load_run_recipe
from distill.train.machines import gpus_here
from serve.api.prepare import prepared_chat
from serve.client import Piece, chosen_mode, stream_chat
from serve.config import Endpoint, ServeConfig
from serve.errors import ServeError
from serve.key_variables import NO_KEY
from serve.local_server import local_server

ENGINE_FIELDS = ("stop_token_ids", "skip_special_tokens")
"""What our engines are told beside the protocol: a GGUF file has its end in itself, and llama.cpp keeps think tags."""


@dataclass(frozen=True)
class ChatRequest:
    """Arguments of `distill chat`."""

    mode: str = ""
    gguf: str = ""
    """A published GGUF file of the student; empty: the student itself, in an engine."""
    sampling: Mapping[str, Any] | None = None
    """`max_tokens` and `thinking_budget`, where they are set."""


@dataclass(frozen=True)
class GgufStudent:
    """A student in llama.cpp: asked as our endpoint would ask its engine, its reasoning split off here."""

    url: str
    file: Path
    recipe: Recipe
    endpoint: Endpoint
    tokenizer: str
    """Folder or address of the student's own tokenizer."""
    sampling: Mapping[str, Any]
    mode: str = ""

    @property
    def where(self) -> str:
        """Its name and its file."""
        return f"{self.endpoint.name} as {self.file.name}"

    def card(self) -> Mapping[str, Any]:
        """How it is asked."""
        return self.endpoint.metadata

    def answer(self, turns: Sequence[Mapping[str, str]], mode: str) -> Iterator[Piece]:
        """Stream its next turn.

        Raises:
            ServeError: the mode would have to begin the answer, which llama.cpp's server cannot be told.
        """
        if mode in self.endpoint.mode_openings:
            raise ServeError(f"mode {mode}: in llama.cpp this student chooses its mode itself -> leave --gguf out")
        asked = prepared_chat({"messages": list(turns), "mode": mode or None, **self.sampling}, self.endpoint)
        messages = asked.pop("messages")
        fields = {name: value for name, value in asked.items() if name not in ENGINE_FIELDS}
        mix = mix_of(self.recipe, self.endpoint.name)
        modes = {str(style): one for style, one in mix.modes.items()} if mix else {}
        chat = with_mode(self.recipe.student_chat, modes.get(mode))
        delimiters = self.endpoint.reasoning and endpoint_delimiters(self.tokenizer, chat, self.endpoint.reasoning.end)
        return stream_chat(self.url, self.endpoint.name, messages, delimiters=delimiters, **fields)


def chat_with(run_dir: RunDir, name: str, request: ChatRequest) -> int:
    """Start what answers, talk, and stop it.

    Raises:
        InputError: the run has no such student, it is not trained, its weights changed, or the GGUF file is none.
        ServeError: it has no such mode, or the engine did not start.
    """
    recipe, shown = load_run_recipe(run_dir), Console(highlight=False, soft_wrap=True)
    if request.gguf:
        check_gguf(request)
    with quiet(log_path(run_dir)) as console, ExitStack() as resources:
        models, endpoints = run_endpoints(RunContext(recipe, Path.cwd(), run_dir, console, resources), [name])
        if not request.gguf:
            check_weights(recipe, run_dir, models, console)
    chosen_mode(endpoints[0].metadata, request.mode)
    answer = _chat_gguf if request.gguf else _chat_engine
    return answer(recipe, run_dir, models[0], endpoints[0], request, shown)


def _chat_engine(
    recipe: Recipe, run_dir: RunDir, model: EvaluatedModel, endpoint: Endpoint, request: ChatRequest, console: Console
) -> int:
    console.print(f"[dim]starting an engine for {model.served_name} ...[/]")
    log = _log(run_dir, model)
    with local_server(endpoint, engine_config(recipe), log) as url:
        student = ServedStudent(url, endpoint.name, NO_KEY, request.sampling or {}, request.mode)
        return chat(student, console)


def _chat_gguf(
    recipe: Recipe, run_dir: RunDir, model: EvaluatedModel, endpoint: Endpoint, request: ChatRequest, console: Console
) -> int:
    file, log = Path(request.gguf), _log(run_dir, model)
    console.print(f"[dim]starting llama.cpp on {file.name} ...[/]")
    with llama_server(file, context_tokens=recipe.serve.engine.max_model_len, num_parallel=1, log=log) as url:
        return chat(
            GgufStudent(url, file, recipe, endpoint, model.tokenizer, request.sampling or {}, request.mode), console
        )


def engine_config(recipe: Recipe) -> ServeConfig:
    """The engine of `distill serve`, for one person.

    Raises:
        InputError: the recipe asks for GPUs, and this machine has none.
    """
    try:
        device = resolve_device(recipe.device, len(gpus_here()))
    except ValueError as error:
        raise InputError(str(error)) from error
    return serve_config(recipe.serve, device, **serving_settings(recipe))


def check_gguf(request: ChatRequest) -> None:
    """That a GGUF file is there, and is asked for nothing that llama.cpp has not.

    Raises:
        InputError: it is not.
    """
    if not request.gguf.endswith(".gguf") or not Path(request.gguf).is_file():
        raise InputError(f"--gguf {request.gguf}: no GGUF file -> one of distill publish --formats gguf-q4_k_m")
    if "thinking_budget" in (request.sampling or {}):
        raise InputError("--thinking-budget: llama.cpp has none -> leave --gguf out, so that an engine answers")


def _log(run_dir: RunDir, model: EvaluatedModel) -> Path:
    log = log_path(run_dir).with_name(f"chat-{model.served_name.replace('@', '-')}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    return log
