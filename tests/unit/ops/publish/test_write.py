"""A published folder: whole, with its scores, ends and licences, or not there."""

import errno
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard
from rich.console import Console
from transformers import AutoTokenizer, pipeline

from distill.cli.main import main
from distill.core.errors import InputError
from distill.core.run_dir import Training, benchmark_scores, model_record
from distill.core.schema import Score
from distill.evaluate.read_scores import models_by_itself
from distill.models.chat_template import chat_messages
from distill.ops.publish import write
from distill.ops.publish.calibration import Calibration
from distill.ops.publish.formats import FORMATS, read_formats
from distill.ops.publish.push import repository
from distill.ops.publish.student import TrainedStudent, find_student
from distill.ops.publish.write import check, folder_key, planned_files, warnings, write_folder
from tests.fixtures.chat_templates import DATED
from tests.fixtures.published_run import MODEL, published_run, trained, write_licence
from tests.fixtures.report_run import make_recipe
from tests.fixtures.tiny_models import EOS, make_tiny_model

CONSOLE = Console(quiet=True)


@pytest.fixture(scope="module")
def student(tmp_path_factory: pytest.TempPathFactory) -> TrainedStudent:
    return published_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="module")
def folder(student: TrainedStudent, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("published") / "student"
    write_folder(student, ("safetensors",), target, CONSOLE)
    return target


def test_the_folder_alone_answers_as_the_student_does(student: TrainedStudent, folder: Path) -> None:
    own = student.run_dir.path(*Training(MODEL).model)
    asked = [{"role": "user", "content": "What is 2+3?"}]
    texts = [
        pipeline("text-generation", model=path)(asked, max_new_tokens=24, do_sample=False)[0]["generated_text"]
        for path in (own, str(folder))
    ]
    assert texts[0] == texts[1]


def test_every_file_that_engines_read_is_the_students_own(student: TrainedStudent, folder: Path) -> None:
    assert "config.json" in student.files and "model.safetensors" in student.files
    for name, path in student.files.items():
        if name != "generation_config.json":
            assert (folder / name).read_bytes() == Path(path).read_bytes(), name


def test_its_card_has_the_scores_in_the_hubs_format_with_intervals(student: TrainedStudent, folder: Path) -> None:
    card = ModelCard.load(folder / "README.md")
    (result,) = card.data.eval_results
    (own,) = [score for score in student.scores() if score.mix]
    assert result.metric_value == pytest.approx(100 * own.accuracy, abs=0.01)
    assert result.dataset_name == own.benchmark and "95 % interval [" in result.metric_name
    assert card.data.license == "apache-2.0" and card.data.base_model == "hub/smol-135m"
    assert "(untouched)" in card.text and "12 optimiser steps" in card.text
    assert "| base model | hub/smol-135m | apache-2.0 |" in card.text
    assert "the run's own card" not in card.text
    assert set(json.loads((folder / "mix.json").read_text())) <= {"mix-long"}


def test_generation_ends_where_training_did_whatever_the_file_said(tmp_path: Path) -> None:
    def make(path: Path) -> None:
        make_tiny_model(path)
        settings = json.loads((path / "generation_config.json").read_text()) | {"eos_token_id": 1}
        (path / "generation_config.json").write_text(json.dumps(settings))

    write_folder(published_run(tmp_path / "run", make), ("safetensors",), tmp_path / "out", CONSOLE)
    end = AutoTokenizer.from_pretrained(tmp_path / "out").convert_tokens_to_ids(EOS)
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["eos_token_id"] == [end, 1]


def test_a_template_that_writes_todays_date_writes_the_date_of_training(tmp_path: Path) -> None:
    def make(path: Path) -> None:
        make_tiny_model(path)
        (path / "chat_template.jinja").write_text(DATED)

    write_folder(published_run(tmp_path / "run", make), ("safetensors",), tmp_path / "out", CONSOLE)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert "01 Jan 2026" in tokenizer.apply_chat_template([{"role": "user", "content": "?"}], tokenize=False)


def test_a_dry_run_lists_the_files_that_are_written_and_writes_none(
    student: TrainedStudent, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert main(["publish", student.run_dir.uri, MODEL, "--dry-run"]) == 0
    assert not list(tmp_path.iterdir())
    printed = capsys.readouterr().out
    for file in folder.iterdir():
        assert file.name in printed
    planned = {one.name: one.size for one in planned_files(student, ("safetensors",))}
    weights = folder / "model.safetensors"
    assert planned.keys() == {file.name for file in folder.iterdir()}
    assert planned[weights.name] == weights.stat().st_size


def test_a_dry_run_of_gguf_estimates_sizes_and_names_modelfiles(student: TrainedStudent) -> None:
    planned = {one.name: one for one in planned_files(student, ("gguf-q8_0", "gguf-q4_k_m"))}
    whole = sum(os.path.getsize(path) for name, path in student.files.items() if name.endswith(".safetensors"))
    one, other = (planned[f"smol-135m-mix-long-{kind}.gguf"] for kind in ("q8_0", "q4_k_m"))
    assert one.is_estimated and other.size < one.size < whole
    assert "Modelfile" in planned and "model.safetensors" not in planned


def test_files_below_eight_bits_are_calibrated_on_the_arms_traces_where_that_is_asked_for(
    student: TrainedStudent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[Calibration | None] = []
    monkeypatch.setattr(write, "write_gguf", lambda *_, calibration, **__: given.append(calibration) or [])
    write_folder(student, ("gguf-q4_k_m",), tmp_path / "asked", CONSOLE, is_calibrated=True)
    write_folder(student, ("gguf-q4_k_m",), tmp_path / "default", CONSOLE)
    write_folder(student, ("gguf-q8_0",), tmp_path / "eight", CONSOLE, is_calibrated=True)
    calibration, *others = given
    assert calibration is not None and calibration.arms == ("mix-long",) and set(calibration.pools) == {"long", "short"}
    assert others == [None, None]


def test_an_existing_folder_is_refused_and_left_as_it_is(student: TrainedStudent, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    assert main(["publish", student.run_dir.uri, MODEL, "--to", str(tmp_path)]) == 2
    assert [file.name for file in tmp_path.iterdir()] == ["mine"]


def test_a_failure_on_the_way_leaves_nothing(
    student: TrainedStudent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(write, "publish_card", lambda *_: (_ for _ in ()).throw(RuntimeError("died")))
    with pytest.raises(RuntimeError, match="died"):
        write_folder(student, ("safetensors",), tmp_path / "out", CONSOLE)
    assert not list(tmp_path.iterdir())


def test_no_write_access_is_told(student: TrainedStudent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)  # the tests may run as root, who may write anywhere
    with pytest.raises(InputError, match="no write access"):
        write_folder(student, ("safetensors",), tmp_path / "out", CONSOLE)


@pytest.mark.parametrize("licence", ["cc-by-nd-4.0", "CC-BY-NC-ND-4.0", "proprietary"])
def test_a_base_that_may_not_be_passed_on_is_refused(tmp_path: Path, licence: str) -> None:
    student = published_run(tmp_path)
    write_licence(student.run_dir, tmp_path, licence)
    what = f"base model hub/smol-135m: its licence '{licence.lower()}' forbids"
    with pytest.raises(InputError, match=what):
        check(find_student(student.recipe, student.run_dir, MODEL), ("safetensors",), is_scored=False)


def test_what_licences_ask_is_in_the_card(tmp_path: Path) -> None:
    student = published_run(tmp_path)
    write_licence(student.run_dir, tmp_path, "cc-by-nc-sa-4.0")
    student = find_student(student.recipe, student.run_dir, MODEL)
    write_folder(student, ("safetensors",), tmp_path / "out", CONSOLE)
    text = (tmp_path / "out" / "README.md").read_text()
    assert "license: other\nlicense_name: terms-of-every-source" in text  # the data's is another one
    assert "Name these sources" in text and "under the same licence" in text and "No commercial use" in text


def test_the_files_with_the_bases_licence_are_published_but_not_its_card(tmp_path: Path) -> None:
    student = published_run(tmp_path)
    for name in ("LICENSE", "NOTICE.txt"):
        (tmp_path / "base" / name).write_text("theirs")
    write_folder(student, ("safetensors",), tmp_path / "out", CONSOLE)
    planned = {one.name for one in planned_files(student, ("safetensors",))}
    assert planned == {file.name for file in (tmp_path / "out").iterdir()} > {"LICENSE", "NOTICE.txt"}
    assert (tmp_path / "out" / "LICENSE").read_text() == "theirs"
    assert "license: apache-2.0" not in (tmp_path / "out" / "README.md").read_text().split("---")[2]


@pytest.mark.parametrize("licence", ["other", "unknown", "cc", "llama3.2"])
def test_whoever_publishes_is_told_what_the_licences_ask_for(tmp_path: Path, licence: str) -> None:
    student = published_run(tmp_path)
    write_licence(student.run_dir, tmp_path, licence)
    notes = warnings(find_student(student.recipe, student.run_dir, MODEL), {})
    what = "Built with Llama" if licence == "llama3.2" else "read it first"
    assert any(what in note and f"hub/smol-135m ({licence})" in note for note in notes), notes


def test_a_student_that_is_not_there_is_told_with_those_that_are(student: TrainedStudent) -> None:
    with pytest.raises(InputError, match=f"no trained student 'smol-135m@mixlong' -> did you mean '{MODEL}'"):
        find_student(student.recipe, student.run_dir, "smol-135m@mixlong")
    with pytest.raises(InputError, match="smol-135m@short is not trained yet"):
        find_student(student.recipe, student.run_dir, "smol-135m@short")


def test_modes_are_scored_apart_and_told(tmp_path: Path) -> None:
    modes = {"long": "Think.", "short": "Brief."}
    mixes = [{"name": "mix-long", "weights": {"long": 0.5, "short": 0.5}, "modes": modes}]
    student = trained(tmp_path / "run", make_recipe(mixes=mixes))
    write_folder(student, ("safetensors",), tmp_path / "out", CONSOLE)
    text = (tmp_path / "out" / "README.md").read_text()
    assert list(student.modes) == ["long", "short"]
    assert "* Mode `short`: system prompt `Brief.`" in text
    yaml.safe_load(text.split("---")[1])


def writes_its_mode(folder: Path, *arms: dict[str, str]) -> TrainedStudent:
    """A student that writes its mode itself, scored as every model of its recipe."""
    modes = {"long": "Think.", "short": "Brief."}
    mix = {"name": "mix-long", "weights": {"long": 0.5, "short": 0.5}, "modes": modes, "modes_in": "completion"}
    evaluate = {"benchmarks": ["arithmetic"], "arms": list(arms)}
    student = trained(folder, make_recipe(mixes=[mix], evaluate=evaluate))
    run_dir = student.run_dir
    rows = run_dir.read_table(*benchmark_scores(MODEL, "arithmetic"), row_type=Score).to_pylist()
    run_dir.remove(*benchmark_scores(MODEL, "arithmetic"))  # of a student without modes
    for name in (*(one.name for one in models_by_itself(student.recipe, MODEL).values()), f"{MODEL}/q8_0"):
        run_dir.write_rows(
            [Score(**row | {"model": name}) for row in rows], Score, *benchmark_scores(name, "arithmetic")
        )
    return student


AUTO_ARM = {"of": MODEL, "mode": "auto"}


def test_a_student_that_writes_its_mode_is_published_with_all_its_scores(tmp_path: Path) -> None:
    student = writes_its_mode(tmp_path / "run", AUTO_ARM)
    own = [score.model for score in student.scores() if score.mix]
    assert own == [f"{MODEL}:long", f"{MODEL}:short", f"{MODEL}+auto"]
    assert [(one.model, one.full) for one in student.quantised()] == [(f"{MODEL}/q8_0", f"{MODEL}+auto")]
    write_folder(student, ("safetensors",), tmp_path / "out", CONSOLE)
    results = ModelCard.load(tmp_path / "out" / "README.md").data.eval_results
    assert [one.metric_config for one in results] == ["long", "short", "auto"]
    assert "left to choose its mode" in results[2].metric_name


def test_files_are_not_scored_where_there_is_nothing_to_compare_them_with(tmp_path: Path) -> None:
    student = writes_its_mode(tmp_path)
    with pytest.raises(InputError, match=f'writes its mode itself, .* -> add {{ of = "{MODEL}", mode = "auto" }}'):
        check(student, ("gguf-q8_0",), is_scored=True)


def test_all_that_decides_the_folder_is_in_its_key(tmp_path: Path) -> None:
    student = published_run(tmp_path)
    first = folder_key(student, ("safetensors",), is_scored=False)
    again = find_student(student.recipe, student.run_dir, MODEL)
    assert folder_key(again, ("safetensors",), is_scored=False) == first
    described = student.recipe.model_copy(update={"description": "Another."})
    write_licence(student.run_dir, tmp_path, "mit")
    others = {
        folder_key(student, ("safetensors",), is_scored=True),
        folder_key(student, ("gguf-q8_0",), is_scored=False),
        folder_key(student, ("safetensors",), is_scored=False, is_calibrated=True),
        folder_key(find_student(described, student.run_dir, MODEL), ("safetensors",), is_scored=False),
        folder_key(find_student(student.recipe, student.run_dir, MODEL), ("safetensors",), is_scored=False),
    }
    assert len(others | {first}) == 6


@pytest.mark.parametrize(
    ("number", "what"),
    [(errno.EACCES, "no write access"), (errno.ENOSPC, "no room left -> make room"), (errno.EROFS, "no write access")],
)
def test_a_place_that_cannot_be_written_is_told_on_the_way_too(
    student: TrainedStudent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, what: str
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(write, "mix_json", refuse)
    with pytest.raises(InputError, match=f"out: .*{what}"):
        write_folder(student, ("safetensors",), tmp_path / "out", CONSOLE)
    assert not list(tmp_path.iterdir())


def test_a_folder_below_a_file_is_told(student: TrainedStudent, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="a part of this path is a file"):
        write_folder(student, ("safetensors",), tmp_path / "file" / "out", CONSOLE)


def test_the_card_says_all_of_how_it_is_prompted_and_its_python_asks_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = {
        "system": "You `solve`.",
        "system_as": "user",
        "template": "Solve: {problem}",
        "template_options": {"enable_thinking": False},
        "examples": [{"problem": "1+1", "completion": "```2```"}],
    }
    sampling = {"temperature": 0.6, "top_p": 0.9, "max_tokens": 8}
    evaluate = {"benchmarks": ["arithmetic"], "sampling": sampling}
    student = trained(tmp_path / "run", make_recipe(student_chat=chat, evaluate=evaluate))
    write_folder(student, ("safetensors",), tmp_path / "out", CONSOLE)
    text = (tmp_path / "out" / "README.md").read_text()
    assert "`You `solve`.` and stands above the first user turn" in text
    assert 'gets the variables `{"enable_thinking": false}`' in text
    assert "Before it stand worked examples" in text and '"content": "```2```"' in text
    code = re.search(r"^(`{3,})python\n(.*?)\n\1$", text, re.DOTALL | re.MULTILINE)
    assert code
    asked: dict[str, object] = {}

    def pipe(*_: object, **__: object) -> Callable[..., object]:
        return lambda turns, **settings: asked.update(settings, turns=turns)

    monkeypatch.setattr("transformers.pipeline", pipe)
    exec(code[2], {})
    assert asked.pop("turns") == chat_messages("...", student.recipe.student_chat)
    assert asked == {
        "max_new_tokens": 8, "do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 0,
        "tokenizer_encode_kwargs": {"enable_thinking": False},
    }  # fmt: skip
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path / "out")
    exec(code[2], {})


def test_without_a_record_of_the_base_no_licence_is_taken_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    student = published_run(tmp_path / "run")
    student.run_dir.remove(*model_record("smol-135m"))
    (tmp_path / "LICENSE").write_text("of the folder that the command runs in")
    monkeypatch.chdir(tmp_path)
    names = {one.name for one in planned_files(find_student(student.recipe, student.run_dir, MODEL), ("safetensors",))}
    assert "LICENSE" not in names


def test_formats_are_read_in_one_order() -> None:
    assert read_formats("gguf-q4_k_m, safetensors") == ("safetensors", "gguf-q4_k_m")
    assert read_formats(",".join(reversed(FORMATS))) == FORMATS
    with pytest.raises(InputError, match="there is no format 'gguf-q4km' -> safetensors, gguf-q8_0"):
        read_formats("gguf-q4km")
    with pytest.raises(InputError, match="none is named"):
        read_formats(" ,")
    for name in ("awq", "fp8"):
        with pytest.raises(InputError, match=f"{name} is not written: it is made for GPUs, .* -> safetensors, gguf"):
            read_formats(f"safetensors,{name}")


def test_an_address_without_owner_is_refused() -> None:
    assert repository("hf://me/student") == "me/student"
    with pytest.raises(InputError, match="hf://OWNER/NAME"):
        repository("hf://student")
