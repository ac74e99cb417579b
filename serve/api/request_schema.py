"""Request schema and its validation. Unknown fields are refused, not ignored, so that a misspelt one is noticed.

Stricter than the engine on purpose: what passes here is safe to send to it.
"""

import json
from typing import Annotated, Any, Literal, NoReturn

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    ValidationError,
)

from serve.api.forcing import Bias, Extension, ForcedLanguage, HelperShare
from serve.api.http_errors import APIError
from serve.api.limits import Limits
from serve.api.template_options import OptionName, OptionValue
from serve.api.thinking import PLAN_FIELDS, Speculation

MAX_MESSAGES = 1000

STOPPING_PLANS = ("speculative", "share", "extend", "end_bias")
"""Plans that end segments at texts of their own."""

Number = Annotated[StrictInt | StrictFloat, Field(allow_inf_nan=False)]
Tokens = Annotated[StrictInt, Field(ge=1, le=1_000_000)]
Stop = Annotated[StrictStr, Field(min_length=1, max_length=200)]
TokenId = Annotated[StrictInt, Field(ge=0, le=10_000_000)]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _TextPart(_Body):
    type: Literal["text"]
    text: StrictStr


class _Message(_Body):
    role: Literal["system", "developer", "user", "assistant"]
    content: StrictStr | Annotated[list[_TextPart], Field(min_length=1, max_length=100)]
    name: StrictStr | None = Field(None, max_length=64)
    reasoning_content: StrictStr | None = None
    """Sent back by clients that keep whole turns; the student does not see it."""


class _StreamOptions(_Body):
    include_usage: StrictBool | None = None
    continuous_usage_stats: StrictBool | None = None


class _ResponseFormat(_Body):
    type: Literal["text"]


class SamplingFields(_Body):
    """Fields of both kinds of request: OpenAI's, and vLLM's sampling parameters."""

    model: StrictStr = Field(min_length=1, max_length=256)
    stream: StrictBool | None = False
    stream_options: _StreamOptions | None = None
    n: StrictInt | None = Field(1, ge=1, le=128)
    max_tokens: Tokens | None = None
    temperature: Number | None = Field(None, ge=0, le=2)
    top_p: Number | None = Field(None, gt=0, le=1)
    top_k: StrictInt | None = Field(None, ge=-1, le=1_000_000)
    min_p: Number | None = Field(None, ge=0, le=1)
    presence_penalty: Number | None = Field(None, ge=-2, le=2)
    frequency_penalty: Number | None = Field(None, ge=-2, le=2)
    repetition_penalty: Number | None = Field(None, gt=0, le=10)
    seed: StrictInt | None = Field(None, ge=0, lt=2**63)
    stop: Stop | Annotated[list[Stop], Field(max_length=16)] | None = None
    stop_token_ids: list[TokenId] | None = Field(None, max_length=64)
    min_tokens: StrictInt | None = Field(None, ge=0, le=1_000_000)
    ignore_eos: StrictBool | None = None
    skip_special_tokens: StrictBool | None = None
    include_stop_str_in_output: StrictBool | None = None
    user: StrictStr | None = Field(None, max_length=256)


class ChatBody(SamplingFields):
    """POST /v1/chat/completions."""

    messages: list[_Message] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_completion_tokens: Tokens | None = None
    logprobs: StrictBool | None = None
    top_logprobs: StrictInt | None = Field(None, ge=0, le=20)
    response_format: _ResponseFormat | None = None
    add_generation_prompt: StrictBool | None = None
    continue_final_message: StrictBool | None = None
    chat_template_kwargs: dict[OptionName, OptionValue] | None = Field(None, max_length=16)
    """Variables of the model's chat template (an extension of vLLM)."""
    thinking_budget: StrictInt | None = Field(None, ge=1, le=1_000_000)
    """Tokens after which the reasoning is closed and the answer begins (an extension)."""
    mode: StrictStr | None = Field(None, max_length=64)
    """Mode of a student of a mix with modes; `auto` or absent leaves the turns unchanged (an extension)."""
    speculative: Speculation | None = None
    """A larger model that writes the steps at which this one doubts (an extension)."""
    share: HelperShare | None = None
    """Another model that writes the first share of the reasoning (an extension)."""
    extend: Extension | None = None
    """How often a cue takes the place of the end of the reasoning (an extension)."""
    end_bias: Bias | None = None
    """Bias on the token that ends the reasoning, for models that have one (an extension)."""
    language: ForcedLanguage | None = None
    """Language that the reasoning begins in (an extension)."""
    think: Literal[False] | None = None
    """`false`: an empty block of reasoning stands before the answer (an extension)."""


