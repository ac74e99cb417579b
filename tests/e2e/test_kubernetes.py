"""What KubeRay's operator would do with our manifests, on a Ray cluster of two nodes of this machine: no Kubernetes.

The head has no CPU and the token is asked for. The variables of the pods are set, ConfigMap and claim are folders. The
job is submitted by HTTP and the Serve config is sent to the dashboard, as the operator does both.
"""

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from cluster.kuberay.manifest import FILES
from distill.cli.main import main
from distill.core.run_dir import RunDir, StageName
from serve.key_variables import KEYS_VARIABLE
from serve.keys import hash_key
from tests.fixtures.chat_server import Reply, chat_server, completion
from tests.fixtures.endpoint_run import submitted_recipe
from tests.fixtures.tiny_models import make_tiny_model

pytestmark = pytest.mark.long

TOKEN = "0" * 64
KEY = "sk-distill-test"
START_S = 90


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


@contextmanager
def nodes(cluster: dict[str, Any], folder: Path) -> Iterator[str]:
    """Head and worker with the variables of a manifest; the dashboard's address."""
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    environment = {**os.environ, **plain_variables(cluster), **of_this_machine()}
    port, dashboard = free_port(), free_port()
    head = ["--head", "--num-cpus=0", f"--port={port}", f"--dashboard-port={dashboard}"]
    head += [f"--ray-client-server-port={free_port()}"]
    worker = [f"--address=127.0.0.1:{port}", "--num-cpus=2"]
    address = f"http://127.0.0.1:{dashboard}"
    with node(head, environment, folder / "head.log"):
        wait_until(version("ray"), f"{address}/api/version", lambda info: str(info["ray_version"]), START_S)
        with node(worker, environment, folder / "worker.log"):
            summary = f"{address}/nodes?view=summary"
            wait_until("2", summary, lambda info: str(len(info["data"]["summary"])), START_S)
            yield address


@contextmanager
def node(options: Sequence[str], environment: dict[str, str], log: Path) -> Iterator[None]:
    """`ray start` as the operator runs it; its processes go when it does."""
    command = [str(Path(sys.executable).with_name("ray")), "start", "--block", "--node-ip-address=127.0.0.1", *options]
    with log.open("w") as output:
        # A session of its own: `ray start` ends with its whole process group.
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


def of_this_machine() -> dict[str, str]:
    """What the Secret, the operator and the image would bring; kernels that are compiled already; and, since both nodes
    are one machine, another port for the worker's proxy."""
    kernels = next(iter(Path.home().glob(".cache/torch_extensions/*")), Path.home() / ".cache" / "torch_extensions")
    return {
        KEYS_VARIABLE: f'[[keys]]\nname = "a"\nsha256 = "{hash_key(KEY)}"',
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": TOKEN,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "TORCH_EXTENSIONS_DIR": str(kernels),
        "VLLM_CACHE_ROOT": str(Path.home() / ".cache" / "vllm"),
        "RAY_SERVE_WORKER_PROXY_HTTP_PORT": str(free_port()),
    }


def free_port() -> int:
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        return int(holder.getsockname()[1])


def ask(url: str, body: Any = None, *, method: str = "GET", bearer: str = TOKEN) -> Any:
    headers = {"Authorization": f"Bearer {bearer}", "Content-Type": "application/json"}
    request = urllib.request.Request(url, json.dumps(body).encode() if body else None, headers, method=method)
    with urllib.request.urlopen(request, timeout=120) as answer:
        return json.loads(answer.read() or b"null")


def wait_until(wanted: str, url: str, status: Callable[[Any], str], most_s: float = 500) -> None:
    """Until the status in an answer is the wanted one."""
    deadline, found, answer = time.monotonic() + most_s, "", None
    while found != wanted:
        assert "FAILED" not in found and time.monotonic() < deadline, f"{url}: {answer}"
        time.sleep(1)
        with suppress(urllib.error.URLError, ConnectionError):  # the dashboard starts
            answer = ask(url)
            found = status(answer)


def test_a_manifest_is_run_to_the_end_and_its_students_are_served(claim: Claim, tmp_path: Path) -> None:
    run_job(claim, tmp_path)
    assert all(RunDir(str(claim.run)).read_manifest(stage) for stage in StageName)
    serve_students(claim, tmp_path)


def run_job(claim: Claim, folder: Path) -> None:
    def answer(number: int, body: dict[str, Any]) -> Reply:
        return 200, completion("It is 1. \\boxed{1}")

    recipe = folder / "job.json"
    with chat_server(answer) as server:
        recipe.write_text(json.dumps(submitted_recipe(claim.folder, server.url)))
        target = str(folder / "job.yaml")
        command = ["submit", str(recipe), "--run-dir", str(claim.run), "--write-manifest", target]
        files, job = written(*command, *claim.settings)
        for name, text in files["data"].items():
            (folder / name).write_text(text)
        spec, name = job["spec"], job["metadata"]["name"]
        entrypoint = spec["entrypoint"].replace(FILES, str(folder))
        with nodes(spec["rayClusterSpec"], folder) as address:
            with pytest.raises(urllib.error.HTTPError, match="403"):
                ask(f"{address}/api/jobs/", bearer="wrong")
            body = {"entrypoint": entrypoint, "metadata": spec["metadata"], "submission_id": name}
            ask(f"{address}/api/jobs/", body, method="POST")
            wait_until("SUCCEEDED", f"{address}/api/jobs/{name}", lambda info: str(info["status"]))


def serve_students(claim: Claim, folder: Path) -> None:
    port, target = free_port(), str(folder / "service.yaml")
    command = ["serve", str(claim.run), "--port", str(port), "--write-manifest", target]
    (service,) = written(*command, *claim.settings)
    with nodes(service["spec"]["rayClusterConfig"], folder) as address:
        applications = f"{address}/api/serve/applications/"
        ask(applications, yaml.safe_load(service["spec"]["serveConfigV2"]), method="PUT")
        wait_until("RUNNING", applications, lambda info: str(info["applications"]["students"]["status"]))
        url = f"http://127.0.0.1:{port}/v1"
        assert {one["id"] for one in ask(f"{url}/models", bearer=KEY)["data"]} == {"tiny", "tiny@short"}
        turns = [{"role": "user", "content": "What is 3 - 2?"}]
        body = {"model": "tiny@short", "messages": turns, "max_tokens": 4}
        answer = ask(f"{url}/chat/completions", body, method="POST", bearer=KEY)
        assert answer["usage"]["completion_tokens"] > 0
        with pytest.raises(urllib.error.HTTPError, match="401"):
            ask(f"{url}/models", bearer="wrong")
