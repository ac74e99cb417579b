"""Teachers behind other people's endpoints: what is sent, what comes back, and what an error is worth. Without Ray."""

import asyncio
import dataclasses
import pickle
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from distill.config.identity import fingerprint, source_identity
from distill.config.teachers import EndpointTeacher
from distill.core.errors import InputError
from distill.generate import endpoint_teacher
from distill.generate.ask_policy import edit_number
from distill.generate.asker import Completion, RequestFailed, RequestRefused
from distill.generate.endpoint_teacher import EndpointActor, ask_endpoint, long_wait_s, refused_field, to_completion
from distill.generate.pools import build_request, endpoint_params, sent_sampling
from distill.models.api_key import ApiKey
from distill.run.pools import Pool
from tests.fixtures.chat_server import ChatServer, Reply, chat_server, completion
from tests.fixtures.teacher_jobs import LocalHandle, job, pool

OPENAI = {"token_limit_field": "max_completion_tokens", "omit_sampling": ("temperature", "top_p")}


def teacher(**fields: Any) -> EndpointTeacher:
    known = {"name": "remote", "style": "long", "base_url": "http://127.0.0.1:1/v1", "remote_model": "remote-1"}
    return EndpointTeacher.model_validate({**known, **fields})


def ask(folder: Path, reply: Reply, **fields: Any) -> tuple[Completion, ChatServer]:
    """One completion, over HTTP."""

    async def run(server: ChatServer) -> Completion:
        one = teacher(base_url=server.url, **fields)
        pool = Pool(one, one.base_url, "fingerprint")
        actor = EndpointActor(job(folder, [pool], LocalHandle()), ApiKey("key"))
        return await actor.write(build_request("p", pool, 0, 1), pool, "2 + 2 =")

    with chat_server(lambda number, body: reply) as server:
        return asyncio.run(run(server)), server


def refusal(message: str, status: int = 400, **fields: Any) -> Reply:
    return status, {"error": {"message": message, "type": "invalid_request_error", **fields}}


def test_a_model_that_takes_neither_max_tokens_nor_temperature_can_be_asked(tmp_path: Path) -> None:
    extra = {"reasoning_effort": "high", "chat_template_kwargs": {"enable_thinking": False}}
    found, server = ask(tmp_path, (200, completion("4")), sampling={"max_tokens": 99}, extra_body=extra, **OPENAI)
    (body,) = server.requests
    assert found.text == "4"
    assert body["max_completion_tokens"] == 99 and body["reasoning_effort"] == "high"
    assert body["chat_template_kwargs"] == {"enable_thinking": False}
    assert not body.keys() & {"max_tokens", "temperature", "top_p", "extra_body"}


def test_an_endpoint_of_this_machine_is_asked_past_a_proxy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert ask(tmp_path, (200, completion("4")))[0].text == "4"


def test_traces_say_how_they_were_sampled_and_only_what_decides_them_makes_a_new_pool() -> None:
    plain, changed = teacher(), teacher(extra_body={"top_k": 4}, **OPENAI)
    assert endpoint_params(plain, 3) == {"temperature": 0.7, "top_p": 1.0, "max_tokens": 4096, "seed": 3}
    assert sent_sampling(changed) == {"max_tokens": 4096, "stop": (), "extra_body": {"top_k": 4}}

    def pool(one: EndpointTeacher) -> str:
        return fingerprint(one, source_identity(one))

    assert pool(plain) == pool(teacher(omit_sampling=(), extra_body={}, token_limit_field="max_completion_tokens"))
    assert len({pool(plain), pool(changed), pool(teacher(extra_body={"top_k": 5})), pool(teacher(**OPENAI))}) == 4


@pytest.mark.parametrize(
    ("reply", "fields", "option"),
    [
        (
            refusal("Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens' "
                    "instead.", param="max_tokens", code="unsupported_parameter"),
            {}, 'token_limit_field = "max_completion_tokens"',
        ),
        (refusal("Unsupported value: 'temperature' does not support 0.7 with this model.", param="temperature"),
         {}, 'add "temperature" to omit_sampling'),
        (refusal("`temperature` and `top_p` cannot both be specified for this model"), {}, 'add "top_p"'),
        (refusal("temperature is deprecated for this model"), {}, 'add "temperature"'),
        ((422, {"detail": [{"loc": ["body", "seed"], "msg": "Extra inputs are not permitted"}]}),
         {}, "sends_seed = false"),
        (refusal("Unrecognized request argument supplied: max_completion_tokens"), OPENAI, '= "max_tokens"'),
        (refusal("Unknown parameter: 'chat_template_kwargs'."), {"extra_body": {"chat_template_kwargs": {}}},
         "remove 'chat_template_kwargs' from extra_body"),
    ],
)  # fmt: skip
def test_a_field_that_a_provider_refuses_stops_the_run_with_the_option_to_set(
    tmp_path: Path, reply: Reply, fields: dict[str, Any], option: str
) -> None:
    with pytest.raises(InputError, match=r"teachers\[remote\]: .* -> ") as raised:
        ask(tmp_path, reply, **fields)
    assert option in str(raised.value)


