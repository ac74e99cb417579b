"""How many engines of an evaluation work at the same time."""

import pytest

from cluster.placement import Resources
from cluster.session import Device
from distill.evaluate.models import engines_at_work


@pytest.mark.parametrize(
    ("device", "cores", "at_work"),
    [("cpu", [2], 2), ("cpu", [1], 1), ("cpu", [8], 1), ("cpu", [2, 2], 3), ("gpu", [2], 3)],
)
def test_as_many_of_three_engines_are_asked_at_once_as_take_no_core_from_each_other(
    device: Device, cores: list[float], at_work: int
) -> None:
    assert engines_at_work(3, device, [Resources(cpus=count) for count in cores]) == at_work
