"""What our plugins put in the place of vLLM's own code on CPUs, beside that code: the same numbers, the same draws."""

import subprocess
import sys

PROGRAM = """
import torch
from vllm.config import VllmConfig, set_current_vllm_config
from vllm.plugins import load_general_plugins

with set_current_vllm_config(VllmConfig()):
    from vllm.model_executor.layers.layernorm import RMSNorm
    from vllm.v1.sample.ops.topk_topp_sampler import TopKTopPSampler

    load_general_plugins()
    torch.manual_seed(0)
    for width, dtype in ((576, torch.bfloat16), (576, torch.float32), (40, torch.float32)):
        norm = RMSNorm(width, dtype=dtype)
        norm.weight.data.normal_()
        x, residual = torch.randn(5, width, dtype=dtype), torch.randn(5, width, dtype=dtype)
        torch.testing.assert_close(norm.forward_cpu(x.clone()), norm.forward_native(x.clone()))
        torch.testing.assert_close(
            norm.forward_cpu(x.clone(), residual.clone()), norm.forward_native(x.clone(), residual.clone())
        )

    assert RMSNorm.forward_cpu.__module__ == "serve.engines.cpu_norms"
    sampler = TopKTopPSampler()
    assert sampler.forward.__func__.__module__ == "serve.engines.cpu_sampling"
    logits = torch.randn(3, 2000)
    drawn = [
        sampler(logits.clone(), {0: torch.Generator().manual_seed(seed)}, torch.tensor([5, 5, 5]), None)[0].tolist()
        for seed in (1, 1, 2, 3, 4, 5)
    ]
    assert drawn[0][0] == drawn[1][0]  # a seed decides
    assert len({row[0] for row in drawn}) > 1
    best = logits.topk(5, dim=-1).indices
    assert all(token in best[row] for one in drawn for row, token in enumerate(one))
print("same")
"""


def test_norms_are_vllms_and_draws_follow_seeds_and_limits() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=300)
    assert done.stdout.endswith("same\n"), done.stderr[-2000:]
