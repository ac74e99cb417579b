"""A model by reference becomes a folder that computes what the reference does."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub.utils import filter_repo_objects
from transformers import AutoModelForCausalLM, AutoTokenizer

from distill.config.models import ModelConfig
from distill.core.errors import InputError
from distill.core.schema import content_hash
from distill.mix.export.licences import model_licences
from distill.models.cut import cut_value
from distill.models.resolve import (
    AdapterBase,
    ResolvedModel,
    adapter_base,
    load_tokenizer,
    model_identity,
    resolve_model,
    resolved_folder,
)
from distill.models.save import save_folder
from distill.models.shape import planned_settings, shape_of
from tests.fixtures.tiny_architectures import logits_of, tiny
from tests.fixtures.tiny_models import build_tokenizer, make_tiny_model


@pytest.fixture(autouse=True)
def own_cache(one_thread: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("distill.models.engine_check.find_spec", lambda name: object())  # as if torchvision were here


def saved(path: Path, name: str) -> Path:
    save_folder(tiny(name), build_tokenizer(), path)
    return path


def resolved(folder: Path, **config: object) -> ResolvedModel:
    return resolve_model("m", ModelConfig.model_validate({"sources": (str(folder),), **config}))


@pytest.mark.parametrize(
    "config", [{"keep_layers": 2}, {"chat_template": "{{ messages[0].content }}"}], ids=["cut", "another template"]
)
def test_a_changed_model_keeps_its_card_and_licence(tmp_path: Path, config: dict[str, object]) -> None:
    folder = saved(tmp_path / "m", "llama")
    (folder / "README.md").write_text("---\nlicense: cc-by-nd-4.0\n---\n")
    (folder / "LICENSE").write_text("terms")
    found = resolved(folder, **config).folder
    assert found != folder and (found / "LICENSE").read_text() == "terms"
    assert model_licences(str(found), ModelConfig(sources=(str(folder),))) == ("cc-by-nd-4.0",)


def test_the_hub_is_asked_for_the_card_and_the_licence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    theirs = saved(tmp_path / "hub", "llama")
    for name in ("README.md", "LICENSE", "USE_POLICY.md", "NOTICE.txt", "train.py"):
        (theirs / name).write_text("---\nlicense: cc-by-nd-4.0\n---\n")

    def download(repo: str, *, allow_patterns: list[str], ignore_patterns: list[str], **_: object) -> str:
        names = [file.name for file in theirs.iterdir()]
        kept = filter_repo_objects(names, allow_patterns=allow_patterns, ignore_patterns=ignore_patterns)
        fetched = tmp_path / "fetched"
        fetched.mkdir()
        for name in kept:
            shutil.copy(theirs / name, fetched / name)
        return str(fetched)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    config = ModelConfig(sources=("owner/name",))
    found = resolve_model("m", config).folder
    assert {file.name for file in theirs.iterdir()} - {file.name for file in found.iterdir()} == {"train.py"}
    assert model_licences(str(found), config) == ("cc-by-nd-4.0",)


def opened(folder: Path) -> torch.Tensor:
    return logits_of(AutoModelForCausalLM.from_pretrained(folder, dtype="auto").eval())


@pytest.mark.parametrize(
    "name", ["llama", "qwen3", "gemma2", "gemma3", "smollm3", "granite", "olmo2", "lfm2", "bamba", "qwen3.5",
             "gemma3 with vision"],
)  # fmt: skip
def test_a_model_is_cut_with_all_that_its_config_says_per_layer(tmp_path: Path, name: str) -> None:
    folder = saved(tmp_path / "m", name)
    assert torch.equal(opened(folder), logits_of(tiny(name)))
    for keep in (3, 2):
        config = ModelConfig(sources=(str(folder),), keep_layers=keep)
        cut = resolve_model("m", config)  # opened again and compared, or refused
        shape = shape_of(planned_settings("m", config))
        assert (shape.num_parameters, shape.layers) == (cut.num_parameters, keep)
    assert resolved(folder, keep_layers=2).path == cut.path


def test_a_cut_that_cannot_be_written_down_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = saved(tmp_path / "m", "smollm3")
    cut = cut_value
    for forgotten, message in (("no_rope_layers", "gives other logits"), ("layer_types", "cannot be written")):
        monkeypatch.setattr(
            "distill.models.cut.cut_value",
            lambda name, value, *layers, _kept=forgotten: value if name == _kept else cut(name, value, *layers),
        )
        with pytest.raises(InputError, match=message):
            resolved(folder, keep_layers=3)
    assert not resolved_folder(str(folder), ModelConfig(sources=(str(folder),), keep_layers=3))


def test_context_and_sizes_of_a_nested_config_are_found(tmp_path: Path) -> None:
    folder = saved(tmp_path / "m", "gemma3 with vision")
    settings = json.loads((folder / "config.json").read_text())
    assert "max_position_embeddings" not in settings
    assert resolved(folder).context_tokens == settings["text_config"]["max_position_embeddings"] > 0


def test_pickled_weights_are_converted_once(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "m")
    expected = opened(folder)
    weights = AutoModelForCausalLM.from_pretrained(folder, dtype="auto").state_dict()
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    (folder / "LICENSE").write_text("terms")
    model = resolved(folder)
    assert (model.folder / "LICENSE").read_text() == "terms"
    assert torch.equal(opened(model.folder), expected) and model.num_parameters > 0
    assert [file.suffix for file in model.folder.iterdir() if file.stat().st_size > 100_000] == [".safetensors"]
    assert resolved(folder) == model


def test_code_in_pickled_weights_does_not_run(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "m")
    (folder / "model.safetensors").unlink()
    torch.save({"a": Exploding()}, folder / "pytorch_model.bin")
    with pytest.raises(InputError, match=r"pytorch_model\*.bin cannot be read as weights"):
        resolved(folder)


class Exploding:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return (pytest.fail, ("code of a pickled file ran",))


def test_another_chat_template_is_another_model_with_the_same_weights(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "m")
    plain, other = resolved(folder), resolved(folder, chat_template="{{ messages[0]['content'] }}")
    assert other.identity != plain.identity
    assert load_tokenizer(other.path).chat_template == "{{ messages[0]['content'] }}"
    assert (other.folder / "model.safetensors").resolve() == folder / "model.safetensors"
    both = resolved(folder, chat_template="x", keep_layers=1)
    assert load_tokenizer(both.path).chat_template == "x" and both.num_parameters < plain.num_parameters


def test_a_local_model_is_known_by_its_content_and_one_of_the_hub_by_its_name(tmp_path: Path) -> None:
    folder, config = make_tiny_model(tmp_path / "m"), ModelConfig(sources=("org/name",), revision="v1", keep_layers=4)
    assert model_identity("org/name", config) == content_hash(1, "org/name", "v1", 4, None), "as it always was"
    first = resolved(folder).identity
    moved = folder.rename(tmp_path / "moved")
    assert resolved(moved).identity == first
    settings = json.loads((moved / "generation_config.json").read_text())
    (moved / "generation_config.json").write_text(json.dumps({**settings, "eos_token_id": [1, 3]}))
    assert resolved(moved).identity != first
    with pytest.raises(FileNotFoundError):
        model_identity(str(folder), config)


def test_an_adapter_names_the_base_that_another_machine_knows(tmp_path: Path) -> None:
    def base(source: str, path: str = "/cache/x", **changes: object) -> AdapterBase:
        config = ModelConfig.model_validate({"sources": (source,), **changes})
        return adapter_base(ResolvedModel("m", path, source, "id", 1, 1), config)

    assert base("org/name") == ("org/name", None)
    assert base("org/name", revision="abc") == ("org/name", "abc")
    assert base("org/name", chat_template="x") == ("org/name", None), "the weights are the same"
    assert base("org/name", keep_layers=2) == ("/cache/x", None)
    assert base("package://m") == base("/data/m.gguf") == ("/cache/x", None)
    assert base(str(tmp_path)) == (str(tmp_path), None)


def test_a_tokenizer_that_is_code_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "own.py").write_text("raise SystemExit('code of a model ran')")
    settings = {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": ["own.OwnTokenizer", None]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text('{"model_type": "own_kind", "auto_map": {"AutoConfig": "own.Config"}}')
    with pytest.raises(InputError, match="code that comes with a model is not run"):
        load_tokenizer(str(folder))
    with pytest.raises(InputError, match="code that comes with it is not run"):
        shape_of(json.loads((folder / "config.json").read_text()))


def test_a_converted_folder_loads_with_its_tokenizer(tmp_path: Path) -> None:
    model = resolved(make_tiny_model(tmp_path / "m"), keep_layers=1)
    assert AutoTokenizer.from_pretrained(model.path).chat_template


def test_a_source_that_fails_without_a_word_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(uri: str) -> Path:
        raise TimeoutError

    monkeypatch.setattr("distill.models.resolve.fetch", silent)
    there = saved(tmp_path / "m", "llama")
    found = resolve_model("m", ModelConfig(sources=("s3://bucket/m", str(there))))
    assert (found.source, found.skipped) == (str(there), ("s3://bucket/m: TimeoutError",))
