"""A model behind an endpoint of its own, in a process of its own, until it is killed: `... NAME FOLDER CONFIG`."""

import sys
import time

import ray

from serve.config import Endpoint, ServeConfig
from serve.deploy import deploy


def main(name: str, source: str, config: str) -> None:
    """Deploy on the Ray cluster of `RAY_ADDRESS`; say so once it answers. The config is JSON."""
    ray.init(log_to_driver=False)
    url = deploy([Endpoint(name=name, source=source)], ServeConfig.model_validate_json(config))
    print(f"served at {url}", flush=True)
    while True:
        time.sleep(1)


if __name__ == "__main__":
    main(*sys.argv[1:])
