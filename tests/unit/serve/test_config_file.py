"""The file that `serve deploy` takes on another cluster."""

import pytest
import yaml
from pydantic import ValidationError

from serve.api.limits import Limits
from serve.api.reasoning_parser import Delimiters
from serve.config import Endpoint, ServeConfig
from serve.config_file import config_file, read_arguments
from serve.key_variables import KEYS_VARIABLE
from serve.keys import Key, hash_key
from tests.fixtures.serve_schema import read_by_serve

CONFIG = ServeConfig(
    max_replicas=3, min_replicas=0, keys=[Key(name="a", sha256=hash_key("s"))], limits=Limits(max_choices=2)
)


ENDPOINTS = (
    Endpoint(name="m", source="base", metadata={"accuracy": 0.5}),
    Endpoint(name="m@x", source="base", adapter="a", reasoning=Delimiters(is_open=True)),
)


def test_a_config_file_is_what_serve_deploy_takes_and_holds_no_key() -> None:
    text = yaml.safe_dump(config_file(ENDPOINTS, CONFIG))
    assert hash_key("s") not in text
    (application,) = read_by_serve(text)["applications"]
    assert application["import_path"] == "serve.app:from_config_file"
    keys = f'[[keys]]\nname = "a"\nsha256 = "{hash_key("s")}"'
    assert read_arguments(application["args"], {KEYS_VARIABLE: keys}) == (ENDPOINTS, CONFIG)


def test_a_deployment_for_other_machines_needs_keys_from_its_environment() -> None:
    content = config_file(ENDPOINTS, CONFIG.model_copy(update={"host": "0.0.0.0"}))
    with pytest.raises(ValidationError, match="no API keys"):
        read_arguments(content["applications"][0]["args"], {})
