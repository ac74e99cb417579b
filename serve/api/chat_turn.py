"""One chat request whose answer takes more than one call of an engine: its prompt, its delimiters, its segments.

Importing this module imports vLLM, which takes seconds.
"""

from collections.abc import AsyncGenerator, Callable, Mapping
from typing import Any

from serve.api.continuation import generate_in_segments
from serve.api.forcing import (
    Extension,
    HelperShare,
    Language,
    biased_end,
    empty_thinking,
    extended_thinking,
    language_opening,
    prefilled,
    shared_reasoning,
)
from serve.api.http_errors import APIError
from serve.api.modes import plain_text
from serve.api.prepare import as_asked_of
from serve.api.reasoning_parser import Delimiters
from serve.api.thinking import (
    OPENING,
    NextRequest,
    Segment,
    Speculation,
    behind_prefix,
    budget_forcing,
    continued_fields,
    speculative_thinking,
)
from serve.api.tools import CLOSE, OPEN, asks_in_this_form
from serve.config import Endpoint
from serve.engines.ray_llm import (
    CompletionRequest,
    DetokenizeRequest,
    TokenizeChatRequest,
    TokenizeCompletionRequest,
)

TAIL_TOKENS = 32
"""Tokens at the end of a prompt that hold all that a chat template writes behind the last turn."""

PROMPT_FIELDS = (
    "model",
    "messages",
    "tools",
    "chat_template_kwargs",
    "add_generation_prompt",
    "continue_final_message",
    "add_special_tokens",
)
"""Fields of a chat request that decide its prompt."""

Ask = Callable[[Any, str], AsyncGenerator[Any, None]]
"""Sends a request to an engine: its body and the method that it calls."""


