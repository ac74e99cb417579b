"""Which files a model folder consists of, and what its content is."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from distill.core.errors import InputError
from distill.models.folder import (
    content_digest,
    copy_notices,
    count_parameters,
    cut_weights,
    has_other_formats,
    is_model_file,
    is_usable,
    link_folder,
    model_files,
    tensor_shapes,
    validate_folder,
    weight_files,
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def make_folder(path: Path, **files: str) -> Path:
    path.mkdir(parents=True)
    texts = {"config.json": '{"model_type": "llama"}', "tokenizer.json": "{}", "tokenizer_config.json": "{}", **files}
    for name, text in texts.items():
        (path / name).write_text(text)
    save_file({"a.weight": np.zeros((5, 20), np.float32)}, path / "model.safetensors")
    return path


def mistral(path: Path) -> Path:
    make_folder(path, **{"tekken.json": "{}", "params.json": "{}", "consolidated.safetensors.index.json": "{}"})
    save_file({"layers.0.wq.weight": np.zeros((5, 20), np.float32)}, path / "consolidated.safetensors")
    (path / "original").mkdir()
    save_file({"tok.weight": np.zeros((5, 20), np.float32)}, path / "original" / "model.safetensors")
    return path


@pytest.mark.parametrize(
    ("name", "belongs"),
    [("model-00001-of-00002.safetensors", True), ("model.safetensors.index.json", True), ("tokenizer.model", True),
     ("chat_template.jinja", True), ("generation_config.json", True), ("consolidated.safetensors", False),
     ("consolidated-00001-of-00002.safetensors", False), ("consolidated.safetensors.index.json", False),
     ("tekken.json", False), ("params.json", False), ("original/params.json", False),
     ("original/consolidated.00.pth", False), ("onnx/model.safetensors", False), ("adapter_config.json", False),
     ("adapter_model.safetensors", False), ("pytorch_model.bin", False), ("modeling_own.py", False),
     ("README.md", False)],
)  # fmt: skip
def test_files_of_other_formats_do_not_belong_to_a_model(name: str, belongs: bool) -> None:
    assert is_model_file(name) == belongs


def test_weights_count_once_where_a_folder_has_them_in_two_formats(tmp_path: Path) -> None:
    folder = mistral(tmp_path / "m")
    assert count_parameters(folder) == 100
    assert [file.name for file in weight_files(folder)] == ["model.safetensors"]
    assert tensor_shapes(str(folder)) == {"a.weight": (5, 20)}


def test_only_the_weights_of_the_index_count(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m")
    save_file({"b": np.zeros(7, np.float32)}, folder / "model-00001-of-00001.safetensors")
    index = {"weight_map": {"b": "model-00001-of-00001.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    assert count_parameters(folder) == 7


def test_engines_see_a_folder_of_one_format(tmp_path: Path) -> None:
    folder = mistral(tmp_path / "m")
    assert has_other_formats(folder)
    link_folder(folder, tmp_path / "linked", None)
    assert {file.name for file in (tmp_path / "linked").iterdir()} == {
        "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert is_usable(tmp_path / "linked") and count_parameters(tmp_path / "linked") == 100
    (folder / "model.safetensors").unlink()
    assert not is_usable(tmp_path / "linked"), "a link to a file that is gone"


def test_card_and_licence_are_carried_along_and_are_no_part_of_the_model(tmp_path: Path) -> None:
    notices = {"README.md": "card", "LICENSE.txt": "terms", "NOTICE": "names", "USE_POLICY.md": "uses"}
    folder = make_folder(tmp_path / "m", **notices, **{"train.py": "code"})
    link_folder(folder, tmp_path / "linked", None)
    (tmp_path / "copied").mkdir()
    copy_notices(folder, tmp_path / "copied")
    assert {file.name for file in (tmp_path / "copied").iterdir()} == notices.keys()
    linked = {file.name for file in (tmp_path / "linked").iterdir()}
    assert notices.keys() < linked and "train.py" not in linked
    assert not any(is_model_file(name) for name in notices)
    assert content_digest(folder) == content_digest(make_folder(tmp_path / "other"))


def test_a_chat_template_replaces_all_others_and_leaves_the_weights_alone(tmp_path: Path) -> None:
    folder = make_folder(
        tmp_path / "m",
        **{"tokenizer_config.json": '{"chat_template": "old", "eos_token": "é"}', "chat_template.json": '{"a": "old"}',
           "chat_template.jinja": "old"},
    )  # fmt: skip
    link_folder(folder, tmp_path / "linked", "new")
    linked = tmp_path / "linked"
    assert (linked / "chat_template.jinja").read_text() == "new" and not (linked / "chat_template.json").exists()
    assert json.loads((linked / "tokenizer_config.json").read_text()) == {"eos_token": "é"}
    assert (linked / "model.safetensors").resolve() == (folder / "model.safetensors").resolve()
    assert "old" in (folder / "tokenizer_config.json").read_text()


def test_the_content_of_a_folder_is_its_model_files_and_not_its_place(tmp_path: Path) -> None:
    one, other = make_folder(tmp_path / "one"), make_folder(tmp_path / "elsewhere" / "other")
    first = content_digest(one)
    assert content_digest(other) == first
    (one / "README.md").write_text("a card")
    os.utime(one / "model.safetensors", (1, 1))
    assert content_digest(one) == first, "neither a card nor another time is another model"


@pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "generation_config.json", "new.jinja"])
def test_an_edited_small_file_is_another_model(tmp_path: Path, name: str) -> None:
    folder = make_folder(tmp_path / "m")
    first = content_digest(folder)
    (folder / name).write_text('{"eos_token_id": 7}')
    assert content_digest(folder) != first


def test_one_other_weight_is_another_model(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m")
    first = content_digest(folder)
    weights = np.zeros((5, 20), np.float32)
    weights[3, 3] = 1e-6
    save_file({"a.weight": weights}, folder / "model.safetensors")
    assert content_digest(folder) != first


def test_large_files_are_read_once(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_folder(tmp_path / "m")
    first = content_digest(folder)
    monkeypatch.setattr("hashlib.file_digest", None)
    assert content_digest(folder) == first
    assert len(list((cache / "mix-distillation" / "digests").iterdir())) == len(model_files(folder))


@pytest.mark.parametrize(
    ("removed", "added", "message"),
    [("config.json", {}, "no model in the Hugging Face format -> convert"),
     ("config.json", {"adapter_config.json": "{}"}, "a LoRA adapter -> merge"),
     ("model.safetensors", {}, r"no \*.safetensors and no pytorch_model"),
     ("model.safetensors", {"model.safetensors.index.json": '{"weight_map": {"a": "model-1.safetensors"}}'},
      r"1 are missing \(model-1.safetensors\)"),
     ("tokenizer.json", {"tekken.json": "{}"}, "only tokenizer is tekken.json")],
)  # fmt: skip
def test_a_folder_without_a_whole_model_is_refused(
    tmp_path: Path, removed: str, added: dict[str, str], message: str
) -> None:
    folder = make_folder(tmp_path / "m", **added)
    (folder / removed).unlink()
    if "tekken.json" in added:
        (folder / "tokenizer_config.json").unlink()
    with pytest.raises(InputError, match=message):
        validate_folder(folder)


def test_pickled_weights_are_weights(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m", **{"pytorch_model.bin": "x"})
    (folder / "model.safetensors").unlink()
    validate_folder(folder)


def test_a_cut_file_of_weights_is_told_before_anything_reads_it(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "m")
    assert cut_weights(str(folder)) == []
    validate_folder(folder)
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    for kept, expected in ((-1, "bytes where its header says"), (20, "its header is cut"), (3, "its header is cut")):
        file.write_bytes(whole[:kept])
        with pytest.raises(InputError, match=expected):
            validate_folder(folder)
    with pytest.raises(InputError, match=r"model.safetensors: its header is cut.* save, copy or download it again"):
        tensor_shapes(str(folder))
    file.write_bytes(whole + b"x")
    assert len(cut_weights(str(folder))) == 1, "nor does anything follow the last tensor"


def test_vocabularies_belong_to_a_model_without_the_file_that_holds_them(tmp_path: Path) -> None:
    whole = make_folder(tmp_path / "whole", **{"merges.txt": "a b", "vocab.txt": "a"})
    assert not {"merges.txt", "vocab.txt"} & {file.name for file in model_files(whole)}
    (whole / "tokenizer.json").unlink()
    link_folder(whole, tmp_path / "linked", "template")
    assert {"merges.txt", "vocab.txt"} <= {file.name for file in (tmp_path / "linked").iterdir()}
    before = content_digest(whole)
    (whole / "merges.txt").write_text("b a")
    assert content_digest(whole) != before
