"""The ingress: Ray's OpenAI router behind admission control. Retries lost replicas and splits off the reasoning.

Importing this module imports vLLM, which takes seconds.
"""

import asyncio
import json
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any, NoReturn, Protocol

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, ValidationError
from ray.exceptions import NodeDiedError, RayActorError, RayError, WorkerCrashedError
from ray.serve.exceptions import RayServeException
from ray.serve.llm.ingress import OpenAiIngress, make_fastapi_ingress
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response, StreamingResponse
from vllm.exceptions import VLLMClientError
from vllm.v1.engine.exceptions import EngineDeadError

from serve.api.admission import ALLOWED_MODELS, AdmissionMiddleware, AdmissionSettings
from serve.api.answer_parts import response_events, split_reasoning, split_tool_calls
from serve.api.chat_turn import ChatTurn
from serve.api.constrained import constrained, is_constrained
from serve.api.forcing import NEED_REASONING
from serve.api.http_errors import BUSY_RETRY_AFTER_S, APIError, scrub, upstream_error
from serve.api.playground import PAGE, PAGE_HEADERS
from serve.api.prepare import prepared_chat, with_stop_tokens
from serve.api.reasoning_parser import parse_events
from serve.api.request_schema import RESPONSES, field_address, invalid_field, parse_json
from serve.api.responses import ResponseBuilder
from serve.api.thinking import OPENING, PLAN_FIELDS
from serve.api.tools import with_tools
from serve.config import Endpoint
from serve.engines.ray_llm import (
    DEFAULT_ENDPOINTS,
    ChatCompletionRequest,
    ErrorResponse,
    OpenAIHTTPException,
    SetRequestIdMiddleware,
    add_http_metrics_middleware,
    metrics_lifespan,
)

REPLICA_LOST = (RayActorError, WorkerCrashedError, NodeDiedError, EngineDeadError)
"""Errors of a request whose replica died; another replica, or the restarted one, may answer it."""

ENDPOINTS = {
    **{name: DEFAULT_ENDPOINTS[name] for name in ("completions", "chat")},
    "models": lambda app: app.get("/v1/models"),
    "model_data": lambda app: app.get("/v1/models/{model:path}"),
    "responses": lambda app: app.post(RESPONSES),
    "playground": lambda app: app.get("/"),
    "health": lambda app: app.get("/health"),
    "problems": lambda app: app.get("/v1/problems"),
    "verdict": lambda app: app.post("/v1/verdict"),
}

STREAM_ERROR = 'data: {"error"'


class ModelCard(BaseModel):
    """A model as /v1/models lists it; Ray's own card lacks fields that OpenAI requires."""

    model_config = ConfigDict(frozen=True)

    id: str
    object: str
    created: int
    """Seconds since 1970 at which it was deployed."""
    owned_by: str
    root: str
    parent: str | None
    """The model that it is an adapter of."""
    max_model_len: int
    """Longest prompt plus completion, tokens."""
    metadata: dict[str, Any]


class Checker(Protocol):
    """Problems with known answers, for the playground. Picklable: it is sent to the ingress."""

    def problems(self) -> Sequence[Mapping[str, str]]:
        """`id`, `benchmark` and `problem` of each."""

    def verdict(self, problem_id: str, completion: str, finish_reason: str) -> Mapping[str, str]:
        """`verdict` and `expected` for one completion; it may take a second.

        Raises:
            KeyError: no problem has this id.
        """


