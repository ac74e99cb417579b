"""What the ingress makes of an engine's answers, deaths and errors: Ray's router replaced by a script. No engine."""

import asyncio
import json
import pickle
import random
from collections.abc import AsyncGenerator, Callable
from typing import Any

import httpx
import pytest
from ray.exceptions import ActorDiedError
from ray.llm._internal.serve.core.configs.openai_api_models import (
    ChatCompletionRequest,
    ChatCompletionResponse,
    CompletionRequest,
    CompletionResponse,
    DetokenizeResponse,
    ErrorInfo,
    ErrorResponse,
    TokenizeChatRequest,
    TokenizeResponse,
)
from ray.llm._internal.serve.core.ingress.utils import _sanitize_chat_completion_request
from ray.serve.exceptions import BackPressureError
from ray.serve.llm.ingress import OpenAiIngress

from serve.api import ingress
from serve.api.admission import AdmissionSettings
from serve.api.http_errors import APIError
from serve.api.ingress import Ingress
from serve.api.limits import Limits
from serve.api.reasoning_parser import Delimiters, format_event, parse_events
from serve.api.request_schema import check_request
from serve.config import Endpoint
from serve.keys import Key, hash_key
from serve.proxy_settings import HeaderFilter
from tests.fixtures.malformed import malformed_requests
from tests.fixtures.request_cases import PATHS, case_name, request_cases

FIELDS = {"model": "m", "messages": [{"role": "user", "content": "?"}], "max_tokens": 30}
MODES: dict[str, Any] = {"modes": {"long": "Think.", "short": "Be brief."}}
PROMPT = [1, 2, 3]
"""The token ids of every prompt; those of a text are its code points."""
THOUGHT = ["<think>", "a", " b", "</thi", "nk>", "\n\n", "4", "2"]


def event(text: str, finish: str | None = None, **more: Any) -> str:
    choice = {"index": 0, "delta": {"content": text}, "finish_reason": finish}
    return format_event({"id": "x", "choices": [choice], **more})


def usage(tokens: int) -> str:
    return format_event({"id": "x", "choices": [], "usage": {"prompt_tokens": 3, "completion_tokens": tokens}})


def whole(text: str, tokens: int, finish: str = "stop") -> ChatCompletionResponse:
    message = {"role": "assistant", "content": text}
    return ChatCompletionResponse(
        model="m",
        choices=[{"index": 0, "message": message, "finish_reason": finish}],
        usage={"prompt_tokens": 3, "completion_tokens": tokens, "total_tokens": 3 + tokens},
    )


def continued(text: str, tokens: int, finish: str = "stop") -> CompletionResponse:
    """An engine's whole answer to a continued prompt."""
    return CompletionResponse(
        model="m",
        choices=[{"index": 0, "text": text, "finish_reason": finish}],
        usage={"prompt_tokens": 3, "completion_tokens": tokens, "total_tokens": 3 + tokens},
    )


def piece(text: str, finish: str | None = None, **more: Any) -> str:
    """An event of a continued prompt's stream."""
    choice = {"index": 0, "text": text, "finish_reason": finish}
    return format_event({"id": "y", "object": "text_completion", "choices": [choice], **more})


def text_behind_prompt(body: Any) -> str:
    """The text that a continued request goes on from."""
    assert body.prompt[: len(PROMPT)] == PROMPT
    return "".join(map(chr, body.prompt[len(PROMPT) :]))


def tokenized(body: Any, call_method: str, prompt_end: str) -> Any:
    if call_method == "detokenize":
        return DetokenizeResponse(prompt=prompt_end)
    ids = PROMPT if isinstance(body, TokenizeChatRequest) else [ord(letter) for letter in body.prompt]
    return TokenizeResponse(tokens=ids, count=len(ids), max_model_len=100)


