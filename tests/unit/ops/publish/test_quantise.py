"""llama.cpp's quantiser takes the importance matrix and the notes that are written into its settings."""

from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from gguf.quants import dequantize

from distill.core.errors import StageError
from distill.ops.publish import quantise as module
from distill.ops.publish.quantise import inner_settings, note_list, quantise
from tests.fixtures.gguf_files import make_gguf

llama_cpp = pytest.importorskip("cyllama.llama.llama_cpp")

NAME = "blk.0.ffn_up.weight"
Q4_K_M = 15
WEIGHTS = np.random.default_rng(0).normal(size=(64, 256)).astype(np.float32)
IMPORTANCE = np.where(np.arange(256) % 32 < 2, 100.0, 1.0).astype(np.float32)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_gguf(tmp_path_factory.mktemp("whole") / "whole.gguf", {NAME: WEIGHTS}, describe=describe)


def describe(writer: gguf.GGUFWriter) -> None:
    """What the quantiser wants to know of a model."""
    for add in (writer.add_context_length, writer.add_embedding_length, writer.add_feed_forward_length):
        add(256)
    writer.add_block_count(1)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)


def error(path: Path) -> float:
    """Of the weights of a file, where it counts."""
    (tensor,) = gguf.GGUFReader(path).tensors
    off = dequantize(tensor.data, tensor.tensor_type) - WEIGHTS
    return float((off * off * IMPORTANCE).mean())


def test_columns_that_count_are_rounded_less_far(whole: str, tmp_path: Path) -> None:
    plain, calibrated, again = (str(tmp_path / name) for name in ("plain", "calibrated", "again"))
    quantise(whole, plain, Q4_K_M)
    quantise(whole, calibrated, Q4_K_M, {NAME: IMPORTANCE})
    quantise(whole, again, Q4_K_M, {NAME: IMPORTANCE})
    assert error(Path(calibrated)) < 0.8 * error(Path(plain))
    assert Path(calibrated).read_bytes() == Path(again).read_bytes()


def test_the_files_metadata_says_what_it_was_calibrated_on(whole: str, tmp_path: Path) -> None:
    target = str(tmp_path / "file.gguf")
    notes: dict[str, Any] = {"quantize.imatrix.dataset": "é" * 100, "quantize.imatrix.entries_count": 1}
    quantise(whole, target, Q4_K_M, {NAME: IMPORTANCE}, notes)
    reader = gguf.GGUFReader(target)
    assert reader.get_field("quantize.imatrix.entries_count").contents() == 1
    assert reader.get_field("quantize.imatrix.dataset").contents() == "é" * 63, "cut to what llama.cpp holds"
    quantise(whole, target, Q4_K_M, {}, notes)
    assert gguf.GGUFReader(target).get_field("quantize.imatrix.dataset") is None, "it was not calibrated"


def test_a_list_ends_with_an_empty_entry() -> None:
    notes = note_list({"one": 1})
    assert len(notes) == 2 and notes[1].key == b""


def test_settings_that_are_laid_out_otherwise_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = llama_cpp.LlamaModelQuantizeParams()
    settings.ftype = Q4_K_M
    assert inner_settings(settings).ftype == Q4_K_M
    monkeypatch.setattr(module, "NUMBERS", ("ftype", "nthread", "output_tensor_type", "token_embedding_type"))

    class Moved(module._Settings):
        _fields_ = (("more", module.ctypes.c_int32),)

    monkeypatch.setattr(module, "_Settings", Moved)
    with pytest.raises(StageError, match="laid out in another way"):
        inner_settings(settings)
