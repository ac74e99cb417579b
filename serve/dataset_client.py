"""Sends a Ray Data dataset to served models: every row comes back with a completion or with an error."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import openai
import pyarrow as pa
from pydantic import BaseModel, ConfigDict, Field

from serve.chat_reply import LENGTH, STOP, end_of, read_message
from serve.errors import fault_label
from serve.key_variables import NO_KEY
from serve.loopback import direct_options
from serve.openai_sampling import OPENAI_SAMPLING

if TYPE_CHECKING:
    from ray.data import Dataset

INPUT_COLUMNS = ("model", "messages", "sampling")

OUTPUT_FIELDS = (
    pa.field("completion", pa.string()),
    pa.field("reasoning", pa.string()),
    pa.field("finish_reason", pa.string()),
    pa.field("prompt_tokens", pa.int64()),
    pa.field("completion_tokens", pa.int64()),
    pa.field("error", pa.string()),
)


OWN_FIELDS = ("model", "messages", "stream", "stream_options")
"""Fields of a request that no row's sampling may set."""


KINDS = {str: "a text", list: "a list", dict: "an object", bool: "true or false", int: "a number", float: "a number"}


class BatchConfig(BaseModel):
    """How rows are sent to an endpoint."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    max_in_flight: int = Field(64, ge=1)
    """Most open requests; no fewer than the engines' max_num_seqs keep them busy."""

    max_retries: int = Field(8, ge=0)
    """Retries after a lost connection, a time-out or a 408, 409, 429 or 5xx answer; delays grow to 8 s."""

    timeout_s: float = Field(600.0, gt=0)
    """Longest time of one attempt, seconds."""

    api_key_env: str = ""
    """Environment variable that holds the endpoint's API key; read where the sender runs. Empty: none is needed."""


class Answer(NamedTuple):
    """The result of one row. `error` is empty exactly if the endpoint answered."""

    completion: str = ""
    reasoning: str = ""
    """Reasoning that the endpoint separates from the completion, if it does."""
    finish_reason: str = ""
    prompt_tokens: int = 0
    completion_tokens: int = 0
    error: str = ""


def complete(
    rows: "Dataset | Sequence[Mapping[str, Any]]", base_url: str, config: BatchConfig | None = None
) -> "Dataset":
    """Complete every row (`model`, `messages`, `sampling`; other columns pass through), lazily and in order.

    Adds completion, reasoning, finish_reason, prompt_tokens, completion_tokens and error (empty on success). A row that
    fails is kept with its error; one output row per input row.

    Raises:
        ValueError: a required column is missing.
    """
    import ray
    from ray.data import ActorPoolStrategy
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    config = config or BatchConfig()
    data = _as_dataset(rows)
    _validate_columns(data)
    return data.map_batches(
        Sender,
        fn_constructor_args=(base_url, config),
        batch_format="pyarrow",
        # Ray runs four batches of an async actor at once: batches of half a window keep the window full while the
        # slowest row of a batch is still being generated.
        batch_size=max(1, config.max_in_flight // 2),
        compute=ActorPoolStrategy(size=1),
        # On the driver's node, since `base_url` may be its 127.0.0.1; the head node may offer no CPU.
        scheduling_strategy=NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False),
        num_cpus=0,
    )


class Sender:
    """The actor that holds the connections. All batches share one window, which bounds the requests in flight."""

    def __init__(self, base_url: str, config: BatchConfig, api_key: str = NO_KEY) -> None:
        key = os.environ.get(config.api_key_env, "") if config.api_key_env else ""
        self._client = openai.AsyncOpenAI(
            base_url=f"{base_url}/v1",
            api_key=key or api_key,
            timeout=config.timeout_s,
            max_retries=config.max_retries,
            http_client=openai.DefaultAsyncHttpxClient(**direct_options(base_url)),
        )
        self._window = asyncio.Semaphore(config.max_in_flight)

    async def __call__(self, batch: pa.Table) -> pa.Table:
        """Append the answers to one batch."""
        answers = await asyncio.gather(*(self.answer(row) for row in batch.to_pylist()))
        for index, field in enumerate(OUTPUT_FIELDS):
            batch = batch.append_column(field, pa.array([answer[index] for answer in answers], field.type))
        return batch

    async def answer(self, row: Mapping[str, Any]) -> Answer:
        """The answer to one row, once the window has room."""
        async with self._window:
            if problem := row_problem(row):
                return Answer(error=problem)
            try:
                response = await self._client.chat.completions.create(**request_arguments(row))
            except openai.APIError as error:
                return Answer(error=f"{fault_label(error)}: {own_words(error)}"[:1000])
            except (TypeError, ValueError) as error:  # a row that the client cannot send
                return Answer(error=f"{type(error).__name__}: {error}")
        return to_answer(response)