class Ingress(OpenAiIngress):
    """Ray's router with reasoning, thinking budgets, modes, retries and the playground."""

    def __init__(
        self,
        llm_deployments: Mapping[str, Any],
        model_cards: Mapping[str, ModelCard],
        *,
        endpoints: Sequence[Endpoint],
        max_retries: int,
        checker: Checker | None = None,
    ) -> None:
        super().__init__(dict(llm_deployments), dict(model_cards))
        self._endpoints = {endpoint.name: endpoint for endpoint in endpoints}
        self._max_retries = max_retries
        self._checker = checker

    def _get_configured_serve_handle(self, model_id: str) -> Any:
        # Private, as of Ray 2.60.0. Called by the router for every request.
        return _CancellingHandle(super()._get_configured_serve_handle(model_id))

    async def models(self, raw_request: Request) -> Response:
        """The models that the client's key may use."""
        allowed = getattr(raw_request.state, ALLOWED_MODELS) or self._model_cards
        cards = [card.model_dump() for name, card in self._model_cards.items() if name in allowed]
        return JSONResponse({"object": "list", "data": cards})

    async def model_data(self, model: str) -> Response:
        """One model.

        Raises:
            APIError: 404, there is none of that name.
        """
        if model not in self._model_cards:
            raise APIError(404, "no model has that name: see /v1/models", code="model_not_found", param="model")
        return JSONResponse(self._model_cards[model].model_dump())

    async def playground(self) -> Response:
        """The web page for trying the models."""
        return Response(PAGE, media_type="text/html; charset=utf-8", headers=PAGE_HEADERS)

    async def health(self) -> Response:
        """Answers while the ingress is up."""
        return JSONResponse({"status": "ok"})

    async def problems(self) -> Response:
        """Benchmark problems whose answers `verdict` can grade."""
        return JSONResponse({"data": [dict(problem) for problem in self._checker.problems()] if self._checker else []})

    async def verdict(self, request: Request) -> Response:
        """Grade one completion of a problem: `{"id", "completion", "finish_reason"}`."""
        fields = parse_json(await request.body())
        values = [fields.get(name) for name in ("id", "completion", "finish_reason")]
        texts = [value for value in values if isinstance(value, str)]
        if self._checker is None or len(texts) < len(values):
            raise APIError(400, "id, completion and finish_reason must be strings", code="invalid_field", param="id")
        try:
            found = await asyncio.to_thread(self._checker.verdict, *texts)
        except KeyError as error:
            raise APIError(404, "no problem has that id", code="problem_not_found") from error
        return JSONResponse(dict(found))

    async def responses(self, request: Request) -> Response:
        """OpenAI's response for text; admission has made a chat of the request."""
        fields = await _sent(request)
        endpoint = self._endpoints[fields["model"]]
        if fields.get("logprobs") and endpoint.reasoning is not None:
            words = "include: this model reasons, and tokens are not told apart here: ask /v1/chat/completions"
            raise APIError(400, words, code="unsupported_field", param="include")
        stream = self._chat(ChatCompletionRequest, endpoint, fields, request)
        first = await anext(stream)
        builder = ResponseBuilder(fields["model"])
        if not isinstance(first, str | list):
            return JSONResponse(builder.whole(first.model_dump()))
        return StreamingResponse(response_events(builder, first, stream), media_type="text/event-stream")

    async def _get_response(
        self, *, body: Any, call_method: str, raw_request: Request | None = None
    ) -> AsyncGenerator[Any, None]:
        endpoint = self._endpoints.get(body.model)
        if endpoint is None:  # an unknown name, which the router refuses
            stream = self._answer(body, call_method, raw_request)
        elif call_method == "chat":
            stream = self._chat(type(body), endpoint, await _sent(raw_request), raw_request)
        else:
            fields = with_stop_tokens(await _sent(raw_request), endpoint)
            stream = self._answer(_engine_request(type(body), fields), call_method, raw_request)
        async for item in stream:
            yield item

    async def _chat(
        self, kind: type, endpoint: Endpoint, sent: Mapping[str, Any], raw_request: Request | None
    ) -> AsyncGenerator[Any, None]:
        """A chat's answer, its reasoning in a field of its own."""
        fields = prepared_chat(sent, endpoint)
        plans = [name for name in (*PLAN_FIELDS, OPENING) if fields.get(name) is not None]
        if missing := [name for name in plans if name in NEED_REASONING and endpoint.reasoning is None]:
            words = f"{missing[0]}: this model has no reasoning delimiters"
            raise APIError(400, words, code="invalid_field", param=missing[0])
        turn = ChatTurn(lambda asked, method: self._answer(asked, method, raw_request), self._endpoints)
        is_split = not endpoint.reasoning_in_content
        needs_delimiters = is_split or plans or fields.get("tools") or is_constrained(fields)
        delimiters = await turn.delimiters(endpoint, fields) if needs_delimiters else None
        has_tools = bool(fields.get("tools"))
        if plans:
            stream = turn.in_segments(kind, fields, delimiters)
        else:
            if has_tools:
                await turn.check_tools(fields)
            asked = with_tools(fields, delimiters) if has_tools else constrained(fields, delimiters)
            stream = self._answer(_engine_request(kind, asked), "chat", raw_request)
        if delimiters and is_split:
            stream = split_reasoning(
                stream,
                delimiters,
                is_shown=fields.get("include_reasoning") is not False,
                count=lambda text: turn.count(endpoint.name, text),
            )
        if has_tools:
            stream = split_tool_calls(stream, is_named=isinstance(fields.get("tool_choice"), dict))
        async for item in stream:
            yield item

    async def _answer(self, body: Any, call_method: str, raw_request: Request | None) -> AsyncGenerator[Any, None]:
        """Ray's answer; retries a request whose replica dies before anything was sent.

        Raises:
            APIError: the engine refuses the request, or its replica is lost for good.
        """
        for attempt in range(self._max_retries + 1):
            has_started = False
            try:
                async for item in super()._get_response(body=body, call_method=call_method, raw_request=raw_request):
                    if not has_started and (error := _first_error(item)):
                        _raise(error)
                    has_started = True
                    yield _scrubbed(item)
                return
            except REPLICA_LOST as error:
                lost = APIError(
                    503, "the model's replica was lost", code="replica_lost", retry_after_s=BUSY_RETRY_AFTER_S
                )
                if has_started:  # the status is sent already, so the error ends the stream
                    yield [lost.event]
                    return
                if attempt == self._max_retries:
                    raise lost from error
            except (RayError, RayServeException) as error:
                raise _ray_error(error) from error
            await asyncio.sleep(min(8.0, 0.5 * 2**attempt))


