"""Forecasts read no model from a hub."""

import pytest

from distill.ops.forecast import inputs as gather
from tests.fixtures.model_shapes import shape


@pytest.fixture(autouse=True)
def _public_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gather, "planned_shape", shape)
