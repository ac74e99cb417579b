"""Request schema and its validation. Unknown fields are refused, not ignored, so that a misspelt one is noticed.

Stricter than the engine on purpose: what passes here is safe to send to it. Fields that nothing reads, with values that
ask for nothing, are dropped (`serve.api.unused_fields`).
"""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, NoReturn, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
    Tag,
    ValidationError,
    model_validator,
)

from serve.api import responses
from serve.api.constrained import is_constrained
from serve.api.forcing import Bias, Extension, ForcedLanguage, HelperShare
from serve.api.http_errors import APIError
from serve.api.limits import Limits
from serve.api.message_schema import HIDDEN, MAX_MESSAGES, MAX_TOOLS, ChatMessage, Tool, ToolChoice
from serve.api.template_options import OptionName, OptionValue
from serve.api.thinking import OPENING, PLAN_FIELDS, Speculation
from serve.api.unused_fields import without_unused

RESPONSES = "/v1/responses"

STOPPING_PLANS = ("speculative", "share", "extend", "end_bias")
"""Plans that end segments at texts of their own."""

MAX_LOGPROBS = 20
"""Most tokens that engines return log-probabilities of, per position (vLLM's default)."""

Number = Annotated[StrictFloat, Field(allow_inf_nan=False)]
Tokens = Annotated[StrictInt, Field(ge=1, le=1_000_000)]
Stop = Annotated[StrictStr, Field(min_length=1, max_length=200)]
Stops = Annotated[
    Annotated[Stop, Tag("<text>")] | Annotated[list[Stop], Field(max_length=16), Tag("<list>")],
    Discriminator(lambda value: "<list>" if isinstance(value, list) else "<text>"),
]
TokenId = Annotated[StrictInt, Field(ge=0, le=10_000_000)]
Logprobs = Annotated[StrictInt, Field(ge=0, le=MAX_LOGPROBS)]


def _token_ids(bias: dict[str, float]) -> dict[str, float]:
    if wrong := [token for token in bias if not (token.isascii() and token.isdigit() and len(token) <= 8)]:
        raise ValueError(f"keys must be token ids, not {', '.join(map(repr, wrong[:10]))}")
    return bias


LogitBias = Annotated[
    dict[StrictStr, Annotated[Number, Field(ge=-100, le=100)]], Field(max_length=1024), AfterValidator(_token_ids)
]


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _StreamOptions(_Body):
    include_usage: StrictBool | None = None
    continuous_usage_stats: StrictBool | None = None
    include_obfuscation: Literal[False] | None = None


class _JsonSchema(_Body):
    name: StrictStr = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    description: StrictStr | None = None
    schema_: dict[str, Any] = Field(alias="schema")
    strict: StrictBool | None = None


class _ResponseFormat(_Body):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _JsonSchema | None = None

    @model_validator(mode="after")
    def _validate_schema(self) -> Self:
        if (self.type == "json_schema") != (self.json_schema is not None):
            raise ValueError("type 'json_schema' and the field json_schema need each other")
        return self


class _StructuredOutputs(_Body):
    """vLLM's own way to constrain an answer."""

    json_: (
        Annotated[
            Annotated[StrictStr, Tag("<text>")] | Annotated[dict[str, Any], Tag("<object>")],
            Discriminator(lambda value: "<text>" if isinstance(value, str) else "<object>"),
        ]
        | None
    ) = Field(None, alias="json")
    json_object: Literal[True] | None = None
    regex: StrictStr | None = Field(None, min_length=1, max_length=10_000)
    choice: list[Stop] | None = Field(None, min_length=1, max_length=1000)
    grammar: StrictStr | None = Field(None, min_length=1, max_length=100_000)
    disable_any_whitespace: StrictBool = False
    disable_additional_properties: StrictBool = False

    @model_validator(mode="after")
    def _validate_one(self) -> Self:
        kinds = (self.json_, self.json_object, self.regex, self.choice, self.grammar)
        if sum(kind is not None for kind in kinds) != 1:
            raise ValueError("needs one of json, json_object, regex, choice and grammar")
        if isinstance(self.json_, str) and not _is_object(self.json_):
            raise ValueError("json is no JSON object")
        return self