class _CancellingHandle:
    """An engine's handle whose streams end with the request that reads them.

    Without gRPC between the processes (on several nodes), Serve leaves the engine at work for a client that has gone.
    """

    def __init__(self, handle: Any) -> None:
        self._handle = handle

    def options(self, **options: Any) -> "_CancellingHandle":
        return _CancellingHandle(self._handle.options(**options))

    def __getattr__(self, name: str) -> Any:
        return _CancellingMethod(getattr(self._handle, name))


class _CancellingMethod:
    """One method of an engine's handle."""

    def __init__(self, method: Any) -> None:
        self._method = method

    async def remote(self, *arguments: Any) -> AsyncGenerator[Any, None]:
        """The engine's stream; cancelled where it is not read to its end."""
        stream = self._method.remote(*arguments)
        try:
            async for item in stream:
                yield item
        finally:
            stream.cancel()


async def _sent(raw_request: Request | None) -> dict[str, Any]:
    """The fields of a request, checked by admission."""
    assert raw_request is not None, "only HTTP requests come here"
    return dict(json.loads(await raw_request.body()))


def _engine_request(kind: type, fields: Mapping[str, Any]) -> Any:
    """A request as the engine reads it.

    Raises:
        APIError: 400, the engine's own schema refuses a field that ours does not.
    """
    try:
        return kind(**fields)
    except ValidationError as error:
        raise invalid_field(error) from None


def _first_error(item: Any) -> Mapping[str, Any] | None:
    """The error that an engine answers with, whole or as the first event of a stream."""
    first = item[0] if isinstance(item, list) and item else item
    if isinstance(first, ErrorResponse):
        return dict(first.error.model_dump())
    if isinstance(first, str) and first.startswith(STREAM_ERROR):
        return dict(parse_events(first)[0]["error"])
    return None


def _raise(error: Mapping[str, Any]) -> NoReturn:
    """Raise what an engine's error means: of one that is dead, vLLM makes an error and no exception."""
    status = int(error.get("code") or 500)
    if status >= 500:
        raise EngineDeadError
    raise upstream_error(status, str(error.get("message", "")), error.get("param"))


def _scrubbed(item: Any) -> Any:
    """An error within a stream without details of the server; anything else unchanged."""
    if isinstance(item, list):
        return [_scrubbed(text) for text in item]
    if not isinstance(item, str) or not item.startswith(STREAM_ERROR):
        return item
    error = parse_events(item)[0]["error"]
    return upstream_error(int(error.get("code") or 500), str(error.get("message", ""))).event


def _ray_error(error: Exception) -> APIError:
    """The client's error for an exception of Ray."""
    if isinstance(error, RayServeException):  # back pressure, or a deployment that is not there (yet, or any more)
        return APIError(503, "the model is busy or starting", code="unavailable", retry_after_s=BUSY_RETRY_AFTER_S)
    status = getattr(error, "status_code", None)
    return upstream_error(status if isinstance(status, int) else 500, str(error))


def build_ingress(settings: AdmissionSettings) -> Any:
    """The ingress class for Ray Serve, behind admission control."""
    return make_fastapi_ingress(Ingress, endpoint_map=ENDPOINTS, app=build_app(settings))


def build_app(settings: AdmissionSettings, *, is_measured: bool = True) -> FastAPI:
    """The web application without its routes: admission control, and every error in OpenAI's shape.

    `is_measured`: its requests are counted in Ray's metrics, which need a cluster.
    """
    lifespan = metrics_lifespan if is_measured else None
    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_exception_handler(APIError, _answer_api_error)
    app.add_exception_handler(OpenAIHTTPException, _answer_openai)
    app.add_exception_handler(HTTPException, _answer_http)
    app.add_exception_handler(RequestValidationError, _answer_invalid)
    app.add_exception_handler(VLLMClientError, _answer_engine)
    app.add_exception_handler(Exception, _answer_unexpected)
    app.add_middleware(AdmissionMiddleware, settings=settings)
    if is_measured:
        add_http_metrics_middleware(app)
    app.add_middleware(SetRequestIdMiddleware)
    return app


def _respond(error: APIError) -> Response:
    return JSONResponse(error.body, status_code=error.status, headers=error.headers)


async def _answer_api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, APIError)
    return _respond(error)


async def _answer_openai(request: Request, error: Any) -> Response:
    return _respond(upstream_error(error.status_code, error.message))


async def _answer_http(request: Request, error: Any) -> Response:
    return _respond(upstream_error(error.status_code, str(error.detail)))


async def _answer_invalid(request: Request, error: Any) -> Response:
    first = error.errors()[0]
    where = field_address(first.get("loc", ())).removeprefix("body.")
    return _respond(APIError(400, f"{where}: {first.get('msg', 'invalid')}"[:300], code="invalid_field", param=where))


async def _answer_engine(request: Request, error: Exception) -> Response:
    # Raised by vLLM's own request classes, past pydantic.
    words = scrub(str(error))
    return _respond(APIError(400, words, code="invalid_field", param=getattr(error, "parameter", None)))


async def _answer_unexpected(request: Request, error: Exception) -> Response:
    return _respond(APIError(500, "the server failed on this request"))
