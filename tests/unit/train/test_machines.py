"""The GPUs that a plan is made for: those of the kind that a student asks for, and none where none is up."""

from collections.abc import Sequence

import pytest

from cluster.placement import Resources
from distill.config.students import StudentConfig
from distill.core.errors import InputError
from distill.train import machines
from distill.train.machines import connected_machines, probed_kinds

GIB = 2**30
H100, L4 = Resources(cpus=8, gpus=1, gpu="H100"), Resources(cpus=8, gpus=1, gpu="L4")


@pytest.fixture
def mixed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A cluster with both kinds, of which each tells its own memory; the kinds that were asked."""
    asked = list[str]()

    def probe(kinds: Sequence[str]) -> dict[str, tuple[int, str]]:
        asked.extend(kinds)
        told = {"H100": (79 * GIB, "NVIDIA H100"), "L4": (22 * GIB, "NVIDIA L4")}
        return {kind: told[kind] for kind in kinds}

    monkeypatch.setattr(machines, "cluster_nodes", lambda: (H100, L4))
    monkeypatch.setattr(machines, "_probe_gpus", probe)
    return asked


def test_a_student_gets_the_memory_of_the_kind_that_it_asks_for(mixed: list[str]) -> None:
    found = connected_machines("gpu", {"H100", "L4"})
    assert mixed == ["H100", "L4"], "each once"
    students = [StudentConfig(name="s", model="m", gpu=gpu) for gpu in ("H100", "L4", "")]
    assert [found.worker_memory_gib(2, one.gpu) for one in students] == [79.0, 22.0, 22.0]
    assert found.gpu is not None and found.gpu.name == "l4"


def test_only_kinds_that_are_used_are_asked(mixed: list[str]) -> None:
    assert connected_machines("gpu", {"H100"}).gpu_memory_gib == 79.0
    assert mixed == ["H100"], "an L4 may be busy for hours"
    assert probed_kinds([H100, L4], {"", "H100"}) == ["H100", "L4"], "any kind may be given"
    assert probed_kinds([H100, L4], {"A100"}) == ["H100", "L4"], "it is refused where it is placed"


@pytest.mark.parametrize("nodes", [(), (Resources(cpus=4),)])
def test_a_cluster_whose_gpu_nodes_are_all_down_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch, nodes: tuple[Resources, ...]
) -> None:
    monkeypatch.setattr(machines, "cluster_nodes", lambda: nodes)
    with pytest.raises(InputError, match=r"no node with a GPU is up \((4 CPU|no nodes)\) ->"):
        connected_machines("gpu", {"L4"})


def test_gpus_that_stay_busy_end_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    cancelled, timeouts = list[object](), list[float]()

    class Task:
        def options(self, **how: object) -> "Task":
            return self

        def remote(self) -> "Task":
            return self

    def never(tasks: list[object], timeout: float) -> None:
        timeouts.append(timeout)
        raise ray.exceptions.GetTimeoutError("Get timed out")

    monkeypatch.setattr(ray, "remote", lambda **how: lambda function: Task())
    monkeypatch.setattr(ray, "get", never)
    monkeypatch.setattr(ray, "cancel", cancelled.append)
    monkeypatch.setattr(machines, "cluster_nodes", lambda: (L4,))
    with pytest.raises(InputError, match=r"no GPU \(L4\) was free within 300 s"):
        connected_machines("gpu", {"L4"})
    assert len(cancelled) == 1 and timeouts == [300]
