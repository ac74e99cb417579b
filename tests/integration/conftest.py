"""What integration tests share."""

from pathlib import Path

import pytest

from tests.fixtures.tiny_models import make_tiny_model


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random model that tests read and never change."""
    return make_tiny_model(tmp_path_factory.mktemp("model"))
