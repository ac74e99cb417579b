"""A process group of this process alone: DeepSpeed keeps the first one it sees for as long as the process lives."""

from collections.abc import Iterator

import pytest
import torch.distributed as dist


@pytest.fixture(scope="package", autouse=True)
def group() -> Iterator[None]:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LOCAL_RANK", "0")  # Ray Train sets it for its workers; DeepSpeed asks for it
        yield
    dist.destroy_process_group()