def own_words(error: openai.APIError) -> str:
    """What the server says, without the client's `Error code: 422 - ` and the braces of the body."""
    said = error.body.get("message") if isinstance(error.body, Mapping) else None
    return said if isinstance(said, str) and said else error.message


def row_problem(row: Mapping[str, Any]) -> str:
    """Why a row cannot be sent as one request with one whole answer; empty where it can."""
    messages, sampling = row["messages"], row["sampling"]
    if not isinstance(messages, list) or not messages:
        return "messages: a list with at least one turn is needed"
    for number, turn in enumerate(messages):
        if not isinstance(turn, Mapping):
            return f"messages: turn {number} is {_kind(turn)}, and must be an object with role and content"
    if sampling is not None and not isinstance(sampling, Mapping):
        return f'sampling is {_kind(sampling)}, and must be an object such as {{"max_tokens": 100}}'
    if own := [name for name in OWN_FIELDS if (sampling or {}).get(name) is not None]:
        return f"sampling may not have {', '.join(own)}: rows are asked for one whole answer of the command's model"
    return ""


def _kind(value: object) -> str:
    """What a JSON value is, in words."""
    known = {
        str: "a text",
        list: "a list",
        dict: "an object",
        bool: "true or false",
        int: "a number",
        float: "a number",
    }
    return "null" if value is None else known.get(type(value), type(value).__name__)


def to_answer(response: Any) -> Answer:
    """A server's reply as an answer; one without a choice is an error. A finish reason of another name for `stop` or
    `length` becomes these, any other stays as it is."""
    choice = response.choices[0] if getattr(response, "choices", None) else None
    if choice is None:
        error = getattr(response, "error", None) or "no error either"
        return Answer(error=f"malformed reply: no choices; {error}"[:1000])
    message, end, usage = read_message(choice.message), end_of(choice.finish_reason), response.usage
    return Answer(
        completion=message.text,
        reasoning=message.reasoning,
        finish_reason=end if end in (STOP, LENGTH) else choice.finish_reason or "",
        prompt_tokens=(usage.prompt_tokens if usage else 0) or 0,
        completion_tokens=(usage.completion_tokens if usage else 0) or 0,
    )


def request_arguments(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row as arguments of the openai client. Arrow fills absent struct fields with null: those are left out."""
    sampling = {key: value for key, value in (row["sampling"] or {}).items() if value is not None}
    extra = {key: _without_nulls(sampling.pop(key)) for key in sorted(sampling.keys() - OPENAI_SAMPLING)}
    messages = [{key: value for key, value in message.items() if value is not None} for message in row["messages"]]
    arguments = {"model": row["model"], "messages": messages, **sampling}
    return {**arguments, "extra_body": extra} if extra else arguments


def _without_nulls(value: Any) -> Any:
    """A struct without the fields that other rows of its column have."""
    return {key: one for key, one in value.items() if one is not None} if isinstance(value, dict) else value


def _as_dataset(rows: "Dataset | Sequence[Mapping[str, Any]]") -> "Dataset":
    import ray.data

    if isinstance(rows, ray.data.Dataset):
        return rows
    # Not from_arrow(): it runs a task that wants a whole CPU, which engines on a small machine have taken.
    return ray.data.from_items([dict(row) for row in rows])


def _validate_columns(data: "Dataset") -> None:
    columns = data.columns() or []
    if missing := [name for name in INPUT_COLUMNS if name not in columns]:
        raise ValueError(
            f"rows for an endpoint need the columns {', '.join(INPUT_COLUMNS)}; missing: {', '.join(missing)}"
        )
