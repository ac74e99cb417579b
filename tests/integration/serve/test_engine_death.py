"""The engine's process dies, as when memory runs out: requests wait for another, people are told, nothing stays."""

import os
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import openai
import psutil
import pytest

from cluster.leftovers import SCRATCH_VARIABLE, semaphores_of
from serve.config import Endpoint, ServeConfig, group_engines
from serve.deploy import deploy, undeploy
from serve.watch import EngineWatch
from tests.fixtures.tiny_models import make_tiny_model

pytestmark = pytest.mark.long

CONFIG = ServeConfig(port=0, max_model_len=1024, max_num_seqs=4, kv_cache_gib=0.1, cpus_per_engine=0.1)
QUESTION: Any = [{"role": "user", "content": "What is 3 + 4?"}]


class Served(NamedTuple):
    url: str
    watch: EngineWatch
    told: list[str]
    scratch: Path
    of_the_dead: set[str]
    """Files of the engine that was killed, which nothing but the end of the folder removes."""


@pytest.fixture(scope="module")
def served(prepared_ray: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    model = make_tiny_model(tmp_path_factory.mktemp("death") / "model", seed=1)
    endpoints, told = [Endpoint(name="tiny", source=str(model))], list[str]()
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="death-") as scratch:
        patch.setenv(SCRATCH_VARIABLE, scratch)
        url = deploy(endpoints, CONFIG)
        yield Served(url, EngineWatch(group_engines(endpoints), told.append), told, Path(scratch), set())
        undeploy()


def ask(url: str, tokens: int) -> Any:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0, timeout=300.0)
    options: dict[str, Any] = {"temperature": 0.0, "seed": 0, "extra_body": {"ignore_eos": True}}
    return client.chat.completions.create(model="tiny", messages=QUESTION, max_tokens=tokens, **options)


def engine_process() -> psutil.Process:
    """The process that computes; vLLM names it."""
    children = psutil.Process().children(recursive=True)
    return next(child for child in children if "EngineCore" in " ".join(child.cmdline()))


def test_requests_wait_for_another_engine_and_the_loss_is_told(served: Served) -> None:
    before = ask(served.url, 8).choices[0].message.content
    with ThreadPoolExecutor(3) as pool:
        begun = pool.submit(ask, served.url, 900)
        time.sleep(0.5)
        assert not begun.done()
        served.of_the_dead.update(os.listdir(served.scratch))
        engine_process().kill()
        started = time.monotonic()
        later = [pool.submit(ask, served.url, 8) for _ in range(2)]
        while not all(answer.done() for answer in (begun, *later)) and time.monotonic() < started + 300:
            served.watch.look()
            time.sleep(1.0)
        assert begun.result().usage.completion_tokens == 900, "nothing was sent of it yet: asked again"
        assert [answer.result().choices[0].message.content for answer in later] == [before] * 2
    print(f"\nanswered {time.monotonic() - started:.1f} s after the engine's process was killed")
    deadline = time.monotonic() + 60
    while len(served.told) < 2 and time.monotonic() < deadline:
        served.watch.look()
        time.sleep(1.0)
    assert "the engine of tiny was lost" in served.told[0] and "is back after" in served.told[1]


def test_a_stopped_engine_leaves_no_file_socket_or_semaphore(served: Served) -> None:
    # The last test: it stops the engine.
    ask(served.url, 4)
    used = semaphores_of(psutil.Process())

    def left() -> list[str]:
        files = set(os.listdir(served.scratch)) - served.of_the_dead
        return sorted([*files, *(str(path) for path in used if path.exists())])

    assert left(), "the engine's sockets are where they are looked for"
    undeploy()
    deadline = time.monotonic() + 30
    while left() and time.monotonic() < deadline:
        time.sleep(0.5)
    assert left() == []
