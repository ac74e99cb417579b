"""What KubeRay's operator would do with our manifests, on a Ray cluster of two nodes of this machine: no Kubernetes.

The head has no CPU and the token is asked for. The variables of the pods are set, ConfigMap and claim are folders. The
job is submitted by HTTP and the Serve config is sent to the dashboard, as the operator does both.
"""

import json
import os
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from cluster.kuberay.manifest import FILES
from distill.cli import main
from distill.run_dir import STAGES, RunDir
from serve.keys import KEYS_VARIABLE, hash_key
from tests.chat_server import Reply, chat_server, completion
from tests.integration.test_submit import recipe_of
from tests.integration.tiny_models import make_tiny_model

pytestmark = [pytest.mark.integration, pytest.mark.long]

TOKEN = "0" * 64
KEY = "sk-distill-test"
DEADLINE_S = 500


class Claim(NamedTuple):
    """The folder that all pods see, and what lies in it."""

    folder: Path

    @property
    def run(self) -> Path:
        return self.folder / "runs" / "job"

    @property
    def settings(self) -> list[str]:
        return ["kubernetes.image=none", f"kubernetes.mount={self.folder}"]


@pytest.fixture
def claim(tmp_path: Path) -> Claim:
    folder = tmp_path / "claim"
    make_tiny_model(folder / "tiny")
    return Claim(folder)


def written(*command: str) -> list[dict[str, Any]]:
    """The objects of the file that a command writes."""
    assert main([*command]) == 0
    return list(yaml.safe_load_all(Path(command[command.index("--write-manifest") + 1]).read_text()))


def plain_variables(cluster: dict[str, Any]) -> dict[str, str]:
    (container,) = cluster["headGroupSpec"]["template"]["spec"]["containers"]
    return {one["name"]: one["value"] for one in container["env"] if "value" in one}


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Starts head and worker with the variables of a manifest; gives the dashboard's address."""
    from ray.cluster_utils import Cluster

    started: list[Cluster] = []

    def start(cluster: dict[str, Any]) -> str:
        assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        keys = f'[[keys]]\nname = "a"\nsha256 = "{hash_key(KEY)}"'
        token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN, KEYS_VARIABLE: keys}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        for name, value in {**plain_variables(cluster), **token, "PATH": path}.items():
            monkeypatch.setenv(name, value)
        local = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": True, "dashboard_port": 0}
        )
        started.append(local)
        local.add_node(num_cpus=2)
        return f"http://{local.head_node.webui_url}"

    yield start
    for local in started:
        local.shutdown()


def ask(url: str, body: Any = None, *, method: str = "GET", bearer: str = TOKEN) -> Any:
    headers = {"Authorization": f"Bearer {bearer}", "Content-Type": "application/json"}
    data = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(
        urllib.request.Request(url, data, headers, method=method, unverifiable=True), timeout=60
    ) as answer:
        return json.loads(answer.read() or b"null")


def wait_until(what: str, url: str, states: Any) -> None:
    """Until `states` of the answer are all in order."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        found = states(ask(url))
        if all(state in ("SUCCEEDED", "RUNNING_APP") for state in found):
            return
        assert "FAILED" not in found and "DEPLOY_FAILED" not in found, f"{what}: {ask(url)}"
        assert time.monotonic() < deadline, f"{what}: {found}"
        time.sleep(1)


def test_a_manifest_is_run_to_the_end_and_its_students_are_served(claim: Claim, nodes: Any, tmp_path: Path) -> None:
    def answer(number: int, body: dict[str, Any]) -> Reply:
        return 200, completion("It is 1. \\boxed{1}")

    target = str(tmp_path / "manifest.yaml")
    with chat_server(answer) as server:
        recipe = recipe_of(claim.folder, server.url)
        (tmp_path / "job.json").write_text(json.dumps(recipe))
        files, job = written(
            "submit",
            str(tmp_path / "job.json"),
            "--run-dir",
            str(claim.run),
            "--write-manifest",
            target,
            *claim.settings,
        )
        (tmp_path / "files").mkdir()
        for name, text in files["data"].items():
            (tmp_path / "files" / name).write_text(text)
        address = nodes(job["spec"]["rayClusterSpec"])
        entrypoint = job["spec"]["entrypoint"].replace(FILES, str(tmp_path / "files"))
        with pytest.raises(urllib.error.HTTPError, match="401"):
            ask(f"{address}/api/jobs/", bearer="wrong")
        body = {"entrypoint": entrypoint, "metadata": job["spec"]["metadata"], "submission_id": job["metadata"]["name"]}
        ask(f"{address}/api/jobs/", body, method="POST")
        wait_until("job", f"{address}/api/jobs/{job['metadata']['name']}", lambda info: [info["status"]])
    assert all(RunDir(str(claim.run)).read_manifest(stage) for stage in STAGES)

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (service,) = written("serve", str(claim.run), "--port", str(port), "--write-manifest", target, *claim.settings)
    ask(f"{address}/api/serve/applications/", yaml.safe_load(service["spec"]["serveConfigV2"]), method="PUT")
    names = {"RUNNING": "RUNNING_APP"}
    wait_until(
        "service",
        f"{address}/api/serve/applications/",
        lambda info: [names.get(one["status"], one["status"]) for one in info["applications"].values()] or ["NONE"],
    )
    url = f"http://127.0.0.1:{port}/v1"
    assert {one["id"] for one in ask(f"{url}/models", bearer=KEY)["data"]} == {"tiny", "tiny@short"}
    question = {"model": "tiny@short", "messages": [{"role": "user", "content": "What is 3 - 2?"}], "max_tokens": 4}
    assert ask(f"{url}/chat/completions", question, method="POST", bearer=KEY)["usage"]["completion_tokens"] > 0
    with pytest.raises(urllib.error.HTTPError, match="401"):
        ask(f"{url}/models", bearer="wrong")
