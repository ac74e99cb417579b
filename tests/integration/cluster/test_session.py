"""What a run connects to, and where its workers go: local clusters with nodes that only claim to have GPUs."""

from collections.abc import Iterator
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.util.placement_group import placement_group, placement_group_table

from cluster.limits import usable_cpus
from cluster.session import KEEPALIVE_ENV, connect
from cluster.vllm_args import engine_bundles
from distill.train.layout import worker_resources
from serve.dataset_client import complete
from tests.fixtures.chat_server import chat_server, completion


@pytest.fixture(scope="module")
def mixed() -> Iterator[Cluster]:
    """A head without GPUs, a node with an L4 and one with two H100."""
    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    for kind, count in (("L4", 1), ("H100", 2)):
        started.add_node(num_cpus=2, num_gpus=count, resources={f"accelerator_type:{kind}": 1})
    yield started
    started.shutdown()


def test_a_run_without_an_address_starts_its_own_ray_beside_a_running_cluster(
    mixed: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    with connect("cpu") as session:
        assert session.address != mixed.address
        assert [node.gpus for node in session.nodes()] == [0]
        assert session.num_cpus == max(2, usable_cpus())


def test_engines_and_cells_that_name_a_kind_of_gpu_are_placed_on_it(
    mixed: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    join(mixed, monkeypatch)
    with connect("gpu") as session:
        assert sorted((node.gpus, node.gpu) for node in session.nodes()) == [(0, ""), (1, "L4"), (2, "H100")]
        kinds = {node["NodeID"]: kind for node in ray.nodes() for kind in ("L4", "H100") if _has(node, kind)}
        bundle = worker_resources("gpu", 1, "H100").bundle
        for asked in (engine_bundles("gpu", 2, gpu="H100"), {"bundles": [bundle] * 2}):
            group = placement_group(**asked)
            assert group.wait(30)
            assert {kinds[node] for node in placement_group_table(group)["bundles_to_node_id"].values()} == {"H100"}
            ray.util.remove_placement_group(group)
        assert not placement_group(**engine_bundles("gpu", gpu="A100")).wait(2), "no node has one"


def join(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Name the cluster, and have what `connect` sets then gone with the test."""
    for name, value in {"RAY_ADDRESS": cluster.address, **KEEPALIVE_ENV}.items():
        monkeypatch.setenv(name, value)


def _has(node: dict[str, Any], kind: str) -> bool:
    return f"accelerator_type:{kind}" in node["Resources"]


def test_an_evaluation_is_sent_from_the_drivers_node_even_where_that_has_no_cpu_resource(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    head = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    join(head, monkeypatch)
    try:
        with chat_server(lambda number, body: (200, completion("4"))) as server, connect("cpu"):
            rows = [{"model": "m", "messages": [{"role": "user", "content": "2 + 2?"}], "sampling": {"max_tokens": 4}}]
            (row,) = complete(rows, server.url.removesuffix("/v1")).take_all()
            assert (row["completion"], row["error"]) == ("4", "")
    finally:
        head.shutdown()