def failing(*items: Any) -> Callable[[Any], Any]:
    """A router that yields the items, and raises those that are exceptions."""

    async def answer(body: Any) -> AsyncGenerator[Any, None]:
        for item in items:
            if isinstance(item, Exception):
                raise item
            yield item

    return answer


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Put one request to an ingress whose router answers in turn as scripted; returns items and what was asked."""

    async def no_wait(seconds: float) -> None:
        return None

    def start(
        *turns: Any,
        delimiters: Delimiters | None = None,
        prompt_end: str | None = None,
        others: tuple[str, ...] = (),
        is_evaluation: bool = False,
        **fields: Any,
    ) -> tuple[list[Any], list[Any]]:
        asked: list[Any] = []
        answers = iter(turns)
        endpoints = [
            Endpoint(
                name=name,
                source=name,
                metadata=MODES,
                reasoning=delimiters,
                opens_reasoning=prompt_end is not None,
                reasoning_in_content=is_evaluation,
            )
            for name in ("m", *others)
        ]

        async def scripted(self: Any, *, body: Any, call_method: str, raw_request: Any = None) -> Any:
            if call_method in ("tokenize", "detokenize"):
                yield tokenized(body, call_method, prompt_end or "")
                return
            asked.append(body)
            async for item in next(answers)(body):
                yield item

        monkeypatch.setattr(OpenAiIngress, "_get_response", scripted)
        monkeypatch.setattr(ingress.asyncio, "sleep", no_wait)
        router = Ingress({}, {}, endpoints=endpoints, max_retries=2)
        sent = FIELDS | fields

        class Request:
            async def body(self) -> bytes:
                return json.dumps(sent).encode()

        async def collect() -> list[Any]:
            stream = router._get_response(body=ChatCompletionRequest(**sent), call_method="chat", raw_request=Request())
            return [item async for item in stream]

        return asyncio.run(collect()), asked

    return start


def text_of(items: list[Any]) -> tuple[str, str]:
    deltas = [
        choice["delta"]
        for item in items
        for part in item
        for e in parse_events(part)
        for choice in e.get("choices", ())
    ]
    return "".join(d.get("reasoning_content", "") for d in deltas), "".join(d.get("content") or "" for d in deltas)


def died() -> ActorDiedError:
    return ActorDiedError()


def test_a_request_without_a_sent_token_is_retried(run: Callable[..., Any]) -> None:
    items, asked = run(failing(died()), failing(died()), failing(whole("4", 1)))
    assert len(asked) == 3 and items[0].choices[0].message.content == "4"


def test_a_mode_becomes_the_line_that_the_student_was_trained_with(run: Callable[..., Any]) -> None:
    turns = [{"role": "system", "content": "Answer."}, {"role": "user", "content": "?"}]
    for mode, system in {"short": "Answer.\nBe brief.", "auto": "Answer."}.items():
        _, (body,) = run(failing(whole("4", 1)), messages=turns, mode=mode)
        assert body.messages[0]["content"] == system
        assert "mode" not in (body.model_extra or {})
    _, (body,) = run(failing(whole("4", 1)), mode="long")
    assert [dict(turn)["role"] for turn in body.messages] == ["system", "user"]
    with pytest.raises(APIError, match="long, short"):
        run(failing(whole("4", 1)), mode="medium")


def test_a_dead_engine_that_answers_in_words_counts_as_dead(run: Callable[..., Any]) -> None:
    dead = ErrorResponse(
        error=ErrorInfo(message="EngineCore encountered an issue", type="InternalServerError", code=500)
    )
    items, asked = run(failing(dead), failing(['data: {"error": {"code": 500}}\n\n']), failing([event("4", "stop")]))
    assert len(asked) == 3 and text_of(items) == ("", "4")


def test_a_stream_that_has_begun_ends_with_an_error_and_is_not_begun_again(run: Callable[..., Any]) -> None:
    items, asked = run(failing([event("4")], died()))
    assert len(asked) == 1
    (error,) = parse_events(items[-1][0])
    assert error["error"]["code"] == "replica_lost"


def test_after_the_last_attempt_the_answer_is_retry_after(run: Callable[..., Any]) -> None:
    with pytest.raises(APIError) as refused:
        run(*[failing(died())] * 3)
    assert refused.value.status == 503 and refused.value.retry_after_s > 0


def test_an_error_of_the_request_is_passed_on_and_not_tried_again(run: Callable[..., Any]) -> None:
    bad = ErrorResponse(error=ErrorInfo(message="too long", type="BadRequestError", code=400, param="messages"))
    with pytest.raises(APIError, match="too long") as refused:
        run(failing(bad), failing(whole("4", 1)))
    assert (refused.value.status, refused.value.param) == (400, "messages")


def test_a_refused_stream_gives_the_reason_even_where_reasoning_is_split_off(run: Callable[..., Any]) -> None:
    bad = ErrorResponse(error=ErrorInfo(message="too long", type="BadRequestError", code=400))
    with pytest.raises(APIError, match="too long"):
        run(failing([bad]), delimiters=Delimiters(), stream=True)
    with pytest.raises(APIError, match="too long") as refused:
        run(failing([bad]), delimiters=Delimiters(), stream=True, thinking_budget=5)
    assert refused.value.status == 400


def test_back_pressure_is_a_503(run: Callable[..., Any]) -> None:
    with pytest.raises(APIError) as refused:
        run(failing(BackPressureError(num_queued_requests=1, max_queued_requests=1)))
    assert refused.value.status == 503


def test_a_stream_is_split_as_it_comes(run: Callable[..., Any]) -> None:
    pieces = [[event(text)] for text in THOUGHT]
    items, _ = run(failing(*pieces, ["data: [DONE]\n\n"]), delimiters=Delimiters(), stream=True)
    assert text_of(items) == ("a b", "42") and items[-1] == ["data: [DONE]\n\n"]


def test_a_whole_answer_is_split(run: Callable[..., Any]) -> None:
    items, _ = run(failing(whole("".join(THOUGHT), 8)), delimiters=Delimiters())
    message = items[0].model_dump()["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("a b", "42")


def test_a_spent_budget_has_the_reasoning_closed_and_the_answer_written(run: Callable[..., Any]) -> None:
    turns = failing(whole("<think>a b", 5, "length")), failing(continued("42", 2))
    items, asked = run(*turns, delimiters=Delimiters(), thinking_budget=5)
    answer = items[0].model_dump()
    message = answer["choices"][0]["message"]
    assert (message["reasoning_content"], message["content"]) == ("a b\n", "42")
    assert answer["choices"][0]["finish_reason"] == "stop" and answer["usage"]["completion_tokens"] == 7
    assert (asked[0].max_tokens, asked[1].max_tokens) == (5, 25)
    assert text_behind_prompt(asked[1]) == "<think>a b\n</think>\n\n", "behind the prompt: no turn is rendered again"


def test_a_spent_budget_in_a_stream_leaves_one_stream(run: Callable[..., Any]) -> None:
    first = failing([event("<think>a")], [event(" b")], [event("", "length")], [usage(5)], ["data: [DONE]\n\n"])
    second = failing([piece("4")], [piece("2", "stop")], [usage(2)], ["data: [DONE]\n\n"])
    counted = {"include_usage": True}
    items, _ = run(first, second, delimiters=Delimiters(), thinking_budget=5, stream=True, stream_options=counted)
    assert text_of(items) == ("a b\n", "42")
    events = [found for item in items for part in item for found in parse_events(part)]
    finishes = [choice["finish_reason"] for found in events for choice in found["choices"] if choice["finish_reason"]]
    assert finishes == ["stop"], "the first end is not the end"
    assert [found["usage"]["completion_tokens"] for found in events if found.get("usage")] == [7]


def test_a_budget_that_is_not_spent_costs_nothing(run: Callable[..., Any]) -> None:
    items, asked = run(failing(whole("<think>a</think>4", 5)), delimiters=Delimiters(), thinking_budget=20)
    assert len(asked) == 1 and items[0].choices[0].message.content == "4"


HELP = {"model": "large", "triggers": ["Wait"], "step_tokens": 4}


def test_a_helpers_step_is_part_of_the_one_answer_whole_or_streamed(run: Callable[..., Any]) -> None:
    goes = (whole("<think>a Wait", 5), continued(", no.\n\n", 3), continued("b</think>42", 4))
    items, asked = run(*map(failing, goes), delimiters=Delimiters(), speculative=HELP)
    answer = items[0].model_dump()
    message = answer["choices"][0]["message"]
    assert [body.model for body in asked] == ["m", "large", "m"] and answer["model"] == "m"
    assert (message["reasoning_content"], message["content"]) == ("a Wait, no.\n\nb", "42")
    assert (answer["usage"]["completion_tokens"], answer["usage"]["helper_tokens"]) == (12, 3)
    done = ["data: [DONE]\n\n"]
    streams = [
        failing([event("<think>a")], [event(" Wait", "stop", model="m")], [usage(5)], done),
        failing([piece(", no.\n\n", "stop", model="large")], [usage(3)], done),
        failing([piece("b</think>")], [piece("42", "stop", model="m")], [usage(4)], done),
    ]
    items, _ = run(*streams, delimiters=Delimiters(), speculative=HELP, stream=True)
    assert text_of(items) == ("a Wait, no.\n\nb", "42")
    events = [found for item in items for part in item for found in parse_events(part)]
    finishes = [choice["finish_reason"] for found in events for choice in found["choices"] if choice["finish_reason"]]
    assert finishes == ["stop"] and not any(found.get("usage") for found in events), "nobody asked for the usage"


def test_a_segment_that_does_not_fit_the_context_ends_the_answer(run: Callable[..., Any]) -> None:
    full = ErrorResponse(error=ErrorInfo(message="context length", type="BadRequestError", code=400))
    items, _ = run(failing(whole("a Wait", 5)), failing(full), delimiters=Delimiters(), speculative=HELP)
    choice = items[0].model_dump()["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == ("a Wait", "length")
    with pytest.raises(APIError, match="context length"):
        run(failing(full), delimiters=Delimiters(), speculative=HELP)


DONE = ["data: [DONE]\n\n"]
SHARE = {"model": "large", "share": 0.5}
GERMAN = {"name": "de"}  # as admission passes "de" on


def message_of(items: list[Any]) -> tuple[str | None, str]:
    message = items[0].model_dump()["choices"][0]["message"]
    return message.get("reasoning_content"), message["content"]


def test_an_opening_of_ours_is_part_of_the_one_answer_whole_or_streamed(run: Callable[..., Any]) -> None:
    german = "Okay, ich denke auf Deutsch darüber nach.\n"
    items, (asked,) = run(failing(continued("7</think>42", 4)), delimiters=Delimiters(), language=GERMAN)
    assert text_behind_prompt(asked) == f"<think>\n{german}" and message_of(items) == (f"{german}7", "42")
    answer = items[0].model_dump()
    assert (answer["object"], answer["usage"]["completion_tokens"]) == ("chat.completion", 4)
    stream = failing([piece("7</th")], [piece("ink>4")], [piece("2", "stop")], [usage(4)], DONE)
    items, _ = run(stream, delimiters=Delimiters(), language=GERMAN, stream=True)
    assert text_of(items) == (f"{german}7", "42")
    first = parse_events(items[0][0])[0]["choices"][0]["delta"]
    assert first["role"] == "assistant"
    items, (asked,) = run(failing(continued("42", 2)), delimiters=Delimiters(), think=False)
    assert text_behind_prompt(asked) == "<think>\n\n</think>\n\n" and message_of(items) == (None, "42")


def test_a_model_without_delimiters_can_be_given_a_language_but_no_empty_block(run: Callable[..., Any]) -> None:
    items, (asked,) = run(failing(continued("42", 2)), language={"name": "x", "opening": "Jo."})
    assert text_behind_prompt(asked) == "Jo.\n" and message_of(items) == (None, "Jo.\n42")
    for field in ({"think": False}, {"extend": {"times": 1}}, {"end_bias": 1}, {"share": SHARE}):
        with pytest.raises(APIError, match="no reasoning"):
            run(failing(whole("4", 1)), **field)


@pytest.mark.parametrize(
    ("prompt_end", "inserted"),
    [("a\n<think>\n", "\n</think>\n\n"), ("a\n<think>\n\n</think>\n\n", ""), ("a\n", "<think>\n\n</think>\n\n")],
)
def test_an_empty_block_is_written_as_far_as_the_prompt_has_not(
    run: Callable[..., Any], prompt_end: str, inserted: str
) -> None:
    turn = continued("42", 2) if inserted else whole("42", 2)
    items, (asked,) = run(failing(turn), delimiters=Delimiters(), prompt_end=prompt_end, think=False)
    assert message_of(items) == (None, "42")
    assert not inserted or text_behind_prompt(asked) == inserted


def stopped_at(response: Any, text: str) -> Any:
    response.choices[0].stop_reason = text
    return response


def test_a_cue_takes_the_place_of_the_end_whole_or_streamed(run: Callable[..., Any]) -> None:
    end, extend = "</think>", {"times": 1, "cue": "Hm"}
    turns = failing(stopped_at(whole("<think>a", 5), end)), failing(continued(" b</think>42", 4))
    items, asked = run(*turns, delimiters=Delimiters(), extend=extend)
    assert message_of(items) == ("a\nHm b", "42") and items[0].usage.completion_tokens == 9
    assert asked[0].stop == [end] and not asked[1].stop and text_behind_prompt(asked[1]) == "<think>a\nHm"
    last = event("", "stop").replace('"finish_reason"', f'"stop_reason": "{end}", "finish_reason"')
    streams = failing([event("<think>a")], [last], [usage(5)], DONE), failing([piece(" b</think>42", "stop")], DONE)
    items, _ = run(*streams, delimiters=Delimiters(), extend=extend, stream=True)
    assert text_of(items) == ("a\nHm b", "42")


def test_a_helpers_draft_is_not_sent_but_its_share_is(run: Callable[..., Any]) -> None:
    draft = failing(whole("<think>\none two three four", 8)), failing(continued("five</think>42", 4))
    items, asked = run(*draft, delimiters=Delimiters(), share=SHARE, others=("large",))
    assert [body.model for body in asked] == ["large", "m"] and items[0].model == "m"
    assert text_behind_prompt(asked[1]) == "<think>\none two" and message_of(items) == ("one twofive", "42")
    assert (items[0].usage.completion_tokens, items[0].usage.model_extra["helper_tokens"]) == (12, 8)
    streams = (
        failing([event("<think>\none two")], [event(" three four", "stop")], [usage(8)], DONE),
        failing([piece("five</think>4")], [piece("2", "stop")], [usage(4)], DONE),
    )
    items, _ = run(*streams, delimiters=Delimiters(), share=SHARE, others=("large",), stream=True)
    assert text_of(items) == ("one twofive", "42")


def test_a_bias_needs_an_end_of_one_token(run: Callable[..., Any]) -> None:
    one = Delimiters(start="(", end=")")
    turns = failing(stopped_at(whole("(a)", 3), ")")), failing(continued("42", 2))
    items, asked = run(*turns, delimiters=one, end_bias=5)
    assert asked[0].logit_bias == {str(ord(")")): 5.0} and not asked[1].logit_bias and message_of(items) == ("a", "42")
    with pytest.raises(APIError, match="</think> is 8 tokens of this model"):
        run(failing(whole("4", 1)), delimiters=Delimiters(), end_bias=5)


def test_an_evaluation_gets_the_reasoning_within_the_text(run: Callable[..., Any]) -> None:
    turns = failing(whole("<think>a b", 5, "length")), failing(continued("42", 2))
    items, _ = run(*turns, delimiters=Delimiters(), thinking_budget=5, is_evaluation=True)
    assert message_of(items) == (None, "<think>a b\n</think>\n\n42")


@pytest.mark.parametrize(
    ("prompt_end", "text", "expected"),
    [
        ("assistant\n<think>\n", "a\n</think>\n\n42", ("a\n", "42")),
        ("assistant\n<think>\n\n</think>\n\n", "42", (None, "42")),
        ("assistant\n<think></think>", "42", (None, "42")),
        ("assistant\n<think>\n", "It is 42.", (None, "It is 42.")),
    ],
)
def test_whether_the_reasoning_is_open_is_read_from_the_rendered_prompt(
    run: Callable[..., Any], prompt_end: str, text: str, expected: tuple[str | None, str]
) -> None:
    sent = {"chat_template_kwargs": {"enable_thinking": True}}
    items, (asked,) = run(failing(whole(text, 5)), delimiters=Delimiters(), prompt_end=prompt_end, **sent)
    message = items[0].model_dump()["choices"][0]["message"]
    assert (message.get("reasoning_content"), message["content"]) == expected
    assert asked.chat_template_kwargs == {"enable_thinking": True}


CALL = '<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call>'
TOOLS = [{"type": "function", "function": {"name": "add"}}]
KNOWN = "Call add between <tool_call> and </tool_call>.\nassistant\n"


def test_calls_are_split_off_behind_the_reasoning_whole_or_streamed(run: Callable[..., Any]) -> None:
    turn = whole(f"<think>a</think>\n{CALL}", 9)
    items, (asked,) = run(failing(turn), delimiters=Delimiters(), prompt_end=KNOWN, tools=TOOLS)
    choice = items[0].model_dump()["choices"][0]
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"a": 1}'}
    assert choice["message"]["content"] is None and choice["message"]["reasoning_content"] == "a"
    assert choice["finish_reason"] == "tool_calls" and asked.tool_choice == "none" and asked.tools
    assert asked.response_format.type == "structural_tag"
    pieces = [[event(letter)] for letter in f"<think>a</think>\n{CALL}"]
    stream = failing(*pieces, [event("", "stop")], DONE)
    items, _ = run(stream, delimiters=Delimiters(), prompt_end=KNOWN, tools=TOOLS, stream=True)
    events = [found for item in items for part in item for found in parse_events(part)]
    deltas = [found["choices"][0]["delta"] for found in events]
    (call,) = [call for delta in deltas for call in delta.get("tool_calls", ())]
    assert call["function"]["name"] == "add" and text_of(items) == ("a", "")
    assert events[-1]["choices"][0]["finish_reason"] == "tool_calls"


def test_tools_that_the_template_does_not_show_are_refused(run: Callable[..., Any]) -> None:
    with pytest.raises(APIError, match="chat template of this model does not") as refused:
        run(failing(whole("4", 1)), prompt_end="assistant\n", tools=TOOLS)
    assert (refused.value.status, refused.value.param) == (400, "tools")


def test_a_second_end_of_the_reasoning_never_reaches_the_content(run: Callable[..., Any]) -> None:
    turns = failing(whole("<think>a b", 5, "length")), failing(continued("c\n</think>\n\n42", 2))
    items, _ = run(*turns, delimiters=Delimiters(), thinking_budget=5)
    assert message_of(items) == ("a b\n", "c\n\n\n42")
    first = failing([event("<think>a")], [event("", "length")], [usage(5)], DONE)
    second = failing([piece("c</th")], [piece("ink>42", "stop")], [usage(2)], DONE)
    items, _ = run(first, second, delimiters=Delimiters(), thinking_budget=5, stream=True)
    assert text_of(items) == ("a\n", "c42")


def test_reasoning_is_counted_and_may_be_left_out(run: Callable[..., Any]) -> None:
    items, _ = run(failing(whole("<think>abc</think>4", 9)), delimiters=Delimiters(), include_reasoning=False)
    answer = items[0].model_dump()
    assert answer["usage"]["completion_tokens_details"]["reasoning_tokens"] == 3
    assert message_of(items) == (None, "4")
    stream = failing([event("<think>abc</think>4")], [event("", "stop")], [usage(9)], DONE)
    items, _ = run(stream, delimiters=Delimiters(), stream=True)
    (counted,) = [e["usage"] for item in items for part in item for e in parse_events(part) if e.get("usage")]
    assert counted["completion_tokens_details"] == {"reasoning_tokens": 3}


def test_a_prefilled_opening_is_honoured(run: Callable[..., Any]) -> None:
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": "<think>\nWe add"}]
    told = {"messages": turns, "continue_final_message": True, "add_generation_prompt": False}
    items, _ = run(failing(whole(" 3</think>7", 4)), delimiters=Delimiters(), **told)
    assert message_of(items) == (" 3", "7")
    cut = failing(whole(" 3 and", 3, "length")), failing(continued("7", 1))
    items, asked = run(*cut, delimiters=Delimiters(), thinking_budget=3, **told)
    assert message_of(items) == (" 3 and\n", "7") and text_behind_prompt(asked[1]) == " 3 and\n</think>\n\n"


def test_a_constraint_holds_behind_the_reasoning(run: Callable[..., Any]) -> None:
    wanted = {"response_format": {"type": "json_object"}}
    _, (asked,) = run(failing(whole("<think>a</think>{}", 4)), delimiters=Delimiters(), **wanted)
    assert asked.response_format.type == "structural_tag"
    _, (asked,) = run(failing(whole("{}", 1)), **wanted)
    assert asked.response_format.type == "json_object"


@pytest.mark.parametrize("case", [case for case in request_cases() if case["status"] == 200], ids=case_name)
def test_vllm_takes_what_the_request_schema_lets_through(case: dict[str, Any]) -> None:
    fields = check_request(PATHS[case["path"]], json.dumps(case["body"]).encode(), Limits())
    kind = CompletionRequest if case["path"] == "completions" else ChatCompletionRequest
    built = kind(**fields)
    sent = built if kind is CompletionRequest else _sanitize_chat_completion_request(built)
    request = pickle.loads(pickle.dumps(sent))  # as Ray sends it to the engine
    sampling = request.to_sampling_params(16, {})
    seed = case["body"].get("seed")
    assert sampling.seed == (None if seed == -1 else seed), "-1 is vLLM's word for no seed"
    assert sampling.n == (case["body"].get("n") or 1)


def test_a_budget_without_reasoning_is_refused(run: Callable[..., Any]) -> None:
    with pytest.raises(APIError, match="no reasoning"):
        run(failing(whole("4", 1)), thinking_budget=5)


def test_admission_runs_before_the_router_and_bugs_reveal_nothing() -> None:
    made = ingress.build_app(AdmissionSettings(engines={"m": "e"}, max_per_engine=1))

    @made.get("/health")
    async def broken() -> None:
        raise ZeroDivisionError("secret")

    async def ask(path: str) -> httpx.Response:
        transport = httpx.ASGITransport(app=made, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return await client.get(path)

    answer = asyncio.run(ask("/health"))
    assert (
        answer.status_code == 500 and "secret" not in answer.text and answer.json()["error"]["type"] == "server_error"
    )
    assert asyncio.run(ask("/docs")).json()["error"]["code"] == "unknown_path"


def test_two_thousand_malformed_requests_get_4xx_from_admission_and_routes(monkeypatch: pytest.MonkeyPatch) -> None:
    # The same requests are sent to a real server and engine in test_admission.py (long).
    async def scripted(self: Any, *, body: Any, call_method: str, raw_request: Any = None) -> Any:
        bad = ErrorResponse(error=ErrorInfo(message="context length", type="BadRequestError", code=400))
        yield bad if len(str(body)) > 4000 else whole("4", 1)

    monkeypatch.setattr(OpenAiIngress, "_get_response", scripted)
    key = Key(name="a", sha256=hash_key("secret"))
    limits = Limits(max_output_tokens=1500)
    door = AdmissionSettings(engines={"m": "e"}, max_per_engine=4, keys=(key,), limits=limits, loopback_only=False)
    app, router = ingress.build_app(door), Ingress({}, {}, endpoints=[], max_retries=0)
    for name, route in ingress.ENDPOINTS.items():
        route(app)(getattr(router, name))

    async def statuses() -> list[int]:
        transport = httpx.ASGITransport(app=HeaderFilter(app), raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            good = {"content": json.dumps(FIELDS), "headers": {"authorization": "Bearer secret"}}
            good["headers"]["content-type"] = "application/json"
            assert (await client.post("/v1/chat/completions", **good)).status_code == 200
            found = []
            for request in malformed_requests(random.Random(7), 2000, model="m", key="secret"):
                if isinstance(request, dict):
                    answer = await client.request(**request)
                    assert 400 <= answer.status_code < 500, (answer.status_code, answer.text, request)
                    assert set(answer.json()["error"]) == {"message", "type", "param", "code"}, request
                    found.append(answer.status_code)
            return found

    assert {400, 401, 404, 405, 415} == set(asyncio.run(statuses()))
