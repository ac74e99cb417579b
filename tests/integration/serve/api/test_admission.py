"""A real engine behind the door: keys, limits, reasoning and its budget, clients that leave, a replica that dies."""

import json
import random
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import openai
import psutil
import pytest

from serve.api.limits import Limits
from serve.api.reasoning_parser import Delimiters
from serve.client import model_card, served_models, stream_chat
from serve.config import Endpoint, ServeConfig
from serve.dataset_client import BatchConfig
from serve.deploy import deploy, undeploy
from serve.errors import ServeError
from serve.file_client import Target, answer_file
from serve.keys import Key, hash_key
from serve.smoke_check import SmokeCheck, run_smoke_checks
from tests.fixtures.malformed import malformed_requests
from tests.fixtures.tiny_models import make_tiny_model

SECRET = "sk-distill-test"
AT_ONCE = 4
QUESTION = [{"role": "user", "content": "What is 3 + 4?"}]
MODEL = "tiny@long"
CONFIG = ServeConfig(
    port=0,
    max_model_len=2048,
    max_num_seqs=AT_ONCE,
    max_ongoing_requests=AT_ONCE,
    kv_cache_gib=0.1,
    cpus_per_engine=0.1,
    keys=[
        Key(name="all", sha256=hash_key(SECRET)),
        Key(name="none", sha256=hash_key("other"), models=["another"]),
    ],
    limits=Limits(max_output_tokens=1500),
)


