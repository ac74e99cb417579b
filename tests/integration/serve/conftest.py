"""A Ray for one module: Serve keeps its port as long as its Ray lives."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

import pytest

from serve.proxy_settings import prepare_environment
from tests.fixtures.paths import ROOT


@pytest.fixture(scope="module")
def plain_ray() -> Iterator[Path]:
    """Serve with Ray's own settings, as in the evaluate stage; the folder of the logs."""
    with _local_ray() as logs:
        yield logs


@pytest.fixture(scope="module")
def prepared_ray() -> Iterator[Path]:
    """Serve with our proxy and gRPC settings, as in `distill serve`; the folder of the logs."""
    with mock.patch.dict(os.environ):
        prepare_environment()
        with _local_ray() as logs:
            yield logs


@contextmanager
def _local_ray() -> Iterator[Path]:
    import ray

    context = ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        object_store_memory=256 << 20,
        runtime_env={"env_vars": {"PYTHONPATH": str(ROOT)}},
    )
    try:
        yield Path(context.address_info["session_dir"]) / "logs"
    finally:
        ray.shutdown()
