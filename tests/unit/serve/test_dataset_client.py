"""How a row becomes a request, and an answer or a failure becomes columns. No server and no Ray."""

import asyncio
from types import SimpleNamespace
from typing import Any

import httpx
import openai
import pyarrow as pa

from serve.dataset_client import OUTPUT_FIELDS, BatchConfig, Sender, own_words, request_arguments, to_answer

MESSAGES = [{"role": "user", "content": "1 + 1 ="}]


class FakeClient:
    """Answers with the prompt; refuses what is too long; counts requests in flight."""

    def __init__(self) -> None:
        self.in_flight = self.peak = 0
        self.chat = SimpleNamespace(completions=SimpleNamespace(create=self.create))

    async def create(self, **arguments: Any) -> SimpleNamespace:
        self.in_flight += 1
        self.peak = max(self.peak, self.in_flight)
        await asyncio.sleep(0.001)
        self.in_flight -= 1
        text = arguments["messages"][0]["content"]
        if len(text) > 100:
            request = httpx.Request("POST", "http://test")
            raise openai.BadRequestError("too long", response=httpx.Response(400, request=request), body=None)
        choice = SimpleNamespace(message=SimpleNamespace(content=text), finish_reason="stop")
        return SimpleNamespace(choices=[choice], usage=SimpleNamespace(prompt_tokens=3, completion_tokens=4))


def send(rows: list[dict[str, Any]], max_in_flight: int = 4) -> tuple[list[dict[str, Any]], FakeClient]:
    async def run() -> pa.Table:
        sender = Sender("http://test", BatchConfig(max_in_flight=max_in_flight))
        sender._client = client  # type: ignore[assignment]  # a fake
        return await sender(pa.Table.from_pylist(rows))

    client = FakeClient()
    return asyncio.run(run()).to_pylist(), client


def row(text: str, **sampling: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": text}], "sampling": {"seed": 1, **sampling}}


def test_every_row_comes_back_in_order_and_a_refused_one_with_its_reason() -> None:
    answers, _ = send([row("a"), row("b" * 200), row("c")])
    assert [answer["completion"] for answer in answers] == ["a", "", "c"]
    assert [answer["error"] for answer in answers] == ["", "BadRequestError 400: too long", ""]
    assert answers[0]["prompt_tokens"] == 3 and answers[1]["completion_tokens"] == 0


def test_requests_in_flight_stay_within_the_window() -> None:
    _, client = send([row(str(i)) for i in range(40)], max_in_flight=5)
    assert client.peak == 5


def test_columns_keep_their_types_when_every_row_failed() -> None:
    async def run() -> pa.Table:
        sender = Sender("http://test", BatchConfig())
        sender._client = FakeClient()  # type: ignore[assignment]  # a fake
        return await sender(pa.Table.from_pylist([row("x" * 200)]))

    schema = asyncio.run(run()).schema
    assert [schema.field(field.name).type for field in OUTPUT_FIELDS] == [field.type for field in OUTPUT_FIELDS]


def test_absent_sampling_is_left_out_and_vllm_options_travel_in_the_body() -> None:
    arguments = request_arguments(
        {"model": "m", "messages": MESSAGES, "sampling": {"seed": 7, "top_k": 5, "top_p": None, "min_p": None}}
    )
    assert arguments == {"model": "m", "messages": MESSAGES, "seed": 7, "extra_body": {"top_k": 5}}


def test_a_row_without_sampling_uses_the_server_defaults() -> None:
    assert request_arguments({"model": "m", "messages": MESSAGES, "sampling": None}) == {
        "model": "m",
        "messages": MESSAGES,
    }


def test_other_servers_replies_fill_the_same_columns() -> None:
    message = SimpleNamespace(content=[{"type": "text", "text": "4"}], reasoning="hm")
    choice = SimpleNamespace(message=message, finish_reason="max_tokens")
    found = to_answer(SimpleNamespace(choices=[choice], usage=None))
    assert (found.completion, found.reasoning, found.finish_reason, found.error) == ("4", "hm", "length", "")
    assert "no choices; overloaded" in to_answer(SimpleNamespace(choices=None, error="overloaded")).error


def test_a_row_that_is_no_request_is_an_error_of_that_row() -> None:
    rows = [row("a"), {**row("b"), "messages": []}, {**row("c"), "sampling": {"stream": True}}, row("d")]
    answers, _ = send(rows)
    assert [answer["completion"] for answer in answers] == ["a", "", "", "d"]
    assert "at least one turn" in answers[1]["error"] and "may not have stream" in answers[2]["error"]


def test_a_refusal_is_told_in_the_servers_own_words() -> None:
    request = httpx.Request("POST", "http://test")
    refusal = openai.APIStatusError(
        "Error code: 422 - {'message': 'n: at most 16'}",
        response=httpx.Response(422, request=request),
        body={"message": "n: at most 16", "code": "invalid_field"},
    )
    assert own_words(refusal) == "n: at most 16"
    refusal.body = "<html>"
    assert own_words(refusal).startswith("Error code: 422")
