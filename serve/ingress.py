"""The ingress: Ray's OpenAI router behind our door, with replicas' deaths bridged and reasoning split off.

Importing this module imports vLLM, which takes seconds.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, Protocol

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from ray.exceptions import NodeDiedError, RayActorError, RayError, WorkerCrashedError
from ray.llm._internal.serve.core.configs.openai_api_models import ErrorResponse, OpenAIHTTPException
from ray.llm._internal.serve.core.ingress.ingress import DEFAULT_ENDPOINTS
from ray.llm._internal.serve.core.ingress.middleware import SetRequestIdMiddleware
from ray.llm._internal.serve.observability.metrics.fast_api_metrics import (
    add_http_metrics_middleware,
    metrics_lifespan,
)
from ray.serve.exceptions import RayServeException
from ray.serve.llm.ingress import OpenAiIngress, make_fastapi_ingress
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from vllm.v1.engine.exceptions import EngineDeadError

from serve.door import Door, DoorSettings
from serve.errors import ServeError
from serve.modes import AUTO, in_mode, mode_line
from serve.page import PAGE, PAGE_HEADERS
from serve.reasoning import (
    Delimiters,
    StreamSplitter,
    add_usage,
    closing,
    first_go,
    format_event,
    parse_events,
    second_go,
    split,
)
from serve.refusal import Refusal, upstream_refusal
from serve.requests import parse_json

REPLICA_LOST = (RayActorError, WorkerCrashedError, NodeDiedError, EngineDeadError)
"""What a request meets whose replica died; another replica, or the same one restarted, may answer it."""

ENDPOINTS = {
    **{name: DEFAULT_ENDPOINTS[name] for name in ("models", "model_data", "completions", "chat")},
    "page": lambda app: app.get("/"),
    "health": lambda app: app.get("/health"),
    "problems": lambda app: app.get("/v1/problems"),
    "verdict": lambda app: app.post("/v1/verdict"),
}

STREAM_ERROR = 'data: {"error"'


class Checker(Protocol):
    """Problems with known answers, for whoever talks to the models. Picklable: it travels to the ingress."""

    def problems(self) -> Sequence[Mapping[str, str]]:
        """`id`, `benchmark` and `problem` of each."""

    def verdict(self, problem_id: str, completion: str, finish_reason: str) -> Mapping[str, str]:
        """`verdict` and `expected` for one completion; it may take a second.

        Raises:
            KeyError: there is no such problem.
        """


class Ingress(OpenAiIngress):
    """Ray's router, with what a user of reasoning students needs on top."""

    def __init__(
        self,
        llm_deployments: Mapping[str, Any],
        model_cards: Mapping[str, Any],
        *,
        reasoning: Mapping[str, Delimiters],
        modes: Mapping[str, Mapping[str, str]],
        max_retries: int,
        checker: Checker | None = None,
    ) -> None:
        super().__init__(dict(llm_deployments), dict(model_cards))
        self._reasoning = reasoning
        self._modes = modes
        self._max_retries = max_retries
        self._checker = checker

    async def page(self) -> Response:
        """The page to talk to the models."""
        return Response(PAGE, media_type="text/html; charset=utf-8", headers=PAGE_HEADERS)

    async def health(self) -> Response:
        """The ingress is up."""
        return JSONResponse({"status": "ok"})

    async def problems(self) -> Response:
        """Benchmark problems that a verdict can be had for."""
        return JSONResponse({"data": [dict(problem) for problem in self._checker.problems()] if self._checker else []})

    async def verdict(self, request: Request) -> Response:
        """Grade one completion of a problem: `{"id", "completion", "finish_reason"}`."""
        fields = parse_json(await request.body())
        asked = [fields.get(name) for name in ("id", "completion", "finish_reason")]
        texts = [value for value in asked if isinstance(value, str)]
        if self._checker is None or len(texts) < len(asked):
            raise Refusal(422, "id, completion, finish_reason: three strings", code="invalid_field")
        try:
            found = await asyncio.to_thread(self._checker.verdict, *texts)
        except KeyError as error:
            raise Refusal(404, "there is no problem of that id", code="problem_not_found") from error
        return JSONResponse(dict(found))

    async def _get_response(
        self, *, body: Any, call_method: str, raw_request: Request | None = None
    ) -> AsyncGenerator[Any, None]:
        line = self._mode_line(body)
        if line:
            body.messages = in_mode(body.messages, line)
        delimiters = self._reasoning.get(body.model) if call_method == "chat" else None
        budget = (body.model_extra or {}).pop("thinking_budget", None)
        if budget is not None and delimiters is None:
            raise Refusal(422, "thinking_budget: this model has no reasoning that is kept apart", code="invalid_field")
        if delimiters is None:
            stream = self._answer(body, call_method, raw_request)
        elif budget is None or raw_request is None:
            stream = _split_off(self._answer(body, call_method, raw_request), delimiters)
        else:
            fields = json.loads(await raw_request.body())
            fields.pop("mode", None)
            fields["messages"] = in_mode(fields["messages"], line)
            stream = _split_off(self._budgeted(type(body), fields, budget, delimiters, raw_request), delimiters)
        async for item in stream:
            yield item

    def _mode_line(self, body: Any) -> str:
        """What asks for the mode that a chat request names; empty where it names none."""
        mode = (body.model_extra or {}).pop("mode", None)
        if mode in (None, AUTO):
            return ""
        try:
            return mode_line(self._modes.get(body.model, {}), mode)
        except ServeError as error:
            raise Refusal(422, f"mode: {error}", code="invalid_field") from error

    async def _answer(self, body: Any, call_method: str, raw_request: Request | None) -> AsyncGenerator[Any, None]:
        """Ray's answer; a request of which nothing was sent yet is put again when its replica dies."""
        for attempt in range(self._max_retries + 1):
            has_begun = False
            try:
                async for item in super()._get_response(body=body, call_method=call_method, raw_request=raw_request):
                    if not has_begun and _is_lost(item):
                        raise EngineDeadError
                    has_begun = True
                    yield _scrubbed(item)
                return
            except REPLICA_LOST as error:
                refusal = Refusal(503, "the model's replica was lost", code="replica_lost", retry_after_s=5.0)
                if has_begun:  # the status is sent: what is left is to say so within the stream
                    yield [refusal.event]
                    return
                if attempt == self._max_retries:
                    raise refusal from error
            except (RayError, RayServeException) as error:
                raise _refusal(error) from error
            await asyncio.sleep(min(8.0, 0.5 * 2**attempt))

    async def _budgeted(
        self, kind: type, fields: Mapping[str, Any], budget: int, delimiters: Delimiters, raw_request: Request
    ) -> AsyncGenerator[Any, None]:
        """The answer in at most two goes: reasoning within the budget, then the rest. Not split yet."""
        start = self._answer(kind(**first_go(fields, budget)), "chat", raw_request)
        go: _StreamedGo | _WholeGo = _StreamedGo() if fields.get("stream") else _WholeGo()
        async for item in go.first(start):
            yield item
        rest = second_go(
            fields, go.text, used_tokens=go.used_tokens, finish_reason=go.finish_reason, delimiters=delimiters
        )
        again = self._answer(kind(**rest), "chat", raw_request) if rest else None
        async for item in go.second(again, closing(go.text, delimiters)):
            yield item


