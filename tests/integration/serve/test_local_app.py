"""The web application of `distill chat` is the endpoint's: modes, end tokens and reasoning, on a fake engine.

No engine's core and no Ray here; `tests/integration/ops/publish/test_same_answers.py` has both.
"""

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import ray
from fastapi.testclient import TestClient

from serve.api.reasoning_parser import Delimiters
from serve.app import build_llm_config
from serve.config import Endpoint, ServeConfig, group_engines
from serve.engines.local_engine import LocalEngine, LocalHandle
from serve.local_app import local_app

PIECES = ("<think>\nI cou", "nt.\n</th", "ink>\n\n4", " it is")
ENDPOINT = Endpoint(
    name="tiny@long",
    source="somewhere/model",
    metadata={"modes": {"long": "Think.", "short": "Be brief."}},
    reasoning=Delimiters(),
    stop_token_ids=(3,),
)


class FakeEngine:
    """Answers every chat with the same pieces; keeps what it was asked, and whether a stream was left early."""

    def __init__(self) -> None:
        self.asked: list[Any] = []
        self.num_closed = 0

    async def chat(self, request: Any, raw_request_info: Any = None) -> AsyncGenerator[str, None]:
        self.asked.append(request)
        try:
            for number, text in enumerate(PIECES):
                ended = "stop" if number == len(PIECES) - 1 else None
                choice = {"index": 0, "delta": {"content": text}, "finish_reason": ended}
                yield f"data: {json.dumps({'id': 'x', 'choices': [choice]})}\n\n"
            yield "data: [DONE]\n\n"
        finally:
            self.num_closed += 1


@pytest.fixture
def engine() -> FakeEngine:
    return FakeEngine()


@pytest.fixture
def client(engine: FakeEngine) -> TestClient:
    app = local_app(ENDPOINT, ServeConfig(max_model_len=64), LocalHandle(engine))  # type: ignore[arg-type]
    return TestClient(app, base_url="http://127.0.0.1")


def events(text: str) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line.startswith("data: {")]
    return [json.loads(line) for line in lines]


def test_it_lists_its_model_and_starts_no_ray(client: TestClient) -> None:
    (card,) = client.get("/v1/models").json()["data"]
    assert (card["id"], card["max_model_len"]) == ("tiny@long", 64)
    assert card["metadata"]["modes"] == {"long": "Think.", "short": "Be brief."}
    assert client.get("/health").json() == {"status": "ok"}
    assert not ray.is_initialized()


def test_a_chat_is_prepared_and_split_as_at_the_endpoint(client: TestClient, engine: FakeEngine) -> None:
    turns = [{"role": "user", "content": "2 + 2?"}]
    body = {"model": "tiny@long", "messages": turns, "mode": "short", "stream": True, "max_tokens": 9}
    answer = client.post("/v1/chat/completions", json=body)
    deltas = [event["choices"][0]["delta"] for event in events(answer.text)]
    assert "".join(delta.get("reasoning_content") or "" for delta in deltas).strip() == "I count."
    assert "".join(delta.get("content") or "" for delta in deltas) == "4 it is"
    (asked,) = engine.asked
    assert [dict(turn) for turn in asked.messages] == [{"role": "system", "content": "Be brief."}, *turns]
    assert asked.stop_token_ids == [3] and asked.max_tokens == 9
    assert engine.num_closed == 1


def test_a_wrong_request_has_the_endpoints_error(client: TestClient, engine: FakeEngine) -> None:
    body = {"model": "tiny@long", "messages": [{"role": "user", "content": "2?"}], "mode": "slow"}
    answer = client.post("/v1/chat/completions", json=body)
    assert answer.status_code == 400 and "no mode 'slow'" in answer.json()["error"]["message"]
    assert engine.asked == []


class FakeClient:
    """In the place of vLLM's asynchronous engine: keeps its settings, and computes nothing."""

    errored = False
    made: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, **settings: Any) -> None:
        self.made.append(settings)

    async def get_supported_tasks(self) -> tuple[str, ...]:
        return ("generate",)

    async def check_health(self) -> None:
        return None

    def shutdown(self, timeout: float) -> None:
        self.made.clear()


async def fake_app_state(client: FakeClient, *, state: Any, **settings: Any) -> None:
    state.openai_serving_models = SimpleNamespace(lora_requests={}, load_lora_adapter=None)


def test_an_engine_is_made_without_a_cluster(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vllm.v1.engine.async_llm.AsyncLLM", FakeClient)
    monkeypatch.setattr("vllm.entrypoints.openai.api_server.init_app_state", fake_app_state)
    (spec,) = group_engines([Endpoint(name="tiny", source=str(model))])

    async def start_and_stop() -> dict[str, Any]:
        engine = LocalEngine(build_llm_config(spec, ServeConfig(max_model_len=64, kv_cache_gib=0.1)))
        await engine.start()
        (settings,) = FakeClient.made
        await engine.shutdown()
        return settings

    settings = asyncio.run(start_and_stop())
    config = settings["vllm_config"]
    assert config.parallel_config.distributed_executor_backend == "uni"
    assert (config.model_config.model, config.model_config.max_model_len) == (str(model), 64)
    assert settings["stat_loggers"] is None, "Ray's metrics need a cluster"
    assert not ray.is_initialized() and FakeClient.made == []
