"""`distill chat`: what it refuses before anything starts, and how llama.cpp is asked. No engine and no Ray."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from distill.cli import chat as chatting
from distill.cli.chat import ChatRequest, GgufStudent, chat_with, engine_config
from distill.cli.main import parse_arguments
from distill.cli.verbs import chat_verb
from distill.core.errors import InputError
from distill.core.run_dir import RECIPE, RunDir, Training, model_record
from serve.api.reasoning_parser import Delimiters
from serve.client import Piece
from serve.config import Endpoint
from serve.errors import ServeError
from tests.fixtures.published_run import MODEL, trained
from tests.fixtures.report_run import make_recipe
from tests.fixtures.tiny_models import make_tiny_model

MODES = {"long": "Think step by step.", "short": "Answer at once."}


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    folder = tmp_path_factory.mktemp("run")
    base = make_tiny_model(folder / "base")
    recipe = make_recipe(
        device="cpu",
        models={name: {"sources": [str(base)]} for name in ("smol-135m", "smol-8l")},
        mixes=[{"name": "mix-long", "weights": {"long": 0.5, "short": 0.5}, "modes": MODES}],
    )
    run_dir = trained(folder / "run", recipe).run_dir
    run_dir.remove(*model_record("smol-135m"))  # a record without content, for licences
    return run_dir


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([MODEL, "--gguf", "none.gguf"], "--gguf none.gguf: no GGUF file -> one of distill publish"),
        ([MODEL, "--gguf", "README.md"], "no GGUF file"),
        ([MODEL, "--gguf", "FILE", "--thinking-budget", "9"], "llama.cpp has none -> leave --gguf out"),
        (["smol-135m@other"], "the run has no student 'smol-135m@other' -> it has: smol-135m, smol-8l, smol-135m@mix"),
        (["smol-8l@mix-long"], "not trained yet: smol-8l@mix-long -> finish the run"),
    ],
)
def test_what_cannot_answer_is_refused_before_anything_starts(
    run_dir: RunDir, tmp_path: Path, words: list[str], message: str
) -> None:
    file = tmp_path / "student.gguf"
    file.write_bytes(b"GGUF")
    given = [str(file) if word == "FILE" else word for word in words]
    with pytest.raises(InputError, match=message):
        chat_verb(parse_arguments(["chat", run_dir.uri, *given]))


def test_a_mode_that_it_has_not_is_refused_before_an_engine_starts(run_dir: RunDir) -> None:
    with pytest.raises(ServeError, match="the model has no mode 'slow': it has long, short"):
        chat_with(run_dir, MODEL, ChatRequest(mode="slow"))


def test_what_is_no_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no run directory"):
        chat_verb(parse_arguments(["chat", str(tmp_path / "none"), MODEL]))
    assert not RunDir(str(tmp_path / "none")).exists(*RECIPE)


def test_a_recipe_for_gpus_is_not_answered_by_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chatting, "gpus_here", list)
    with pytest.raises(InputError, match="device = 'gpu', but"):
        engine_config(make_recipe(device="gpu"))
    assert engine_config(make_recipe(device="auto")).device == "cpu"


def test_llama_cpp_is_asked_as_the_endpoint_asks_its_engine(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[dict[str, Any]] = []

    def answer(url: str, model: str, turns: Any, **fields: Any) -> Iterator[Piece]:
        sent.append({"url": url, "model": model, "turns": turns, **fields})
        yield Piece("1")

    monkeypatch.setattr(chatting, "stream_chat", answer)
    endpoint = Endpoint(
        name=MODEL,
        source="s",
        metadata={"modes": MODES},
        reasoning=Delimiters(),
        stop_token_ids=(3,),
        keeps_special_tokens=True,
        template_options={"date": "2026"},
    )
    recipe = make_recipe(mixes=[{"name": "mix-long", "weights": {"long": 0.5, "short": 0.5}, "modes": MODES}])
    tokenizer = run_dir.path(*Training(MODEL).model)
    student = GgufStudent("u", Path("a.gguf"), recipe, endpoint, tokenizer, {"max_tokens": 9})
    assert student.where == f"{MODEL} as a.gguf" and student.card() == {"modes": MODES}
    list(student.answer([{"role": "user", "content": "2 - 1?"}], "short"))
    system = {"role": "system", "content": MODES["short"]}
    assert sent == [
        {
            "url": "u",
            "model": MODEL,
            "turns": [system, {"role": "user", "content": "2 - 1?"}],
            "delimiters": Delimiters(),
            "max_tokens": 9,
            "chat_template_kwargs": {"date": "2026"},
        }
    ]


def test_llama_cpp_cannot_begin_an_answer_with_a_mode() -> None:
    endpoint = Endpoint(name=MODEL, source="s", metadata={"modes": MODES}, mode_openings={"short": "Briefly:\n"})
    student = GgufStudent("u", Path("a.gguf"), make_recipe(), endpoint, "t", {})
    with pytest.raises(ServeError, match=r"mode short: in llama\.cpp this student chooses its mode itself"):
        list(student.answer([{"role": "user", "content": "2 - 1?"}], "short"))
