"""Students merged in weight space: what each method does with a tensor, and folders tensor by tensor."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from distill.config.mix import MergeConfig
from distill.core.errors import StageError
from distill.train.worker.merge_weights import merge_folders, merge_tensor

BASE = torch.tensor([1.0, 1.0, 1.0, 1.0])
FIRST, SECOND = torch.tensor([2.0, 1.0, 0.0, 5.0]), torch.tensor([2.0, 3.0, 2.0, 1.5])


def merge(method: str, **options: Any) -> MergeConfig:
    return MergeConfig.model_validate({"name": "m", "of": ["a", "b"], "method": method, **options})


def merged(method: str, **options: Any) -> list[float]:
    result: list[float] = merge_tensor("w", [BASE, FIRST, SECOND], merge(method, **options)).tolist()
    return result


def test_linear_is_the_weighted_mean() -> None:
    assert merged("linear") == [2.0, 2.0, 1.0, 3.25]
    assert merged("linear", weights=(0.25, 0.75)) == [2.0, 2.5, 1.5, 2.375]


def test_task_arithmetic_adds_the_differences_up() -> None:
    assert merged("task_arithmetic") == [3.0, 3.0, 1.0, 5.5]
    assert merged("task_arithmetic", weights=(0.5, 0.0)) == [1.5, 1.0, 0.5, 3.0]


def test_ties_keeps_the_largest_parts_with_the_majoritys_sign() -> None:
    # Differences: [1, 0, -1, 4] and [1, 2, 1, 0.5]. Half of each is kept: 4 and a 1 or -1 of the first, 2 and a 1 of
    # the second; a part that only one of them kept counts in full.
    result = merged("ties", density=0.5)
    assert result[1] == 3.0 and result[3] == 5.0
    # With all parts kept, signs that disagree are decided by the larger sum; only those that agree count in the mean.
    assert merged("ties", density=1.0)[3] == 1.0 + (4 + 0.5) / 2


def folder(path: Path, **tensors: torch.Tensor) -> Path:
    path.mkdir()
    save_file({name: tensor.to(torch.bfloat16) for name, tensor in tensors.items()}, path / "model.safetensors")
    (path / "config.json").write_text("{}")
    return path


def test_folders_are_merged_file_by_file_in_their_own_type(tmp_path: Path) -> None:
    base = folder(tmp_path / "base", w=BASE, only_here=BASE)
    first, second = folder(tmp_path / "a", w=FIRST), folder(tmp_path / "b", w=SECOND)
    digests = merge_folders(base, [first, second], tmp_path / "out", merge("linear"))
    out = load_file(tmp_path / "out" / "model.safetensors")
    assert set(out) == set(digests) == {"w"}
    assert out["w"].dtype == torch.bfloat16 and out["w"].tolist() == [2.0, 2.0, 1.0, 3.25]
    assert (tmp_path / "out" / "config.json").exists()


def test_students_without_a_common_base_are_refused(tmp_path: Path) -> None:
    first, second = folder(tmp_path / "a", w=FIRST), folder(tmp_path / "b", w=SECOND)
    with pytest.raises(StageError, match="w is not among the 1 tensors"):
        merge_folders(folder(tmp_path / "base", other=BASE), [first, second], tmp_path / "out", merge("linear"))
    with pytest.raises(StageError, match="have no common base"):
        merge_tensor("w", [BASE[:2], FIRST, SECOND], merge("linear"))


def test_the_base_may_name_its_language_model_where_the_students_are_one(tmp_path: Path) -> None:
    names = {"base": "model.language_model.layers.0.w", "first": "model.layers.0.w", "second": "model.layers.0.w"}
    for (folder, name), values in zip(names.items(), (BASE, FIRST, SECOND), strict=True):
        (tmp_path / folder).mkdir()
        save_file({name: values}, tmp_path / folder / "model.safetensors")
    merge_folders(tmp_path / "base", [tmp_path / "first", tmp_path / "second"], tmp_path / "out", merge("linear"))
    assert load_file(tmp_path / "out" / "model.safetensors")["model.layers.0.w"].tolist() == [2.0, 2.0, 1.0, 3.25]
