"""What a single process or file bounds."""

from typing import Any

from distill.ops.forecast.scaling_limits import scaling_limits
from distill.ops.forecast.tables import near_limits
from tests.fixtures.forecast_run import forecast_on


def test_limits_are_reported_as_they_come_near() -> None:
    sizes: dict[str, Any] = {"engines": 8, "write_s": 1e6, "driver_gib": 32.0}
    small, large = (scaling_limits(prompts=n, traces=2 * n, **sizes) for n in (1e4, 1e8))
    assert all(limit.share < 0.1 for limit in small)
    assert large[0].share > 1.0
    assert near_limits(forecast_on("1x8xh100"), driver_gib=32.0) == []
