"""Clients of other projects, pinned and installed in a folder of their own, ask a real engine: several turns, streams
and structured answers."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from serve.config import Endpoint, ServeConfig
from serve.deploy import deploy, undeploy
from tests.fixtures.client_talk import CLIENTS
from tests.fixtures.paths import ROOT
from tests.fixtures.tiny_models import TOOLS_TEMPLATE, make_tiny_model

pytestmark = pytest.mark.long

CONFIG = ServeConfig(port=0, max_model_len=1024, max_num_seqs=8, kv_cache_gib=0.1, cpus_per_engine=0.1)
WHITESPACE = range(98, 104)
"""Tokens that a random model could write without end where the grammar of an object allows them."""

OPTIONS: dict[str, Any] = {
    "temperature": 0.0,
    "seed": 0,
    "logit_bias": {str(token): -100 for token in WHITESPACE},
}


@pytest.fixture(scope="module")
def clients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that the clients are installed in, apart from this project's own packages."""
    folder = tmp_path_factory.mktemp("clients")
    command = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--target", str(folder)]
    subprocess.run([*command, "-r", str(ROOT / "tests/cases/clients.txt")], check=True)
    return folder


@pytest.fixture(scope="module")
def url(prepared_ray: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    model = make_tiny_model(tmp_path_factory.mktemp("serve") / "model", seed=1)
    yield deploy([Endpoint(name="tiny", source=str(model), chat_template=TOOLS_TEMPLATE)], CONFIG)
    undeploy()


@pytest.mark.parametrize("client", CLIENTS)
def test_a_client_holds_a_conversation_reads_a_stream_and_gets_objects(client: str, clients: Path, url: str) -> None:
    # LiteLLM would look for prices of models on the web.
    environment = {**os.environ, "PYTHONPATH": f"{clients}:{ROOT}", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    command = [sys.executable, "-m", "tests.fixtures.client_talk", client, f"{url}/v1", "tiny", json.dumps(OPTIONS)]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["first"] and found["again"] and found["first"] != found["again"]
    assert found["streamed"] == found["first"]
    assert found["structured"]
    for way, answer in found["structured"].items():
        assert answer["parity"] in ("even", "odd"), way
