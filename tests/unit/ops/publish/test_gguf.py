"""What is told of a written GGUF file."""

from pathlib import Path

import pytest

from distill.ops.publish.formats import GGUF_TYPES
from distill.ops.publish.gguf import GgufFile, calibration_words, uncalibrated


def test_experts_and_others_without_an_importance_are_named() -> None:
    tensors = {
        "token_embd.weight": "Q6_K",
        "blk.0.attn_q.weight": "Q4_K",
        "blk.0.attn_norm.weight": "F32",
        "blk.0.ffn_up_exps.weight": "Q4_K",
        "blk.1.ffn_up_exps.weight": "Q6_K",
    }
    assert uncalibrated(tensors, ["blk.0.attn_q.weight"]) == ("ffn_up_exps",)


@pytest.mark.parametrize(
    ("kind", "calibrated_on", "left_out", "words"),
    [
        ("q4_k_m", "9 tokens", (), "was calibrated on 9 tokens"),
        ("q4_k_m", "9 tokens", ("ffn_up_exps",), "was calibrated on 9 tokens, but for ffn_up_exps"),
        ("q4_k_m", "", (), "was not calibrated"),
        ("q4_k_m", "", ("attn_q",), "was not calibrated: no layer that is run here is a tensor of the file"),
        ("q8_0", "", (), ""),
    ],
)
def test_a_file_says_whether_it_was_calibrated(
    kind: str, calibrated_on: str, left_out: tuple[str, ...], words: str
) -> None:
    file = GgufFile(GGUF_TYPES[f"gguf-{kind}"], Path("file"), "", calibrated_on=calibrated_on, uncalibrated=left_out)
    assert calibration_words(file) == words
