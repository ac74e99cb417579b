"""A model behind an endpoint of its own, in a process of its own, until it is killed: `... NAME FOLDER CONFIG`."""

import sys
import time

import ray
from ray import serve as ray_serve

from serve.config import APP, ENGINE_PREFIX, Endpoint, ServeConfig
from serve.deploy import deploy


def main(name: str, source: str, config: str) -> None:
    """Deploy on the Ray cluster of `RAY_ADDRESS`; say so once it answers, and then how many replicas run. The config is
    JSON."""
    ray.init(log_to_driver=False)
    url = deploy([Endpoint(name=name, source=source)], ServeConfig.model_validate_json(config))
    print(f"served at {url}", flush=True)
    before = -1
    while True:
        if (count := num_running()) != before:
            print(f"replicas that run: {count}", flush=True)
        before = count
        time.sleep(1)


def num_running() -> int:
    """Replicas of engines that Serve's controller takes for running."""
    deployments = ray_serve.status().applications[APP].deployments
    return sum(
        int(one.replica_states.get("RUNNING", 0)) for name, one in deployments.items() if name.startswith(ENGINE_PREFIX)
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
