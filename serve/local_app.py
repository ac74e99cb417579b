"""`python -m serve.local_app ENDPOINT CONFIG ADDRESS`: the processes of `serve.local_server`.

Importing this module imports vLLM, which takes seconds.
"""

import asyncio
import os
import signal
import sys
import time
from pathlib import Path
from threading import Thread

import uvicorn
from fastapi import FastAPI

from serve.api.ingress import ENDPOINTS, Ingress, build_app
from serve.app import admission_settings, build_card, build_llm_config
from serve.config import Endpoint, ServeConfig, group_engines
from serve.engines.local_engine import LocalEngine, LocalHandle
from serve.local_server import STOP_S


def main(endpoint: Endpoint, config: ServeConfig, address: Path) -> None:
    """Serve at an address that a file then holds, until standard input closes: the parent may end in any way."""
    asyncio.run(_serve(endpoint, config, address))


def _parent_ended(loop: asyncio.AbstractEventLoop, ended: asyncio.Event) -> None:
    """Wait for the end of standard input, then have the server stop; what is left after a while is killed: an engine
    that is still starting, for example."""
    sys.stdin.buffer.read()
    loop.call_soon_threadsafe(ended.set)
    time.sleep(STOP_S)
    os.killpg(0, signal.SIGKILL)


async def _serve(endpoint: Endpoint, config: ServeConfig, address: Path) -> None:
    ended = asyncio.Event()
    Thread(target=_parent_ended, args=(asyncio.get_running_loop(), ended), daemon=True).start()
    (spec,) = group_engines([endpoint])
    engine = LocalEngine(build_llm_config(spec, config))
    await engine.start()
    app = local_app(endpoint, config, LocalHandle(engine))
    server = uvicorn.Server(uvicorn.Config(app, host=config.host, port=0, log_level="warning"))
    serving = asyncio.create_task(server.serve())
    while not server.started and not serving.done():
        await asyncio.sleep(0.05)
    port = server.servers[0].sockets[0].getsockname()[1]
    whole = address.with_name(f"{address.name}.part")
    whole.write_text(f"http://{config.host}:{port}")
    whole.replace(address)
    await ended.wait()
    server.should_exit = server.force_exit = True
    await serving
    await engine.shutdown()


def local_app(endpoint: Endpoint, config: ServeConfig, handle: LocalHandle) -> FastAPI:
    """The web application of one endpoint: the routes of Serve's, on an ingress of this process."""
    (spec,) = group_engines([endpoint])
    card = build_card(endpoint, spec, config, int(time.time()))
    ingress = Ingress({endpoint.name: handle}, {endpoint.name: card}, endpoints=[endpoint], max_retries=0)
    app = build_app(admission_settings([spec], config), is_measured=False)
    for name, route in ENDPOINTS.items():
        route(app)(getattr(ingress, name))
    return app


if __name__ == "__main__":
    main(Endpoint.model_validate_json(sys.argv[1]), ServeConfig.model_validate_json(sys.argv[2]), Path(sys.argv[3]))
