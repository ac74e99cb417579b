"""The Serve config file of some endpoints, for `serve deploy` or a KubeRay RayService. Imports no Ray."""

from collections.abc import Mapping, Sequence
from typing import Any

from serve.config import APP, Endpoint, ServeConfig
from serve.key_variables import KEYS_VARIABLE
from serve.keys import load_keys

IMPORT_PATH = "serve.app:from_config_file"


def config_file(
    endpoints: Sequence[Endpoint], config: ServeConfig, *, import_path: str = IMPORT_PATH, **more: str
) -> dict[str, Any]:
    """The file's content. It never holds API keys: the deployment reads them from `KEYS_VARIABLE`.

    Args:
        endpoints: the models.
        config: how they are served.
        import_path: a function that builds the application from `args`.
        more: further `args`.
    """
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": config.host, "port": config.port},
        "applications": [
            {
                "name": APP,
                "route_prefix": "/",
                "import_path": import_path,
                "args": {
                    "endpoints": [endpoint.model_dump(mode="json", exclude_defaults=True) for endpoint in endpoints],
                    "config": config.model_dump(mode="json", exclude_defaults=True, exclude={"keys"}),
                    **more,
                },
            }
        ],
    }


def read_arguments(
    arguments: Mapping[str, Any], environment: Mapping[str, str]
) -> tuple[tuple[Endpoint, ...], ServeConfig]:
    """Endpoints and settings out of the arguments of such a file.

    Raises:
        ValueError: they are wrong, or the address is open to other machines without API keys.
    """
    keys = load_keys(None, environment.get(KEYS_VARIABLE))
    config = ServeConfig.model_validate({**arguments["config"], "keys": keys})
    return tuple(Endpoint.model_validate(endpoint) for endpoint in arguments["endpoints"]), config
