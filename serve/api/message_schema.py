"""Turns of a chat request, and its tools. What is no part of a turn is dropped: clients send back what they were sent.

An answer of this server, or of another one, comes back as a turn with fields that are null or that only its own client
knows (`refusal`, `annotations`, `audio`, `provider_specific_fields`).
"""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StrictBool,
    StrictStr,
    Tag,
    model_validator,
)

MAX_MESSAGES = 1000
MAX_TOOLS = 128

HIDDEN = "<"
"""How the names of alternatives begin that say which kind of value was found; no part of a field's address."""


class _Lenient(BaseModel):
    model_config = ConfigDict(extra="ignore")


def _only_text(kind: str) -> str:
    if kind != "text":
        raise ValueError(f"{kind[:40]!r} is not read: models here read parts of type 'text' only")
    return kind


class TextPart(_Lenient):
    """A part of a turn's content."""

    type: Annotated[StrictStr, AfterValidator(_only_text)]
    text: StrictStr


def _content_kind(value: Any) -> str:
    return "<parts>" if isinstance(value, list) else "<text>"


Content = Annotated[
    Annotated[StrictStr, Tag("<text>")]
    | Annotated[list[TextPart], Field(min_length=1, max_length=100), Tag("<parts>")],
    Discriminator(_content_kind),
]


class CalledFunction(_Lenient):
    """What a model called."""

    name: StrictStr = Field(min_length=1, max_length=64)
    arguments: StrictStr


class ToolCall(_Lenient):
    """A call of a tool in an assistant turn."""

    id: StrictStr = Field("", max_length=256)
    type: Literal["function"] = "function"
    function: CalledFunction


class ChatMessage(_Lenient):
    """One turn."""

    role: StrictStr = Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$")
    """A role that the chat template does not know is the template's to refuse."""

    content: Content | None = None
    name: StrictStr | None = Field(None, max_length=64)
    reasoning_content: StrictStr | None = None
    """Sent back by clients that keep whole turns; the student does not see it."""
    tool_calls: list[ToolCall] | None = Field(None, max_length=MAX_TOOLS)
    tool_call_id: StrictStr | None = Field(None, max_length=256)

    @model_validator(mode="after")
    def _validate_content(self) -> Self:
        if self.content is None and self.role != "assistant":
            raise ValueError(
                f"content is missing; only an assistant turn may be without, not one of role {self.role!r}"
            )
        return self

    @property
    def num_chars(self) -> int:
        """Characters of what the model reads."""
        parts = [self.content or ""] if not isinstance(self.content, list) else [part.text for part in self.content]
        called = [call.function.name + call.function.arguments for call in self.tool_calls or ()]
        return sum(map(len, [*parts, *called]))

    def sent(self) -> dict[str, Any]:
        """The turn as engines read it."""
        turn = self.model_dump(exclude_none=True)
        return turn if "content" in turn else {**turn, "content": ""}


class Function(_Lenient):
    """A function that the model may call."""

    name: StrictStr = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    description: StrictStr | None = None
    parameters: dict[str, Any] | None = None
    strict: StrictBool | None = None


class Tool(_Lenient):
    """A tool that the model may call."""

    type: Literal["function"]
    function: Function


class NamedFunction(_Lenient):
    """The name of a function."""

    name: StrictStr = Field(min_length=1, max_length=64)


class NamedTool(_Lenient):
    """The tool that the model has to call."""

    type: Literal["function"]
    function: NamedFunction


def _choice_kind(value: Any) -> str:
    return "<named>" if isinstance(value, dict) else "<word>"


ToolChoice = Annotated[
    Annotated[Literal["auto", "required", "none"], Tag("<word>")] | Annotated[NamedTool, Tag("<named>")],
    Discriminator(_choice_kind),
]