class ChatTurn:
    """A chat request: the turns are rendered once for each model that writes a part of the answer."""

    def __init__(self, ask: Ask, endpoints: Mapping[str, Endpoint]) -> None:
        self._ask = ask
        self._endpoints = endpoints
        self._tokens: dict[str, list[int]] = {}

    async def delimiters(self, endpoint: Endpoint | None, fields: Mapping[str, Any]) -> Delimiters | None:
        """The delimiters of an answer's reasoning: whether the prompt has opened or closed it is read from the prompt.

        Args:
            endpoint: the model that answers; None: not one of ours, of which nothing is known.
            fields: the request as that model gets it.
        """
        found = endpoint.reasoning if endpoint else None
        if found is not None and fields.get("continue_final_message"):
            return behind_prefix(found, plain_text(fields["messages"][-1].get("content")))
        if endpoint is None or found is None or not endpoint.opens_reasoning:
            return found
        tokens = await self._prompt(fields)
        body = DetokenizeRequest(model=endpoint.name, tokens=tokens[-TAIL_TOKENS:])
        tail = (await self._one(body, "detokenize")).prompt.rstrip()
        seen = {"is_open": tail.endswith(found.start), "is_closed": tail.endswith(found.end)}
        return found.model_copy(update=seen)

    async def check_tools(self, fields: Mapping[str, Any]) -> None:
        """Whether the model is told of the request's tools, and to call them in the form that is read.

        Raises:
            APIError: 400, it is not.
        """
        body = DetokenizeRequest(model=fields["model"], tokens=await self._prompt(fields))
        if not asks_in_this_form((await self._one(body, "detokenize")).prompt, fields["tools"]):
            words = f"tools: the chat template of this model does not tell it to call tools between {OPEN} and {CLOSE}"
            raise APIError(400, words, code="unsupported_field", param="tools")

    async def count(self, model: str, text: str) -> int:
        """Tokens of a text."""
        return len((await self._tokenized(model, text)).tokens)

    async def plan(self, fields: Mapping[str, Any], delimiters: Delimiters | None) -> NextRequest:
        """How the request wants to be answered: the one of `PLAN_FIELDS` that it has, or behind its mode's opening.

        Raises:
            APIError: 400, the model cannot be asked in that way.
        """
        if fields.get(OPENING):
            return prefilled(fields, fields[OPENING])
        if fields.get("speculative"):
            return speculative_thinking(fields, Speculation(**fields["speculative"]), delimiters)
        if fields.get("language"):
            return prefilled(fields, language_opening(Language(**fields["language"]), delimiters))
        assert delimiters is not None, "refused before"
        if fields.get("thinking_budget"):
            return budget_forcing(fields, fields["thinking_budget"], delimiters)
        if fields.get("extend"):
            return extended_thinking(fields, Extension(**fields["extend"]), delimiters)
        if fields.get("share"):
            share = HelperShare(**fields["share"])
            asked = self._as_asked_of({**fields, "model": share.model})
            helpers = await self.delimiters(self._endpoints.get(share.model), asked)
            return shared_reasoning(fields, share, delimiters, helpers)
        if fields.get("end_bias") is not None:
            return biased_end(fields, fields["end_bias"], await self._end_token(fields, delimiters), delimiters)
        return prefilled(fields, empty_thinking(delimiters))

    async def in_segments(
        self, kind: type, fields: Mapping[str, Any], delimiters: Delimiters | None
    ) -> AsyncGenerator[Any, None]:
        """The answer in as many segments as its plan needs, reasoning and content still together.

        Args:
            kind: class of a chat request.
            fields: the request.
            delimiters: of the model's reasoning.

        Raises:
            APIError: the model cannot be asked in that way, or an engine refuses a segment.
        """
        next_request = await self.plan(fields, delimiters)

        async def send(segment: Segment) -> AsyncGenerator[Any, None]:
            is_helper = segment.fields["model"] != fields["model"]
            asked = self._as_asked_of(segment.fields) if is_helper else dict(segment.fields)
            if segment.continues:
                written = segment.continues
                if is_helper:
                    written = await self._behind_own_prompt(written, asked, delimiters)
                behind = await self._tokenized(asked["model"], written)
                prompt = [*await self._prompt(asked), *behind.tokens]
                room = {"max_tokens": max(1, behind.max_model_len - len(prompt))}  # the protocol's own default is 16
                stream = self._ask(CompletionRequest(**{**room, **continued_fields(asked, prompt)}), "completions")
            else:
                stream = self._ask(kind(**asked), "chat")
            async for item in stream:
                yield item

        has_usage = bool((fields.get("stream_options") or {}).get("include_usage"))
        answer = generate_in_segments(
            next_request, send, fields["model"], is_stream=bool(fields.get("stream")), has_usage=has_usage
        )
        async for item in answer:
            yield item

    async def _end_token(self, fields: Mapping[str, Any], delimiters: Delimiters) -> int:
        """The token that ends the reasoning.

        Raises:
            APIError: 400, it is more than one.
        """
        tokens = (await self._tokenized(fields["model"], delimiters.end)).tokens
        if len(tokens) != 1:
            raise APIError(
                400,
                f"end_bias: {delimiters.end} is {len(tokens)} tokens of this model, and a bias applies to one; "
                "thinking_budget and extend work with any number",
                code="invalid_field",
                param="end_bias",
            )
        return int(tokens[0])

    async def _prompt(self, fields: Mapping[str, Any]) -> list[int]:
        """The token ids of the prompt of the model that the fields name, as the engine renders it."""
        model = fields["model"]
        if model not in self._tokens:
            asked = {name: fields[name] for name in PROMPT_FIELDS if fields.get(name) is not None}
            self._tokens[model] = list((await self._one(TokenizeChatRequest(**asked), "tokenize")).tokens)
        return self._tokens[model]

    async def _tokenized(self, model: str, text: str) -> Any:
        """A text by itself as token ids; think tags that are tokens become these."""
        body = TokenizeCompletionRequest(model=model, prompt=text, add_special_tokens=False)
        return await self._one(body, "tokenize")

    async def _one(self, body: Any, call_method: str) -> Any:
        """The one item that the engine answers with.

        Raises:
            APIError: the engine refuses the request.
        """
        return await anext(self._ask(body, call_method))

    def _as_asked_of(self, fields: Mapping[str, Any]) -> dict[str, Any]:
        """A segment's fields with the options and end tokens of the helper."""
        endpoint = self._endpoints.get(fields["model"])
        return dict(fields) if endpoint is None else as_asked_of(fields, endpoint)

    async def _behind_own_prompt(self, written: str, asked: Mapping[str, Any], delimiters: Delimiters | None) -> str:
        """Another model's text so far, as this model would have written it behind its own prompt."""
        own = await self.delimiters(self._endpoints.get(asked["model"]), asked)
        if own is None or delimiters is None or own.is_open == delimiters.is_open:
            return written
        if own.is_open:
            return written.lstrip().removeprefix(own.start).lstrip("\n")
        return f"{own.start}\n{written}"