class CompletionBody(SamplingFields):
    """POST /v1/completions."""

    prompt: StrictStr | Annotated[list[StrictStr], Field(min_length=1, max_length=128)]
    logprobs: StrictInt | None = Field(None, ge=0, le=20)
    echo: Literal[False] | None = None


BODIES: dict[str, type[SamplingFields]] = {"/v1/chat/completions": ChatBody, "/v1/completions": CompletionBody}


def check_request(path: str, body: bytes, limits: Limits) -> dict[str, Any]:
    """The fields that a request sets, validated and within the limits; `path` is one of `BODIES`.

    Raises:
        APIError: 413 or 422, naming the field.
    """
    fields = parse_json(body)
    try:
        request = BODIES[path].model_validate(fields)
    except ValidationError as error:
        raise _invalid_field(error) from None
    except RecursionError as error:
        raise APIError(422, "the body is nested too deeply", code="invalid_json") from error
    return _within_limits(request, limits)


def parse_json(body: bytes) -> dict[str, Any]:
    """A JSON object whose numbers are finite and whose text is valid UTF-8.

    Raises:
        APIError: 422.
    """
    try:
        fields = json.loads(body, parse_constant=_no_constant)
        json.dumps(fields, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:  # bad JSON, bad UTF-8, half a surrogate pair, nested too deeply
        raise APIError(422, "the body is not valid JSON in UTF-8", code="invalid_json") from error
    if not isinstance(fields, dict):
        raise APIError(422, "the body must be a JSON object", code="invalid_json")
    return fields


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def _invalid_field(error: ValidationError) -> APIError:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])[:120] or "body"
    return APIError(422, f"{where}: {first['msg']}"[:300], code="invalid_field")


def _within_limits(request: SamplingFields, limits: Limits) -> dict[str, Any]:
    chars = prompt_chars(request)
    if chars > limits.max_prompt_chars:
        raise APIError(413, f"the prompt has {chars} characters; at most {limits.max_prompt_chars} are allowed")
    choices = (request.n or 1) * _num_prompts(request)
    if choices > limits.max_choices:
        raise APIError(422, f"n: {choices} completions requested; at most {limits.max_choices} are allowed")
    if conflict := _conflict(request):
        raise APIError(422, conflict, code="invalid_field")
    fields = request.model_dump(exclude_unset=True)
    name = "max_completion_tokens" if fields.get("max_completion_tokens") else "max_tokens"
    if limits.max_output_tokens is not None:
        requested = fields.get(name) or limits.max_output_tokens
        if requested > limits.max_output_tokens:
            raise APIError(422, f"{name}: {requested} requested; at most {limits.max_output_tokens} tokens are allowed")
        fields[name] = requested
    return fields


def _conflict(request: SamplingFields) -> str:
    """Which options cannot be combined with an answer in several segments; empty where all can."""
    if not isinstance(request, ChatBody):
        return ""
    plans = [name for name in PLAN_FIELDS if getattr(request, name) is not None]
    if not plans:
        return ""
    plan = plans[-1]
    others: dict[str, Any] = {"n > 1": (request.n or 1) > 1}
    others |= {"logprobs": request.logprobs} if plan != "thinking_budget" else {}
    others |= {"stop": request.stop} if plan in STOPPING_PLANS else {}
    found = [*plans[:-1], *(name for name, value in others.items() if value)]
    return f"{plan}: cannot be combined with {found[0]}" if found else ""


def prompt_chars(request: SamplingFields) -> int:
    """Characters of all messages or prompts."""
    if isinstance(request, CompletionBody):
        return sum(map(len, [request.prompt] if isinstance(request.prompt, str) else request.prompt))
    assert isinstance(request, ChatBody)
    contents = [message.content for message in request.messages]
    return sum(len(text) if isinstance(text, str) else sum(len(part.text) for part in text) for text in contents)


def _num_prompts(request: SamplingFields) -> int:
    is_list = isinstance(request, CompletionBody) and isinstance(request.prompt, list)
    return len(request.prompt) if is_list else 1  # type: ignore[attr-defined]  # checked by is_list