@pytest.mark.parametrize(
    "message",
    [
        "max_tokens is too large: 99999. This model supports at most 16384 completion tokens",
        "This model's maximum context length is 4096 tokens",
        "Invalid prompt: a temperature of unknown size is not allowed",
        "Unknown error in {'temperature': 0.7, 'top_p': 1.0, 'max_tokens': 9, 'seed': 1}",
    ],
)
def test_other_refusals_are_of_one_request(tmp_path: Path, message: str) -> None:
    assert refused_field(teacher(), message) == ""
    with pytest.raises(RequestRefused):
        ask(tmp_path, refusal(message))


def asked_to_read(folder: Path, read: str, reply: Reply, **fields: Any) -> tuple[Completion, dict[str, Any]]:
    """One edit, over HTTP: what came of it, and the body of the request."""

    async def run(server: ChatServer) -> Completion:
        one, base = teacher(base_url=server.url, reads="base", **fields), pool("base")
        far = Pool(one, one.base_url, "fingerprint")
        actor = EndpointActor(job(folder, [base, far], LocalHandle(), mine=[far]), ApiKey("key"))
        request = build_request("p", far, edit_number("00000000000000a1", 0), 1)
        return await actor.write(dataclasses.replace(request, read=read), far, "2 + 2 =")

    with chat_server(lambda number, body: reply) as server:
        return asyncio.run(run(server)), server.requests[0]


def test_an_endpoint_reads_the_trace_in_its_template(tmp_path: Path) -> None:
    chat = {"template": "{problem} Shorten: {trace}"}
    found, body = asked_to_read(tmp_path, "It is {problem}.", (200, completion("4")), chat=chat)
    assert body["messages"] == [{"role": "user", "content": "2 + 2 = Shorten: It is {problem}."}]
    assert (found.text, found.given) == ("4", 0)


@pytest.mark.parametrize("text", [" is it?</think>4", "<think>\n is it?</think>4"])
def test_an_endpoint_that_can_goes_on_from_what_was_read(tmp_path: Path, text: str) -> None:
    """A server that knows the marks may send the opening that it was given, or not."""
    extra = {"continue_final_message": True, "add_generation_prompt": False}
    found, body = asked_to_read(tmp_path, "It is 4.", (200, completion(text)), continues="Wait,", extra_body=extra)
    begun = "<think>\nIt is 4.\n\nWait,"
    assert body["messages"][-1] == {"role": "assistant", "content": begun}
    assert (body["continue_final_message"], body["add_generation_prompt"]) == (True, False)
    assert (found.text, found.given) == (f"{begun} is it?</think>4", len(begun))


def reply(content: Any, finish_reason: Any = "stop", usage: bool = True, **message: Any) -> Any:
    choice = SimpleNamespace(message=SimpleNamespace(content=content, **message), finish_reason=finish_reason)
    tokens = SimpleNamespace(prompt_tokens=3, completion_tokens=None if usage is None else 5)
    return SimpleNamespace(choices=[choice], usage=tokens if usage else None, model="remote-1")


def test_a_reply_in_parts_with_an_end_of_another_name_is_a_trace(tmp_path: Path) -> None:
    body = completion("", "end_turn")
    body["choices"][0]["message"]["content"] = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "4"}]
    found, _ = ask(tmp_path, (200, body))
    assert (found.text, found.finish_reason) == ("<think>\nhm\n</think>\n\n4", "stop")


def test_reasoning_without_an_answer_at_the_limit_is_a_truncated_trace() -> None:
    found = to_completion(reply(None, "max_tokens", reasoning="hm, so"))
    assert (found.text, found.finish_reason, found.completion_tokens) == ("<think>\nhm, so", "length", 5)
    assert to_completion(reply("4", usage=False)).completion_tokens == 0


@pytest.mark.parametrize("one", [reply("", "content_filter"), reply(None, "SAFETY"), reply(None, refusal="I cannot")])
def test_what_is_declined_is_not_paid_for_again(one: Any) -> None:
    with pytest.raises(RequestRefused, match="declined"):
        to_completion(one)


@pytest.mark.parametrize(
    "one", [reply("4", None), reply("", "error"), reply("", "tool_calls"), SimpleNamespace(choices=None), "no JSON"]
)
def test_what_is_no_whole_reply_is_asked_again(one: Any) -> None:
    with pytest.raises(RequestFailed, match="malformed"):
        to_completion(one)