class _WholeGo:
    """Two answers as one."""

    text, finish_reason, used_tokens = "", "", 0

    async def first(self, stream: AsyncGenerator[Any, None]) -> AsyncGenerator[Any, None]:
        self._response = await anext(stream)
        if not isinstance(self._response, ErrorResponse):
            choice = self._response.choices[0]
            self.text, self.finish_reason = choice.message.content or "", choice.finish_reason or ""
            self.used_tokens = self._response.usage.completion_tokens
        nothing: list[Any] = []
        for item in nothing:  # the whole answer comes from `second`
            yield item

    async def second(self, stream: AsyncGenerator[Any, None] | None, between: str) -> AsyncGenerator[Any, None]:
        if stream is not None:
            more = await anext(stream)
            if isinstance(more, ErrorResponse):
                yield more
                return
            choice, last = self._response.choices[0], more.choices[0]
            choice.message.content = self.text + between + (last.message.content or "")
            choice.finish_reason = last.finish_reason
            usage = add_usage(self._response.usage.model_dump(), more.usage.model_dump())
            for name, value in usage.items():
                setattr(self._response.usage, name, value)
        yield self._response


class _StreamedGo:
    """Two streams as one: the first one's end and usage are held back until it is known whether a second follows."""

    def __init__(self) -> None:
        self.text, self.finish_reason, self.used_tokens = "", "", 0
        self._held: list[dict[str, Any]] = []
        self._usage: dict[str, Any] | None = None
        self._id, self._num_events = "", 0

    async def first(self, stream: AsyncGenerator[Any, None]) -> AsyncGenerator[Any, None]:
        async for event in _events(stream):
            self._id = event.get("id", self._id)
            if "choices" not in event:
                yield event if isinstance(event, ErrorResponse) else [format_event(event)]
                continue
            self._usage = event.get("usage") or self._usage
            for choice in event["choices"]:
                text = choice["delta"].get("content") or ""
                self.text += text
                self.used_tokens += bool(text)
                self.finish_reason = choice.get("finish_reason") or self.finish_reason
            if self.finish_reason or not event["choices"]:
                self._held.append(event)
            else:
                yield [format_event(event)]
        if self._usage:
            self.used_tokens = self._usage["completion_tokens"]

    async def second(self, stream: AsyncGenerator[Any, None] | None, between: str) -> AsyncGenerator[Any, None]:
        if stream is None:
            for event in self._held:
                yield [format_event(event)]
            return
        for event in self._held:
            for choice in event["choices"]:
                choice["finish_reason"] = None
                choice["delta"]["content"] = (choice["delta"].get("content") or "") + between
            if event["choices"]:
                yield [format_event(event)]
        async for event in _events(stream):
            event["id"] = self._id
            for choice in event.get("choices", ()):
                choice["delta"].pop("role", None)
            if event.get("usage"):
                event["usage"] = add_usage(self._usage, event["usage"])
            yield [format_event(event)]