@pytest.fixture(scope="module")
def url(prepared_ray: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A tiny model that reasons from its first token on, and never stops by itself."""
    model = make_tiny_model(tmp_path_factory.mktemp("serve") / "model", seed=1)
    yield deploy([Endpoint(name=MODEL, source=str(model), reasoning=Delimiters(is_open=True))], CONFIG)
    undeploy()


def client(url: str, key: str = SECRET, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{url}/v1", api_key=key, **{"max_retries": 0, "timeout": 60.0} | options)


def create(url: str, *, key: str = SECRET, extra: dict[str, Any] | None = None, **options: Any) -> Any:
    options = {"max_tokens": 24, "temperature": 0.0, "seed": 0, "messages": QUESTION, "model": MODEL} | options
    return client(url, key).chat.completions.create(extra_body={"ignore_eos": True, **(extra or {})}, **options)


def test_keys_decide_which_models_may_be_used(url: str) -> None:
    with pytest.raises(openai.AuthenticationError, match="API key"):
        create(url, key="wrong")
    with pytest.raises(openai.PermissionDeniedError, match="may not use"):
        create(url, key="other")
    with pytest.raises(ServeError, match="DISTILL_API_KEY"):
        served_models(url)
    assert served_models(url, SECRET)[MODEL]["reasoning_end"] == "</think>"
    assert served_models(url, "other") == {}, "a key's own models"
    with pytest.raises(openai.PermissionDeniedError, match="may not use"):
        client(url, "other").models.retrieve(MODEL)
    with pytest.raises(openai.NotFoundError, match="/v1/models"):
        create(url, model="nope")
    assert client(url).models.retrieve(MODEL).id == MODEL


def test_page_health_and_nothing_else_are_open(url: str) -> None:
    assert "Playground" in httpx.get(url).text
    assert httpx.get(f"{url}/health").json() == {"status": "ok"}
    assert httpx.get(f"{url}/docs").status_code == 404
    foreign = httpx.get(f"{url}/health", headers={"host": "evil.example"})
    assert foreign.status_code == 403


def test_an_engines_refusal_is_passed_on_and_reveals_nothing_of_the_server(url: str) -> None:
    with pytest.raises(openai.BadRequestError, match="context length") as refused:
        create(url, messages=[{"role": "user", "content": "9" * 5000}])
    with pytest.raises(openai.BadRequestError, match="context length"):
        create(url, messages=[{"role": "user", "content": "9" * 5000}], stream=True)
    assert "/" not in refused.value.message and "ray" not in refused.value.message.lower()
    with pytest.raises(openai.BadRequestError, match="at most 1500"):
        create(url, max_tokens=1501)


def test_the_whole_protocol_that_students_need_is_there(url: str) -> None:
    answer = create(url, max_tokens=5, logprobs=True, top_logprobs=2, n=2, temperature=1.0)
    assert len(answer.choices) == 2 and answer.usage.completion_tokens == 10
    assert len(answer.choices[0].logprobs.content[0].top_logprobs) == 2
    text = client(url).completions.create(model=MODEL, prompt=["1", "2"], max_tokens=3, temperature=0.0, seed=0)
    assert len(text.choices) == 2


def streamed(url: str, **options: Any) -> tuple[str, str, Any]:
    """Reasoning, content and usage of a stream."""
    reasoning, content, usage = "", "", None
    for chunk in create(url, stream=True, stream_options={"include_usage": True}, **options):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            reasoning += getattr(choice.delta, "reasoning_content", None) or ""
            content += choice.delta.content or ""
    return reasoning, content, usage


def test_reasoning_is_kept_apart_streamed_or_not(url: str) -> None:
    message = create(url).choices[0].message
    reasoning, content, usage = streamed(url)
    assert (reasoning, content) == (message.reasoning_content, message.content)
    assert len(reasoning) == 24 and content == "" and usage.completion_tokens == 24


@pytest.mark.parametrize("budget", [1, 10, 24, 1000])
def test_reasoning_ends_with_its_budget_and_an_answer_follows(url: str, budget: int) -> None:
    whole = create(url, extra={"thinking_budget": budget})
    message = whole.choices[0].message
    spent = min(budget, 24)
    # The tiny tokenizer has one token per character; the closing newline is ours.
    assert (
        message.reasoning_content.removesuffix("\n")
        == create(url, max_tokens=spent).choices[0].message.reasoning_content
    )
    assert len(message.content.strip("\n")) <= 24 - spent and bool(message.content) == (budget < 24)
    assert whole.choices[0].finish_reason == "length" and whole.usage.completion_tokens == 24
    reasoning, content, usage = streamed(url, extra={"thinking_budget": budget})
    assert (reasoning, content) == (message.reasoning_content, message.content)
    assert usage.completion_tokens == 24


def test_a_smoke_check_detects_other_weights(url: str) -> None:
    expected = create(url).choices[0].message.reasoning_content
    sampling = {"max_tokens": 24, "temperature": 0.0, "seed": 0}
    probe = SmokeCheck(MODEL, QUESTION, sampling, expected, Delimiters(is_open=True), "length")
    assert run_smoke_checks(url, [probe], SECRET)[MODEL] > 0.5
    with pytest.raises(ServeError, match=f"{MODEL} .*evaluate them again"):
        run_smoke_checks(url, [probe._replace(expected="the answer of another adapter")], SECRET)


def test_a_file_gets_one_line_per_row_and_only_failed_rows_are_sent_again(url: str, tmp_path: Path) -> None:
    source, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    rows: list[dict[str, Any]] = [{"problem": f"{number} + 1?", "number": number} for number in range(12)]
    rows[5] = {"messages": [{"role": "the king", "content": "?"}], "number": 5}
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    target = Target(
        url, MODEL, model_card(url, MODEL, SECRET), {"max_tokens": 4, "temperature": 0.0, "seed": 0}, SECRET
    )
    seen: list[int] = []
    for expected_first in (0, 11):
        seen.clear()
        found = answer_file(source, out, target, BatchConfig(max_in_flight=3), lambda done, _: seen.append(done))
        answered = [json.loads(line) for line in out.read_text().splitlines()]
        assert found == (12, 12 - expected_first, 1) and [row["number"] for row in answered] == list(range(12))
        assert "400" in answered[5]["error"] and all(row["reasoning"] for row in answered if not row["error"])
        assert seen[0] == expected_first


def test_above_capacity_requests_are_refused_and_disconnected_clients_release_their_slots(url: str) -> None:
    streams = [create(url, stream=True, max_tokens=1500) for _ in range(AT_ONCE)]
    kept, *left = [(stream, next(iter(stream))) for stream in streams]
    with pytest.raises(openai.RateLimitError, match="limit of open requests") as refused:
        create(url)
    assert int(refused.value.response.headers["retry-after"]) >= 1
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(lambda: sum(1 for _ in kept[0]))
        for stream, _ in left:
            stream.close()
        # The engine has four places in all: were the abandoned ones still held, they and the one that is
        # read would end together, and nobody would be answered before that.
        assert create_when_admitted(url).usage.completion_tokens == 4
        assert not reading.done(), "answered while the stream that is read still runs"
        assert reading.result() > 0


def create_when_admitted(url: str) -> Any:
    """Four tokens, asked for until there is a place."""
    while True:
        try:
            return create(url, max_tokens=4)
        except openai.RateLimitError:
            time.sleep(0.05)


def test_a_slow_reader_does_not_delay_others(url: str) -> None:
    unread = create(url, stream=True, max_tokens=1500)
    assert create(url, max_tokens=4).usage.completion_tokens == 4, "it would end with the client's timeout"
    unread.close()


class Outcome(NamedTuple):
    """What twice the capacity met."""

    num_answered: int
    num_refused: int
    slowest_refusal_s: float  # held against the client's timeout, not against a speed


def load(url: str, num_clients: int, seconds: float) -> Outcome:
    """Clients that ask again as soon as they are answered, or told to come again."""
    deadline = time.monotonic() + seconds

    def work(number: int) -> tuple[int, list[float]]:
        answered, refusals = 0, []
        body = {"model": MODEL, "messages": QUESTION, "max_tokens": 64, "seed": number, "ignore_eos": True}
        with httpx.Client(headers={"authorization": f"Bearer {SECRET}"}, timeout=60) as http:
            while time.monotonic() < deadline:
                started = time.monotonic()
                response = http.post(f"{url}/v1/chat/completions", json=body)
                assert response.status_code in (200, 429), response.text
                if response.status_code == 429:
                    refusals.append(time.monotonic() - started)
                    assert response.headers["retry-after"]
                    time.sleep(0.2)
                else:
                    answered += 1
        return answered, refusals

    with ThreadPoolExecutor(num_clients) as pool:
        found = list(pool.map(work, range(num_clients)))
    refusals = [wait for _, waits in found for wait in waits]
    return Outcome(sum(count for count, _ in found), len(refusals), max(refusals, default=0.0))


def test_at_twice_its_capacity_the_endpoint_answers_or_refuses_and_never_fails(url: str) -> None:
    outcome = load(url, 2 * AT_ONCE, 10.0)
    assert outcome.num_answered > 10 and outcome.num_refused > 0 and outcome.slowest_refusal_s < 30


@pytest.mark.long
def test_the_endpoint_survives_five_minutes_at_twice_its_capacity(url: str) -> None:
    outcome = load(url, 2 * AT_ONCE, 300.0)
    print(outcome)
    assert outcome.num_answered > 300 and outcome.num_refused > 0 and outcome.slowest_refusal_s < 5


@pytest.mark.long
def test_two_thousand_malformed_requests_get_4xx_and_the_endpoint_survives(url: str) -> None:
    statuses: dict[int, int] = {}
    address = url.removeprefix("http://").split(":")
    with httpx.Client(base_url=url, timeout=30) as http:
        for request in malformed_requests(random.Random(7), 2000, model=MODEL, key=SECRET):
            if isinstance(request, bytes):
                status = send_raw((address[0], int(address[1])), request)
            else:
                status = http.request(**request).status_code
            assert 400 <= status < 500, (status, request)
            statuses[status] = statuses.get(status, 0) + 1
    print(statuses)
    assert sum(statuses.values()) == 2000 and len(statuses) >= 5
    assert create(url, max_tokens=4).usage.completion_tokens == 4


def send_raw(address: tuple[str, int], data: bytes) -> int:
    """The status that comes back for bytes that are no HTTP; 400 if the server just hangs up."""
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        first = connection.recv(100)
    return int(first.split()[1]) if first.startswith(b"HTTP/") else 400


def test_no_log_holds_a_key_or_a_question(url: str, prepared_ray: Path) -> None:
    marker = "the question of 4711 sheep"
    create(url, messages=[{"role": "user", "content": marker}], max_tokens=4)
    with pytest.raises(openai.BadRequestError):
        create(url, messages=[{"role": "user", "content": marker}], max_tokens=0)
    texts = {path.name: path.read_text(errors="replace") for path in prepared_ray.rglob("*") if path.is_file()}
    assert any("/v1/chat/completions" in text for text in texts.values()), "the right logs are read"
    assert not [name for name, text in texts.items() if SECRET in text or marker in text]


def replica() -> psutil.Process:
    """The engine's replica; Ray names its processes by actor."""
    children = psutil.Process().children(recursive=True)
    titles = {process: " ".join(process.cmdline()) for process in children}
    return next(process for process, title in titles.items() if "ServeReplica:" in title and "engine:" in title)


def test_a_killed_replica_breaks_only_streams_that_had_begun(url: str) -> None:
    # The last test: the engine takes a minute to come back.
    begun = create(url, stream=True, max_tokens=1500)
    next(iter(begun))
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(
            client(url, timeout=300.0).chat.completions.create,
            model=MODEL,
            messages=QUESTION,
            max_tokens=1400,
            temperature=0.0,
            seed=0,
            extra_body={"ignore_eos": True},
        )
        time.sleep(0.5)
        victim = replica()
        orphans = victim.children(recursive=True)
        victim.kill()
        with pytest.raises(openai.APIError, match="replica was lost"):
            for _ in begun:
                pass
        assert waiting.result().usage.completion_tokens == 1400, "nothing was sent of it yet: asked again"
    assert "".join(piece.text for piece in stream_chat(url, MODEL, QUESTION, api_key=SECRET, max_tokens=4))
    assert not [process for process in orphans if process.is_running() and process.status() != psutil.STATUS_ZOMBIE]
