"""A run on a Ray whose machines an autoscaler adds and takes away, from none: `python -m ... FOLDER`.

In a process namespace of its own (`unshare --pid`): Ray's helper for such clusters begins by stopping every Ray that it
sees. Ray's own autoscaler decides; the machines that it starts are Ray nodes on this one.
"""

import json
import os
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import ray
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID
from ray.cluster_utils import AutoscalingCluster
from rich.console import Console

from distill.config.recipe import Recipe
from distill.core.run_dir import RunDir
from distill.generate import vllm_teacher as teachers_vllm
from distill.generate.stage import generate_stage
from distill.run.context import Run
from distill.train.stage import train_stage
from tests.benchmarks.scale_rows import stub_engines, stub_run
from tests.integration.test_fleet import recipe as fleet_recipe
from tests.integration.test_fleet import write_mixes

NUM_PROMPTS, MAX_MACHINES = 64, 2
MACHINE = {"CPU": 1, "object_store_memory": 100_000_000}
IDLE_MINUTES = 0.2
PROVIDER = {
    "type": "external",  # the same by name would want a file that is no part of Ray's package
    "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
    "disable_node_updaters": True,
    "disable_launch_config_check": True,
    "launch_multiple": True,
    "head_node_id": FAKE_HEAD_NODE_ID,
}
HEAD = "ray.head.default"
"""What the provider of local machines calls the head's kind."""


class LocalCloud(AutoscalingCluster):
    """Ray's helper with a configuration of ours: the one that it begins with is no part of Ray's package."""

    def _generate_config(self, head_resources: Any, worker_node_types: Any, **others: Any) -> dict[str, Any]:
        head = {"resources": dict(head_resources), "node_config": {}, "max_workers": 0}
        nothing_to_do = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
        return {
            **{f"{what}_commands": [] for what in nothing_to_do},
            "file_mounts": {},
            "cluster_synced_files": [],
            "file_mounts_sync_continuously": False,
            "rsync_exclude": [],
            "rsync_filter": [],
            "cluster_name": "local-cloud",
            "provider": PROVIDER,
            "auth": {},
            "upscaling_speed": 1.0,
            "idle_timeout_minutes": IDLE_MINUTES,
            "max_workers": MAX_MACHINES,
            "available_node_types": {HEAD: head, **worker_node_types},
            "head_node_type": HEAD,
        }


def start_cluster() -> None:
    """A head that runs no work, and up to `MAX_MACHINES` others."""
    kinds = {"machines": {"resources": MACHINE, "node_config": {}, "min_workers": 0, "max_workers": MAX_MACHINES}}
    LocalCloud({"CPU": 0, "object_store_memory": 100_000_000}, kinds, autoscaler_v2=True).start()
    os.environ["RAY_ADDRESS"] = "auto"


def num_machines() -> int:
    """Machines that are up, the head aside."""
    return sum(node["Alive"] and node["Resources"].get("CPU", 0) > 0 for node in ray.nodes())


def machines_left(deadline_s: float = 120.0) -> int:
    """Machines that are still up when idle ones have had the time to go."""
    started = time.monotonic()
    while (left := num_machines()) and time.monotonic() - started < deadline_s:
        time.sleep(1)
    return left


class Watch(threading.Thread):
    """How many machines are up, looked at all the time."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = 0

    def run(self) -> None:
        """Until the process ends."""
        while True:
            self.most = max(self.most, num_machines())
            time.sleep(0.5)


def generated(folder: Path, resources: ExitStack) -> int:
    """Traces of the first stage with a stub engine."""
    teachers_vllm.ask_vllm = stub_engines(1, 1.0)  # type: ignore[assignment]
    return generate_stage(stub_run(folder, NUM_PROMPTS, resources)).rows_out


def trained(recipe: Recipe, folder: Path, resources: ExitStack) -> int:
    """Cells that are trained."""
    run_dir = RunDir(str(folder))
    write_mixes(run_dir)
    return len(train_stage(Run(recipe, folder, run_dir, Console(stderr=True), resources)).details["cells"])


def measure(folder: Path) -> dict[str, Any]:
    """Both stages, and what machines there were."""
    start_cluster()
    found: dict[str, Any] = {}
    full = fleet_recipe(folder)
    recipe = full.model_copy(update={"mixes": full.mixes[:2], "merges": ()})
    with ExitStack() as resources:
        ray.init()
        found["at_first"] = num_machines()
        ray.shutdown()
        found["traces"] = generated(folder / "generate", resources)
    with ExitStack() as resources:
        ray.init(ignore_reinit_error=True)
        found["between"] = machines_left()
        watch = Watch()
        watch.start()
        found["cells"] = trained(recipe, folder / "train", resources)
        found["most"] = watch.most
        ray.init(ignore_reinit_error=True)
        found["at_last"] = machines_left()
    return found


if __name__ == "__main__":
    print(json.dumps(measure(Path(sys.argv[1]))))