@pytest.mark.parametrize(
    ("reply", "fields", "remedy"),
    [
        (refusal("no such key", 401), {"api_key_env": "FAR_KEY"}, "asked with the key in FAR_KEY: export one"),
        (refusal("who are you?", 401), {}, "no key (api_key_env is not set)"),
        (refusal("pay first", 402), {"api_key_env": "FAR_KEY"}, "the account behind the key in FAR_KEY has no credit"),
        (refusal("quota", 429, code="insufficient_quota"), {}, "has no credit"),
        (refusal("not for you", 403), {"api_key_env": "FAR_KEY"}, "asked for 'remote-1' with the key in FAR_KEY"),
        (refusal("no such model", 404), {}, "check base_url (up to and including /v1) and remote_model 'remote-1'"),
    ],
)
def test_an_endpoint_that_takes_none_of_our_requests_ends_the_stage_with_the_remedy(
    tmp_path: Path, reply: Reply, fields: dict[str, Any], remedy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.001)
    with pytest.raises(InputError, match=r"teachers\[remote\]: http://127\.0\.0\.1:\d+/v1 answers 4") as raised:
        ask(tmp_path, reply, **fields)
    assert remedy in str(raised.value) and "the same command goes on" in str(raised.value)


def test_a_prompt_that_a_router_flags_is_refused_alone(tmp_path: Path) -> None:
    with pytest.raises(RequestRefused):
        ask(tmp_path, refusal("Your input was flagged by moderation", 403))


def actor_of(folder: Path, server: ChatServer, **fields: Any) -> tuple[EndpointActor, Pool]:
    one = teacher(base_url=server.url, **fields)
    far = Pool(one, one.base_url, "fingerprint")
    return EndpointActor(job(folder, [far], LocalHandle()), ApiKey("key")), far


def test_a_wait_that_an_endpoint_asks_for_is_kept_by_all_requests_and_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    logged, clock = list[dict[str, Any]](), [0.0]

    async def sleep(seconds: float) -> None:
        clock[0] += seconds

    monkeypatch.setattr(endpoint_teacher, "log_event", lambda event, **about: logged.append({"event": event, **about}))
    monkeypatch.setattr(endpoint_teacher, "time", SimpleNamespace(monotonic=lambda: clock[0], time=lambda: 0.0))
    monkeypatch.setattr(endpoint_teacher.asyncio, "sleep", sleep)

    def answer(number: int, body: dict[str, Any]) -> Reply:
        return refusal("slow down", 429) if number == 1 else (200, completion("4"))

    async def run(server: ChatServer) -> Completion:
        actor, far = actor_of(tmp_path, server)
        return await actor.write(build_request("p", far, 0, 1), far, "2 + 2 =")

    with chat_server(answer) as server:
        server.headers = {"Retry-After": "90000"}
        assert asyncio.run(run(server)).text == "4"
    assert clock[0] == endpoint_teacher.MAX_WAIT_S, "an hour, then it is asked again"
    assert [one["asked_s"] for one in logged] == [90000.0] and len(server.requests) == 2


def test_an_endpoint_that_never_ends_its_waits_fails_the_request(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(endpoint_teacher, "MAX_WAIT_S", 0.001)

    async def run(server: ChatServer) -> Completion:
        actor, far = actor_of(tmp_path, server)
        return await actor.write(build_request("p", far, 0, 1), far, "2 + 2 =")

    with chat_server(lambda number, body: refusal("slow down", 503)) as server:
        server.headers = {"Retry-After": "600"}
        with pytest.raises(RequestFailed):
            asyncio.run(run(server))
    assert len(server.requests) == endpoint_teacher.MAX_WAITS + 1


def test_waits_are_read_in_seconds_and_as_dates_and_short_ones_are_the_clients() -> None:
    assert [long_wait_s({"retry-after": text}) for text in ("121", "120", "soon", "inf")] == [121.0, 0.0, 0.0, 0.0]
    assert long_wait_s({}) == 0.0 and long_wait_s({"retry-after": "Mon, 30 Nov 2099 07:00:00 GMT"}) > 1e9


def test_a_reply_that_only_keeps_the_connection_open_runs_into_the_timeout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("openai._base_client.INITIAL_RETRY_DELAY", 0.001)

    async def run(server: ChatServer) -> Completion:
        actor, far = actor_of(tmp_path, server, timeout_s=0.3)
        return await actor.write(build_request("p", far, 0, 1), far, "2 + 2 =")

    with chat_server(lambda number, body: (200, completion("4"))) as server:
        server.drip_s = 0.1  # each far below the timeout, 0.5 s in all
        with pytest.raises(RequestFailed):
            asyncio.run(run(server))


def test_the_key_is_in_no_environment_and_in_no_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAR_KEY", "sk-secret")
    one = teacher(api_key_env="FAR_KEY")
    given = dict[str, Any]()

    class Chunks:
        def map_batches(self, actor: type, **how: Any) -> None:
            given.update(how)

    ask_endpoint(Chunks(), job(tmp_path, [Pool(one, one.base_url, "f")], LocalHandle()))  # type: ignore[arg-type]
    key = given["fn_constructor_args"][1]
    assert key.value == "sk-secret" and pickle.loads(pickle.dumps(key)).value == "sk-secret"
    assert "sk-secret" not in repr(given) and "sk-secret" not in str(key) and not dataclasses.is_dataclass(key)