async def _events(stream: AsyncGenerator[Any, None]) -> AsyncGenerator[Any, None]:
    async for item in stream:
        if isinstance(item, ErrorResponse):
            raise upstream_refusal(int(item.error.code or 500), item.error.message)
        for text in item if isinstance(item, list) else [item]:
            for event in parse_events(text):
                yield event


async def _split_off(stream: AsyncGenerator[Any, None], delimiters: Delimiters) -> AsyncGenerator[Any, None]:
    """The stream, or the one whole answer in it, with the reasoning in a field of its own."""
    splitter = StreamSplitter(delimiters)
    async for item in stream:
        if isinstance(item, list):
            yield ["".join(_split_text(text, splitter) for text in item)]
        elif isinstance(item, str):
            yield _split_text(item, splitter)
        else:
            for choice in getattr(item, "choices", ()):
                parts = split(choice.message.content or "", delimiters)
                choice.message.content = parts.content
                if parts.reasoning:
                    choice.message.reasoning_content = parts.reasoning
            yield item


def _split_text(text: str, splitter: StreamSplitter) -> str:
    done = "data: [DONE]\n\n" if "data: [DONE]" in text else ""
    return "".join(format_event(splitter.rewrite(event)) for event in parse_events(text)) + done


def _is_lost(item: Any) -> bool:
    """Whether the first thing that comes back says that the engine is dead: vLLM answers that in words."""
    if isinstance(item, ErrorResponse):
        return int(item.error.code or 500) >= 500
    first = item[0] if isinstance(item, list) and item else item
    if not isinstance(first, str) or not first.startswith(STREAM_ERROR):
        return isinstance(first, ErrorResponse) and _is_lost(first)
    return int(parse_events(first)[0]["error"].get("code") or 500) >= 500


def _scrubbed(item: Any) -> Any:
    """An error within a stream says what ours say; all else as it is."""
    if isinstance(item, list):
        return [_scrubbed(text) for text in item]
    if not isinstance(item, str) or not item.startswith(STREAM_ERROR):
        return item
    error = parse_events(item)[0]["error"]
    return upstream_refusal(int(error.get("code") or 500), str(error.get("message", ""))).event


def _refusal(error: Exception) -> Refusal:
    """What a client hears of an error of Ray's."""
    status = getattr(error, "status_code", None)
    if isinstance(error, RayServeException):  # back pressure, or a deployment that is not there (yet, or any more)
        return Refusal(503, "the model is busy or starting", code="unavailable", retry_after_s=5.0)
    return upstream_refusal(status if isinstance(status, int) else 500, str(error))


def build_ingress(settings: DoorSettings) -> Any:
    """The ingress class for Ray Serve, behind the door."""
    return make_fastapi_ingress(Ingress, endpoint_map=ENDPOINTS, app=build_app(settings))


def build_app(settings: DoorSettings) -> FastAPI:
    """The web application without its routes: the door, and every error in OpenAI's shape."""
    app = FastAPI(lifespan=metrics_lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(Refusal, _answer_refusal)
    app.add_exception_handler(OpenAIHTTPException, _answer_openai)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(Exception, _answer_bug)
    app.add_middleware(Door, settings=settings)
    add_http_metrics_middleware(app)
    app.add_middleware(SetRequestIdMiddleware)
    return app


def _respond(refusal: Refusal) -> Response:
    return JSONResponse(refusal.body, status_code=refusal.status, headers=refusal.headers)


async def _answer_refusal(request: Request, error: Exception) -> Response:
    assert isinstance(error, Refusal)
    return _respond(error)


async def _answer_openai(request: Request, error: Any) -> Response:
    # Ray's time limit for the first output is a 408; the client has sent everything, so it is ours to be busy.
    status = 503 if error.status_code == 408 else error.status_code
    return _respond(upstream_refusal(status, error.message))


async def _answer_http(request: Request, error: Any) -> Response:
    return _respond(upstream_refusal(error.status_code, str(error.detail)))


async def _answer_invalid(request: Request, error: Any) -> Response:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first.get("loc", ()))[:120]
    return _respond(Refusal(422, f"{where}: {first.get('msg', 'invalid')}"[:300], code="invalid_field"))


async def _answer_bug(request: Request, error: Exception) -> Response:
    return _respond(Refusal(500, "the server failed on this request"))
