"""Which activations go to vLLM's compiled norms."""

import torch

from serve.engines.cpu_norms import fits_kernel


def test_only_what_the_kernels_can_take_goes_to_them() -> None:
    weight = torch.ones(64)
    assert fits_kernel(torch.ones(3, 64), weight)
    assert fits_kernel(torch.ones(2, 3, 64), weight)
    assert not fits_kernel(torch.ones(3, 64), None)  # a norm without weights
    assert not fits_kernel(torch.ones(3, 64, dtype=torch.bfloat16), weight)
    assert not fits_kernel(torch.ones(3, 48), torch.ones(48))
    assert not fits_kernel(torch.ones(3, 128)[:, :64], weight)  # a part of a wider row: the kernel would read across
