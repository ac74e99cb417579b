"""The life of a deployment, as `serve deploy` starts it: engines that start with the first question and stop when they
are idle, and an update to newer weights under load."""

import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import openai
import pytest

from serve.client import served_models
from serve.config import APP, ENGINE_PREFIX, Endpoint, ServeConfig
from serve.config_file import config_file
from serve.deploy import base_url, free_port
from tests.fixtures.tiny_models import make_tiny_model

pytestmark = pytest.mark.long

AT_ONCE = 4
START_DEADLINE_S = 240.0
QUESTION: Any = [{"role": "user", "content": "What is 3 + 4?"}]
SETTINGS = ServeConfig(
    port=0,
    max_model_len=1024,
    max_num_seqs=AT_ONCE,
    max_ongoing_requests=AT_ONCE,
    kv_cache_gib=0.1,
    cpus_per_engine=0.1,
    downscale_to_zero_delay_s=5.0,
)


class Deployment(NamedTuple):
    """What is deployed at first, and where."""

    folder: Path
    config: ServeConfig

    def apply(self, weights: str) -> None:
        """What `serve deploy FILE` does, without the dashboard."""
        from ray.serve.context import _get_global_client
        from ray.serve.schema import ServeDeploySchema

        endpoints = [
            Endpoint(name="tiny@mix", source=str(self.folder / weights), metadata={"run": weights}),
            Endpoint(name="rare", source=str(self.folder / "rare"), on_demand=True),
        ]
        _get_global_client().deploy_apps(ServeDeploySchema.model_validate(config_file(endpoints, self.config)))

    @property
    def url(self) -> str:
        """Base URL."""
        return base_url(self.config)


@pytest.fixture(scope="module")
def deployment(prepared_ray: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    from ray import serve as ray_serve

    folder = tmp_path_factory.mktemp("life")
    for seed, name in enumerate(("first", "second", "rare"), 1):
        make_tiny_model(folder / name, seed=seed)
    found = Deployment(folder, SETTINGS.model_copy(update={"port": free_port(SETTINGS)}))
    ray_serve.start(http_options={"host": found.config.host, "port": found.config.port})
    found.apply("first")
    until(lambda: app_status().status == "RUNNING" and "tiny@mix" in served_models(found.url))
    yield found
    ray_serve.delete(APP)


def until(condition: Callable[[], bool], deadline_s: float = START_DEADLINE_S) -> float:
    """Seconds until it holds."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < deadline_s, "it did not come true"
        assert app_status().status != "DEPLOY_FAILED", app_status().message
        time.sleep(0.2)
    return time.monotonic() - started


def app_status() -> Any:
    from ray import serve as ray_serve

    return ray_serve.status().applications[APP]


def replicas(engine: str) -> dict[str, int]:
    return dict(app_status().deployments[ENGINE_PREFIX + engine].replica_states)


def ask(url: str, model: str, tokens: int, seed: int = 0, **options: Any) -> Any:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=START_DEADLINE_S)
    return client.chat.completions.create(
        model=model,
        messages=QUESTION,
        max_tokens=tokens,
        temperature=0.0,
        seed=seed,
        extra_body={"ignore_eos": True},
        **options,
    )


def test_an_engine_on_demand_starts_for_a_bounded_queue_and_stops_when_idle(deployment: Deployment) -> None:
    assert replicas("rare") == {} and set(served_models(deployment.url)) == {"tiny@mix", "rare"}
    started = time.monotonic()
    with ThreadPoolExecutor(AT_ONCE + 2) as pool:
        waiting = [pool.submit(ask, deployment.url, "rare", 4) for _ in range(AT_ONCE)]
        time.sleep(1.0)
        with pytest.raises(openai.RateLimitError):
            ask(deployment.url, "rare", 4)
        assert not any(answer.done() for answer in waiting), "no place to wait: told before anyone was answered"
        assert ask(deployment.url, "tiny@mix", 4).usage.completion_tokens == 4, "others are answered meanwhile"
        assert all(answer.result().usage.completion_tokens == 4 for answer in waiting)
    print(f"\nfirst answer after a start from nothing: {time.monotonic() - started:.1f} s")
    print(f"stopped {until(lambda: replicas('rare') == {}, 60.0):.1f} s after the last answer")


class Load:
    """Clients that ask without a pause, streamed and whole, and notice every failure."""

    def __init__(self, url: str) -> None:
        self.faults: list[str] = []
        self.answers: Counter[str] = Counter()
        self.slowest_s = 0.0
        self._url, self._stopped = url, threading.Event()

    def ask_on(self, streamed: bool) -> None:
        """Until `stop`."""
        while not self._stopped.is_set():
            started = time.monotonic()
            try:
                self.answers[self._streamed() if streamed else self._whole()] += 1
            except (openai.APIError, AssertionError) as error:
                self.faults.append(repr(error))
            self.slowest_s = max(self.slowest_s, time.monotonic() - started)

    def stop(self) -> None:
        self._stopped.set()

    def _whole(self) -> str:
        return str(ask(self._url, "tiny@mix", 16).choices[0].message.content)

    def _streamed(self) -> str:
        """The beginning of a stream of some seconds."""
        text, tokens = "", 0
        for chunk in ask(self._url, "tiny@mix", 900, stream=True, stream_options={"include_usage": True}):
            text += chunk.choices[0].delta.content or "" if chunk.choices else ""
            tokens = chunk.usage.completion_tokens if chunk.usage else tokens
        assert tokens == 900, f"a stream ended after {tokens} tokens"
        return text[:16]


def test_an_update_to_newer_weights_fails_no_request(deployment: Deployment) -> None:
    load = Load(deployment.url)
    old = load._whole()
    with ThreadPoolExecutor(2) as pool:
        clients = [pool.submit(load.ask_on, streamed) for streamed in (True, False)]
        deployment.apply("second")
        took = until(lambda: app_status().status == "RUNNING" and replicas("tiny-mix") == {"RUNNING": 1})
        until(lambda: len(load.answers) == 2)
        new = load._whole()
        before = load.answers[new]
        until(lambda: load.answers[new] > before + 5)
        load.stop()
        for client in clients:
            client.result()
    print(f"\nupdate: {took:.1f} s, {load.answers.total()} answers, slowest {load.slowest_s:.1f} s")
    assert load.faults == [] and set(load.answers) == {old, new} and old != new
    assert served_models(deployment.url)["tiny@mix"]["run"] == "second"


def test_open_requests_are_finished_before_an_endpoint_stops(deployment: Deployment) -> None:
    from ray import serve as ray_serve

    stream = ask(deployment.url, "tiny@mix", 900, stream=True, stream_options={"include_usage": True})
    next(iter(stream))
    with ThreadPoolExecutor(1) as pool:
        stopping = pool.submit(ray_serve.delete, APP)
        tokens = [chunk.usage.completion_tokens for chunk in stream if chunk.usage]
        stopping.result()
    assert tokens == [900]
