"""On a GPU: packed rows by torch's kernel, Liger's kernels and compiled layers give what the model itself gives."""

from pathlib import Path

import pytest
import torch

from distill.train.worker.kernels.attention import VARLEN
from distill.train.worker.kernels.choose import use_kernels
from distill.train.worker.student import load_model
from tests.gpu import ours
from tests.gpu.models import KINDS, make_rows, save_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU"),
]


@pytest.mark.parametrize("kind", KINDS)
def test_packed_rows_are_those_of_each_row_alone(tmp_path: Path, kind: str) -> None:
    folder = save_model(KINDS[kind], tmp_path, "cuda")
    found = ours.packing_error(folder, make_rows([70, 9, 41, 64], 300, seed=3))
    assert (found["attention"], found["reason"]) == (VARLEN, "")
    assert found["loss"] < 1e-3 and found["gradient"] < 0.03, "rounding to bf16"


@pytest.mark.parametrize(("choice", "told"), [("liger", "liger ("), ("compile", "compile")])
@pytest.mark.parametrize("kind", ["qwen3", "gemma3"])
def test_faster_kernels_are_used_where_they_are_asked_for(tmp_path: Path, kind: str, choice: str, told: str) -> None:
    model = load_model(str(save_model(KINDS[kind], tmp_path, "cuda")), torch.bfloat16).to("cuda")
    assert use_kernels(model, choice, "gpu").kernels.startswith(told)  # type: ignore[arg-type]
