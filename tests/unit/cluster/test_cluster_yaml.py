"""ray_cluster.yaml and its variants are what `ray up` expects, as far as that can be told without a cloud."""

import json
import tomllib
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from tests.fixtures.paths import ROOT

FILES = ("ray_cluster.yaml", "cluster/ray_cluster_gcp.yaml", "cluster/ray_cluster_onprem.yaml")


@pytest.fixture(scope="module", params=FILES)
def cluster(request: pytest.FixtureRequest) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((ROOT / request.param).read_text())
    return config


@pytest.fixture(scope="module")
def node_types(cluster: dict[str, Any]) -> dict[str, Any]:
    if cluster["provider"]["type"] == "local":
        pytest.skip("machines of one's own have no types")
    types: dict[str, Any] = cluster["available_node_types"]
    return types


def ray_schema() -> dict[str, Any]:
    # Read as a file: importing ray would take the seconds that this tier does not have.
    path = Path(str(distribution("ray").locate_file("ray/autoscaler/ray-schema.json")))
    schema: dict[str, Any] = json.loads(path.read_text())
    return schema


def test_file_fits_rays_own_schema(cluster: dict[str, Any]) -> None:
    jsonschema.validate(cluster, ray_schema())


def test_schema_would_refuse_a_misspelt_key(cluster: dict[str, Any]) -> None:
    with pytest.raises(jsonschema.ValidationError, match="max_worker"):
        jsonschema.validate({**cluster, "max_worker": 3}, ray_schema())


def test_head_offers_no_cpu(cluster: dict[str, Any], node_types: dict[str, Any]) -> None:
    assert node_types[cluster["head_node_type"]]["resources"] == {"CPU": 0}


def test_head_runs_no_work(cluster: dict[str, Any]) -> None:
    assert any("--num-cpus=0" in command for command in cluster["head_start_ray_commands"])


def test_workers_have_gpus_and_scale_down_to_none(cluster: dict[str, Any], node_types: dict[str, Any]) -> None:
    workers = {name: node for name, node in node_types.items() if name != cluster["head_node_type"]}
    assert set(workers) == {"teachers", "students"}
    for worker in workers.values():
        assert worker["resources"]["GPU"] > 0
        assert worker["min_workers"] == 0 < worker["max_workers"]
    assert sum(worker["max_workers"] for worker in workers.values()) <= cluster["max_workers"]


def test_images_carry_the_pinned_ray(cluster: dict[str, Any]) -> None:
    dependencies = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    pinned = next(line.split("==")[1] for line in dependencies if line.startswith("ray["))
    for image in ("head_image", "worker_image"):
        assert cluster["docker"][image].startswith(f"rayproject/ray:{pinned}-py311")


def test_mounted_files_exist_and_the_whole_checkout_is_not_one_of_them(cluster: dict[str, Any]) -> None:
    for local in cluster["file_mounts"].values():
        if not local.startswith("~"):
            assert local != "."
            assert (ROOT / local).exists(), local


def test_every_node_installs_the_gpu_lock(cluster: dict[str, Any]) -> None:
    lock = "cluster/requirements/gpu.txt"
    assert any(lock in command for command in cluster["setup_commands"])
    assert (ROOT / lock).is_file()


def test_an_on_premise_cluster_has_all_nodes_from_the_start() -> None:
    config = yaml.safe_load((ROOT / FILES[2]).read_text())
    assert config["max_workers"] == len(config["provider"]["worker_ips"])
