"""The parts of Ray Serve that have no public name, as of Ray 2.60.0.

Ray Serve reads its environment variables when it is imported, so nothing here imports it before it is called.
"""

from typing import Any

HEAD_NODE_RESOURCE = "node:__internal_head__"
"""Resource that only the head node has (`ray._common.constants.HEAD_NODE_RESOURCE_NAME`)."""

PROXY_CALLBACK_VARIABLE = "RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"
"""Import path of a function that returns middleware for Serve's HTTP proxy."""


def running_client() -> Any | None:
    """The client of the Serve instance that runs in this Ray session; None where none runs."""
    from ray.serve.context import _get_global_client

    return _get_global_client(raise_if_no_controller_running=False)
