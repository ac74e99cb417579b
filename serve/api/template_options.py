"""Variables of a chat template that a request, a mode or a recipe may set. Few imports: every recipe reads this."""

from typing import Annotated

from pydantic import AfterValidator, Field, StrictBool, StrictInt, StrictStr

RESERVED_OPTIONS = frozenset(
    {
        "messages",
        "conversation",
        "tools",
        "documents",
        "chat_template",
        "tokenize",
        "tokenizer",
        "padding",
        "truncation",
        "max_length",
        "return_tensors",
        "return_dict",
        "return_assistant_tokens_mask",
        "tokenizer_kwargs",
        "add_generation_prompt",
        "continue_final_message",
        "add_special_tokens",
    }
)
"""What the engine itself passes to the chat template, or to the tokenizer with it."""


def _not_reserved(name: str) -> str:
    if name in RESERVED_OPTIONS:
        raise ValueError("is set by the server")
    return name


OptionName = Annotated[StrictStr, Field(pattern=r"^[A-Za-z][A-Za-z0-9_]{0,63}$"), AfterValidator(_not_reserved)]
OptionValue = StrictBool | StrictInt | Annotated[StrictStr, Field(max_length=200)] | None
