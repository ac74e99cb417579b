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

from serve.api.admission import Door, DoorSettings
from serve.api.continuation import in_goes
from serve.api.http_errors import Refusal, upstream_refusal
from serve.api.modes import AUTO, in_mode, mode_line
from serve.api.playground import PAGE, PAGE_HEADERS
from serve.api.reasoning_parser import Delimiters, StreamSplitter, format_event, parse_events, split
from serve.api.request_schema import parse_json
from serve.api.thinking import Speculation, budget_plan, speculative_plan
from serve.errors import ServeError

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
        options = {name: (body.model_extra or {}).pop(name, None) for name in ("thinking_budget", "speculative")}
        if options["thinking_budget"] and delimiters is None:
            raise Refusal(422, "thinking_budget: this model has no reasoning that is kept apart", code="invalid_field")
        if any(options.values()):
            assert raw_request is not None, "only requests from outside have such options"
            stream = self._in_goes(type(body), line, delimiters, raw_request)
        else:
            stream = self._answer(body, call_method, raw_request)
        async for item in _split_off(stream, delimiters) if delimiters else stream:
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

    async def _in_goes(
        self, kind: type, line: str, delimiters: Delimiters | None, raw_request: Request
    ) -> AsyncGenerator[Any, None]:
        """The answer in as many goes as its options take. Not split yet."""
        fields = json.loads(await raw_request.body())
        fields.pop("mode", None)
        fields["messages"] = in_mode(fields["messages"], line)
        if budget := fields.get("thinking_budget"):
            assert delimiters is not None, "refused before"
            plan = budget_plan(fields, budget, delimiters)
        else:
            plan = speculative_plan(fields, Speculation(**fields["speculative"]), delimiters)

        def put(go: Mapping[str, Any]) -> AsyncGenerator[Any, None]:
            return self._answer(kind(**go), "chat", raw_request)

        has_usage = bool((fields.get("stream_options") or {}).get("include_usage"))
        async for item in in_goes(plan, put, is_stream=bool(fields.get("stream")), has_usage=has_usage):
            yield item


async def _split_off(stream: AsyncGenerator[Any, None], delimiters: Delimiters) -> AsyncGenerator[Any, None]:
    """The stream, or the one whole answer in it, with the reasoning in a field of its own."""
    splitter = StreamSplitter(delimiters)
    async for item in stream:
        if isinstance(item, list) and any(isinstance(text, ErrorResponse) for text in item):
            yield item  # refused: the answer has not begun
        elif isinstance(item, list):
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
