"""Published GGUF files in llama.cpp's own server: the student's answers, its end, its think block and its modes.

No Ray here: the converter, the quantiser and the server are processes of their own.
"""

import json
import shutil
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import openai
import pytest
from gguf import GGUFReader
from rich.console import Console

from distill.core.errors import InputError, StageError
from distill.core.run_dir import Training
from distill.core.schema import Prompt
from distill.grading import grade, grade_request
from distill.models.resolve import load_tokenizer
from distill.ops.publish import gguf
from distill.ops.publish.formats import GGUF_TYPES
from distill.ops.publish.gguf import INSTALL, check_file, write_gguf
from distill.ops.publish.llama_server import llama_server
from distill.ops.publish.student import TrainedStudent
from distill.ops.publish.write import check, write_folder
from tests.fixtures.published_run import MODEL, trained
from tests.fixtures.reasoning_student import MODES, greedy_answer, make_reasoning_student
from tests.fixtures.report_run import make_recipe
from tests.fixtures.tiny_models import make_tiny_model

PACKAGES = ("auto_round", "cyllama", "xllamacpp")
needs_packages = pytest.mark.skipif(
    any(find_spec(name) is None for name in PACKAGES), reason=f"{', '.join(PACKAGES)} are not installed -> {INSTALL}"
)
FORMATS = ("safetensors", "gguf-q8_0", "gguf-q4_k_m")
PROBLEMS = [f"{number} - {number - 1}?" for number in range(2, 22)]


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> TrainedStudent:
    mixes = [{"name": "mix-long", "weights": {"long": 0.5, "short": 0.5}, "modes": MODES}]
    return trained(tmp_path_factory.mktemp("run"), make_recipe(mixes=mixes), make_reasoning_student)


@pytest.fixture(scope="module")
def folder(student: TrainedStudent, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("published") / "student"
    write_folder(student, FORMATS, target, Console(quiet=True), is_calibrated=True)
    return target


@pytest.fixture(params=["q8_0", "q4_k_m"])
def client(folder: Path, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[openai.OpenAI]:
    (file,) = folder.glob(f"*-{request.param}.gguf")
    with llama_server(file, context_tokens=512, num_parallel=2, log=tmp_path / "log") as url:
        yield openai.OpenAI(base_url=f"{url}/v1", api_key="none")


def asked(problem: str, mode: str) -> list[dict[str, str]]:
    return [{"role": "system", "content": MODES[mode]}, {"role": "user", "content": problem}]


def verdict(text: str) -> str:
    prompt = Prompt("id", "?", "1", "number", "own", "", "", "")
    return grade(grade_request(prompt, text, finish_reason="stop", reasoning_end="</think>")).verdict


@needs_packages
def test_the_folder_has_every_file_and_a_card_that_names_them(folder: Path) -> None:
    names = {file.name for file in folder.iterdir()}
    assert {"model.safetensors", "Modelfile", "Modelfile.short", "README.md", "mix.json"} <= names
    assert {"smol-135m-mix-long-q8_0.gguf", "smol-135m-mix-long-q4_k_m.gguf"} <= names
    assert not [name for name in names if name.startswith(".")]
    card = (folder / "README.md").read_text()
    assert "llama-server -m smol-135m-mix-long-q8_0.gguf" in card and "Q8_0" in card and "Q5_0" in card
    assert "`smol-135m-mix-long-q4_k_m.gguf` was calibrated on" in card and "verified traces of mix-long" in card
    noted = {file.name[19:-5]: GGUFReader(file).get_field("quantize.imatrix.dataset") for file in folder.glob("*.gguf")}
    assert noted["q8_0"] is None and "verified traces of mix-long" in noted["q4_k_m"].contents()
    assert 'SYSTEM """Answer at once."""' in (folder / "Modelfile.short").read_text()


@needs_packages
@pytest.mark.parametrize("mode", MODES)
def test_llama_cpp_answers_as_the_student_does(student: TrainedStudent, client: openai.OpenAI, mode: str) -> None:
    own = Path(student.run_dir.path(*Training(MODEL).model))
    for problem in PROBLEMS:
        (choice,) = client.chat.completions.create(
            model="student",
            messages=asked(problem, mode),
            temperature=0,
            max_tokens=48,  # type: ignore[arg-type]
        ).choices
        expected = greedy_answer(own, asked(problem, mode))
        assert choice.finish_reason == "stop"
        text = choice.message.content or ""
        assert verdict(text) == verdict(expected) == "CORRECT"
        assert ("</think>" in text) == ("</think>" in expected) == (mode == "long")


@needs_packages
def test_the_end_of_a_file_is_the_one_that_was_taught(folder: Path, tmp_path: Path) -> None:
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert settings["eos_token"] == "<|im_end|>"
    other = tmp_path / "other"
    shutil.copytree(folder, other, ignore=shutil.ignore_patterns("*.gguf"))
    (other / "tokenizer_config.json").write_text(json.dumps(settings | {"eos_token": "<|endoftext|>"}))
    tokenizer = load_tokenizer(str(other))
    (written,) = write_gguf(other, tokenizer, "other", kinds=[GGUF_TYPES["gguf-q8_0"]], target=tmp_path)
    check_file(written.path, tokenizer.convert_tokens_to_ids("<|im_end|>"))
    with pytest.raises(StageError, match="generation would end with token 2, the student was taught 0"):
        check_file(written.path, tokenizer.convert_tokens_to_ids("<|endoftext|>"))
    assert [file.name for file in tmp_path.iterdir() if file.name.startswith(".gguf")] == []


@needs_packages
def test_what_llama_cpp_does_not_know_is_refused_with_its_reason(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(folder, other, ignore=shutil.ignore_patterns("*.gguf"))
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"architectures": ["NoSuchForCausalLM"]}))
    kinds = [GGUF_TYPES["gguf-q8_0"]]
    with pytest.raises(InputError, match=r"cannot convert it: .*NoSuchForCausalLM.* -> use --formats safetensors"):
        write_gguf(other, load_tokenizer(str(folder)), "other", kinds=kinds, target=tmp_path)
    own = make_tiny_model(tmp_path / "own-tokenizer")
    with pytest.raises(InputError, match="cannot convert it"):
        write_gguf(own, load_tokenizer(str(own)), "own", kinds=kinds, target=tmp_path)
    assert not list(tmp_path.glob("*.gguf"))


def test_missing_packages_are_named_before_anything_is_written(
    student: TrainedStudent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gguf, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"GGUF files need auto_round and cyllama, .* -> pip install"):
        check(student, FORMATS, is_scored=False)
    with pytest.raises(InputError, match="and xllamacpp"):
        check(student, FORMATS, is_scored=True)
    check(student, ("safetensors",), is_scored=False)
    with pytest.raises(InputError, match="--score asks GGUF files, and --formats names none"):
        check(student, ("safetensors",), is_scored=True)
