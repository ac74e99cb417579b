#!/usr/bin/env bash
# gguf: small changes of weights that came out of a 4- or 5-bit file are gone once they are quantised to as many bits again.
#
# Expected: quantising a fine-tuned model costs what quantising its base cost: noise. The noise is larger than the change
#   of a LoRA adapter at every single weight, but independent of it, so that over a matrix the change is all there. This
#   holds for weights that were never quantised, and is what everybody has seen.
# Behaviour: weights that were read from a quantised file lie on the points to which the same kind of file rounds. A change
#   of up to a few percent moves few of them past the middle to the next point: rounding takes the merged model back to
#   its base. 3 % of the change is left where 98 % are left of the same change to other weights. Eight bits keep it from
#   about 1 % on.
# Consequence: a base model from a GGUF file, an adapter trained and merged, a q4 file: it loads, it answers well, and it is
#   the untouched base. Seen with Qwen2.5-Coder-0.5B from a q4_k_m file and an adapter whose change was 0.7 % of the weights:
#   the student in q8_0 keeps 96 % of it and writes as it was taught, in q4_k_m it keeps 10 % and writes as its base does.
# Workaround here: `distill publish` measures what every file keeps of the training, and says so in the card; it warns
#   beforehand where the base model came from a quantised file, and `--score` asks the file the run's benchmarks.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check gguf==0.19.0 numpy==2.4.6

"$folder/venv/bin/python" - <<'PYTHON'
import sys
from importlib.metadata import version

import numpy as np
from gguf import GGMLQuantizationType as Type
from gguf.quants import dequantize, quantize

SIZE, RANK = 896, 16
CHANGES = (0.005, 0.01, 0.02)


def rounded(weights: np.ndarray, kind: Type) -> np.ndarray:
    return dequantize(quantize(weights, kind), kind)


def kept(base: np.ndarray, change: np.ndarray, kind: Type) -> float:
    """The share of a change that is left between the quantised base and the quantised sum."""
    left = rounded(base + change, kind) - rounded(base, kind)
    return float((left * change).sum() / (change * change).sum())


rng = np.random.default_rng(0)
weights = rng.normal(0.0, 0.03, (SIZE, SIZE)).astype(np.float32)
print("version:   gguf", version("gguf"))
print("expected:  all of a small change is left, on the mean, whatever the weights come from")
print("behaviour: of weights that were quantised before, to the same bits, next to nothing is left")
print("output:    share of a rank-16 change that is left: weights never quantised, weights quantised before")
is_lost, is_whole = [], []
for kind in (Type.Q4_0, Type.Q5_0, Type.Q8_0):
    for size in CHANGES:
        change = (rng.normal(size=(SIZE, RANK)) @ rng.normal(size=(RANK, SIZE))).astype(np.float32)
        change *= size * np.linalg.norm(weights) / np.linalg.norm(change)
        once, twice = kept(weights, change, kind), kept(rounded(weights, kind), change, kind)
        print(f"  {kind.name}, change of {size:.1%} of the weights: {once:.2f}, {twice:.2f}")
        is_whole.append(0.9 < once < 1.1)
        if kind is Type.Q4_0:
            is_lost.append(twice < 0.1)
sys.exit(0 if all(is_whole) and all(is_lost) else 1)
PYTHON

# Output on 2026-11-30 (exit code 0; on one that was quantised before, Q5_0 keeps 0.11 of 2 %, Q8_0 keeps 0.65, 0.98, 1.00):
#   Q4_0, change of 0.5% of the weights: 1.00, 0.03
#   Q4_0, change of 1.0% of the weights: 0.99, 0.03
#   Q4_0, change of 2.0% of the weights: 1.00, 0.03
#   Q5_0, change of 0.5% of the weights: 1.00, 0.03