def _is_object(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False


class SamplingFields(_Body):
    """Fields of both kinds of request: OpenAI's, and vLLM's sampling parameters."""

    model: StrictStr = Field(min_length=1, max_length=256)
    stream: StrictBool | None = False
    stream_options: _StreamOptions | None = None
    n: StrictInt | None = Field(1, ge=1, le=128)
    temperature: Number | None = Field(None, ge=0, le=2)
    top_p: Number | None = Field(None, gt=0, le=1)
    top_k: StrictInt | None = Field(None, ge=-1, le=1_000_000)
    min_p: Number | None = Field(None, ge=0, le=1)
    presence_penalty: Number | None = Field(None, ge=-2, le=2)
    frequency_penalty: Number | None = Field(None, ge=-2, le=2)
    repetition_penalty: Number | None = Field(None, gt=0, le=10)
    seed: StrictInt | None = Field(None, ge=-(2**63), le=2**63 - 1)
    stop: Stops | None = None
    stop_token_ids: list[TokenId] | None = Field(None, max_length=64)
    min_tokens: StrictInt | None = Field(None, ge=0, le=1_000_000)
    ignore_eos: StrictBool | None = None
    skip_special_tokens: StrictBool | None = None
    spaces_between_special_tokens: StrictBool | None = None
    add_special_tokens: StrictBool | None = None
    include_stop_str_in_output: StrictBool | None = None
    logit_bias: LogitBias | None = None
    allowed_token_ids: list[TokenId] | None = Field(None, min_length=1, max_length=100_000)
    bad_words: list[Stop] | None = Field(None, max_length=64)
    logprob_token_ids: list[TokenId] | None = Field(None, max_length=128)
    """Tokens whose log-probabilities are returned in the place of the likeliest ones."""
    prompt_logprobs: Logprobs | None = None
    return_token_ids: StrictBool | None = None
    return_tokens_as_token_ids: StrictBool | None = None
    truncate_prompt_tokens: StrictInt | None = Field(None, ge=-1, le=10_000_000)
    truncation_side: Literal["left", "right"] | None = None
    response_format: _ResponseFormat | None = None
    structured_outputs: _StructuredOutputs | None = None
    user: StrictStr | None = Field(None, max_length=256)


class ChatBody(SamplingFields):
    """POST /v1/chat/completions."""

    messages: list[ChatMessage] = Field(min_length=1, max_length=MAX_MESSAGES)
    max_tokens: Tokens | None = None
    max_completion_tokens: Tokens | None = None
    logprobs: StrictBool | None = None
    top_logprobs: Logprobs | None = None
    tools: list[Tool] | None = Field(None, max_length=MAX_TOOLS)
    tool_choice: ToolChoice | None = None
    parallel_tool_calls: StrictBool | None = None
    echo: StrictBool | None = None
    """The answer begins with the text of the last turn, where that one is continued."""
    include_reasoning: StrictBool | None = None
    """`false`: the reasoning is not returned; it is written, and counts."""
    add_generation_prompt: StrictBool | None = None
    continue_final_message: StrictBool | None = None
    chat_template_kwargs: dict[OptionName, OptionValue] | None = Field(None, max_length=16)
    """Variables of the model's chat template (an extension of vLLM)."""
    thinking_budget: StrictInt | None = Field(None, ge=1, le=1_000_000)
    """Tokens after which the reasoning is closed and the answer begins (an extension)."""
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    """Becomes a mode, a budget or no reasoning, whichever the model has."""
    mode: StrictStr | None = Field(None, max_length=64)
    """Mode of a student of a mix with modes; `auto` or absent leaves the turns unchanged, and the choice to a student
    that writes its mode itself (an extension)."""
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


def _prompt_kind(value: Any) -> str:
    if not isinstance(value, list):
        return "<text>"
    kinds: dict[type, str] = {int: "<tokens>", list: "<token lists>"}
    return kinds.get(type(value[0]), "<texts>") if value else "<texts>"


Prompt = Annotated[
    Annotated[StrictStr, Tag("<text>")]
    | Annotated[list[StrictStr], Field(min_length=1, max_length=128), Tag("<texts>")]
    | Annotated[list[TokenId], Tag("<tokens>")]
    | Annotated[
        list[Annotated[list[TokenId], Field(min_length=1)]], Field(min_length=1, max_length=128), Tag("<token lists>")
    ],
    Discriminator(_prompt_kind),
]


class CompletionBody(SamplingFields):
    """POST /v1/completions."""

    prompt: Prompt = ""
    """Text or token ids, or a list of either. Engines refuse an empty one."""
    max_tokens: StrictInt | None = Field(None, ge=0, le=1_000_000)
    logprobs: Logprobs | None = None
    echo: StrictBool | None = None
    """The prompt stands before what is written, with its log-probabilities where `logprobs` asks for them."""


BODIES: dict[str, type[SamplingFields]] = {
    "/v1/chat/completions": ChatBody,
    "/v1/completions": CompletionBody,
    RESPONSES: ChatBody,
}


def check_request(path: str, body: bytes, limits: Limits) -> dict[str, Any]:
    """The fields that a request sets, validated and within the limits; `path` is one of `BODIES`.

    A response's request is the fields of the same request to a chat from here on.

    Raises:
        APIError: 400 or 413, naming the field.
    """
    fields = parse_json(body)
    try:
        fields = without_unused(responses.chat_fields(fields) if path == RESPONSES else fields)
        request = BODIES[path].model_validate(fields)
    except ValidationError as error:
        raise invalid_field(error) from None
    except RecursionError as error:
        raise APIError(400, "the body is nested too deeply", code="invalid_json") from error
    return _within_limits(request, limits)


def parse_json(body: bytes) -> dict[str, Any]:
    """A JSON object whose numbers are finite and whose text is valid UTF-8.

    Raises:
        APIError: 400.
    """
    try:
        fields = json.loads(body, parse_constant=_no_constant)
        json.dumps(fields, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:  # bad JSON, bad UTF-8, half a surrogate pair, nested too deeply
        raise APIError(400, "the body is not valid JSON in UTF-8", code="invalid_json") from error
    if not isinstance(fields, dict):
        raise APIError(400, "the body must be a JSON object", code="invalid_json")
    return fields


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def invalid_field(error: ValidationError) -> APIError:
    """The client's error for what pydantic found first."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = field_address(first["loc"]) or "body"
    message = "unknown field" if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Value error, ")
    kind = "" if first["type"] in ("extra_forbidden", "value_error") else f" [{first['type']}]"
    return APIError(400, f"{where}: {message}{kind}"[:400], code="invalid_field", param=where)


def field_address(path: Sequence[str | int]) -> str:
    """Where a field stands, as `messages[0].role`."""
    parts = [f"[{part}]" if isinstance(part, int) else f".{part}" for part in path if not str(part).startswith(HIDDEN)]
    return "".join(parts).removeprefix(".")[:120]


def _within_limits(request: SamplingFields, limits: Limits) -> dict[str, Any]:
    chars = prompt_chars(request)
    if chars > limits.max_prompt_chars:
        where = "messages" if isinstance(request, ChatBody) else "prompt"
        words = f"the prompt has {chars} characters; at most {limits.max_prompt_chars} are allowed"
        raise APIError(413, words, code="prompt_too_long", param=where)
    choices = (request.n or 1) * _num_prompts(request)
    if choices > limits.max_choices:
        words = f"n: {choices} completions requested; at most {limits.max_choices} are allowed"
        raise APIError(400, words, code="limit_exceeded", param="n")
    if found := _conflict(request):
        raise APIError(400, f"{found[0]}: {found[1]}", code="invalid_field", param=found[0])
    fields = request.model_dump(exclude_unset=True, by_alias=True)
    if isinstance(request, ChatBody):
        fields["messages"] = [message.sent() for message in request.messages]
        if request.continue_final_message:
            fields["add_generation_prompt"] = False
    name = "max_completion_tokens" if fields.get("max_completion_tokens") else "max_tokens"
    if limits.max_output_tokens is not None:
        requested = fields.get(name, limits.max_output_tokens)
        if requested > limits.max_output_tokens:
            words = f"{name}: {requested} requested; at most {limits.max_output_tokens} tokens are allowed"
            raise APIError(400, words, code="limit_exceeded", param=name)
        fields[name] = requested
    return fields


def _conflict(request: SamplingFields) -> tuple[str, str] | None:
    """The field that does not go with others, and why; None where all fields go together."""
    if request.stream_options is not None and request.stream_options.model_fields_set and not request.stream:
        return "stream_options", "only allowed with stream: true"
    if request.prompt_logprobs is not None and request.stream:
        return "prompt_logprobs", "not available with stream: true"
    if request.logprob_token_ids and not _has_logprobs(request):
        return "logprob_token_ids", "needs logprobs"
    fields = request.model_dump(exclude_unset=True, by_alias=True)
    if request.structured_outputs is not None and is_constrained({**fields, "structured_outputs": None}):
        return "structured_outputs", "cannot be combined with response_format"
    if isinstance(request, ChatBody):
        return _chat_conflict(request, is_constrained(fields)) or plan_conflict(fields)
    assert isinstance(request, CompletionBody)
    if request.max_tokens == 0 and not request.echo:
        return "max_tokens", "0 needs echo: true, since nothing would be returned"
    if request.max_tokens == 0 and request.logprob_token_ids:
        return "logprob_token_ids", "needs max_tokens above 0, since it is about tokens that are written"
    return None


def _has_logprobs(request: SamplingFields) -> bool:
    wanted = getattr(request, "logprobs", None)
    return bool(wanted) if isinstance(request, ChatBody) else wanted is not None


def _chat_conflict(request: ChatBody, has_grammar: bool) -> tuple[str, str] | None:
    if request.top_logprobs and not request.logprobs:
        return "top_logprobs", "needs logprobs: true"
    if request.continue_final_message and request.add_generation_prompt:
        return "continue_final_message", "cannot be combined with add_generation_prompt: true"
    names = [tool.function.name for tool in request.tools or ()]
    if request.tool_choice is not None and not isinstance(request.tool_choice, str):
        chosen = request.tool_choice.function.name
        if chosen not in names:
            return "tool_choice", f"no tool is named {chosen!r}"
    if names and has_grammar:
        return "tools", "cannot be combined with a constrained answer"
    return None


def plan_conflict(fields: Mapping[str, Any]) -> tuple[str, str] | None:
    """The plan that does not go with another option, and which; None where all go together."""
    plans = [name for name in (*PLAN_FIELDS, OPENING) if fields.get(name) is not None]
    if not plans:
        return None
    plan = plans[-1]
    others: dict[str, Any] = {
        "n > 1": (fields.get("n") or 1) > 1,
        "response_format or structured_outputs": is_constrained(fields),
        "prompt_logprobs": fields.get("prompt_logprobs") is not None,
        **{name: fields.get(name) for name in ("logprobs", "tools", "return_token_ids", "echo")},
    }
    others |= {"stop": fields.get("stop")} if plan in STOPPING_PLANS else {}
    found = [*plans[:-1], *(name for name, value in others.items() if value)]
    return (plan, f"cannot be combined with {found[0]}") if found else None


def prompt_chars(request: SamplingFields) -> int:
    """Characters of all messages or prompts; a token id counts as one."""
    if isinstance(request, ChatBody):
        return sum(message.num_chars for message in request.messages)
    assert isinstance(request, CompletionBody)
    prompts = request.prompt if isinstance(request.prompt, list) else [request.prompt]
    return sum(1 if isinstance(prompt, int) else len(prompt) for prompt in prompts)


def _num_prompts(request: SamplingFields) -> int:
    prompt = getattr(request, "prompt", None)
    return len(prompt) if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int) else 1
