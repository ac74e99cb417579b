"""Questions to a running endpoint, for the terminal and for a check after deployment."""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import openai

from serve.errors import ServeError, UnknownModelError

FIRST_ANSWER_TIMEOUT_S = 120.0
ANSWER_TIMEOUT_S = 600.0


def ask(
    base_url: str,
    model: str,
    text: str,
    *,
    mode: str = "",
    max_tokens: int | None = None,
    temperature: float = 0.0,
    seed: int = 0,
) -> Iterator[str]:
    """Stream the answer of `model` to one question, piece by piece.

    The question is put as the model's metadata say that it was trained (`system`, `template`, `modes`), where they say
    so; without a mode in the first of those that the model knows.

    Raises:
        ServeError: nothing listens at `base_url`, an unknown mode, or the endpoint refuses the question.
        UnknownModelError: no model of that name is served there.
    """
    names = served_models(base_url)
    if not names:
        raise ServeError(f"no endpoint at {base_url}: start one with `distill serve RUN`")
    if model not in names:
        raise UnknownModelError(f"{base_url} serves no model {model!r}. It serves: {', '.join(sorted(names))}")
    turns = question_turns(text, names[model], mode)
    yield from _stream(base_url, model, turns, {"max_tokens": max_tokens, "temperature": temperature, "seed": seed})


def question_turns(text: str, metadata: Mapping[str, Any], mode: str = "") -> list[dict[str, str]]:
    """Chat turns that put a question in a model's own format, and ask for one of its modes.

    Raises:
        ServeError: the model does not know the mode.
    """
    template = str(metadata.get("template") or "{problem}")
    lines = [str(metadata.get("system") or ""), mode_line(metadata.get("modes") or {}, mode)]
    system = "\n".join(filter(None, lines))
    turns = [{"role": "system", "content": system}] if system else []
    return [*turns, {"role": "user", "content": template.replace("{problem}", text)}]


def mode_line(modes: Mapping[str, str], mode: str) -> str:
    """What asks for a mode, the first where none is named; empty for a model that knows none.

    Raises:
        ServeError: the model does not know the mode.
    """
    if mode and mode not in modes:
        known = ", ".join(modes) or "none: it was trained on a mix without modes"
        raise ServeError(f"the model has no mode {mode!r}. Its modes: {known}")
    return modes[mode] if mode else next(iter(modes.values()), "")


def served_models(base_url: str) -> dict[str, dict[str, Any]]:
    """Metadata of every served model by name; empty if nothing answers at `base_url`."""
    try:
        models = _client(base_url, timeout_s=10.0).models.list().data
    except (openai.APIConnectionError, openai.APIStatusError):
        return {}
    return {model.id: dict(getattr(model, "metadata", None) or {}) for model in models}


def first_answers(base_url: str, models: Sequence[str]) -> None:
    """Have every model write one token.

    Raises:
        ServeError: a model does not answer.
    """

    def answer(model: str) -> None:
        try:
            _client(base_url, timeout_s=FIRST_ANSWER_TIMEOUT_S).chat.completions.create(
                model=model, messages=[{"role": "user", "content": "1"}], max_tokens=1, temperature=0.0, seed=0
            )
        except openai.APIError as error:
            raise ServeError(f"{model} is served at {base_url} but does not answer: {error}") from error

    with ThreadPoolExecutor(max_workers=len(models)) as pool:
        list(pool.map(answer, models))


def _stream(
    base_url: str, model: str, turns: Sequence[Mapping[str, str]], sampling: Mapping[str, Any]
) -> Iterator[str]:
    try:
        stream = _client(base_url, timeout_s=ANSWER_TIMEOUT_S).chat.completions.create(
            model=model,
            messages=list(turns),
            stream=True,
            **{key: value for key, value in sampling.items() if value is not None},
        )
        for chunk in stream:
            if chunk.choices and chunk.choices[0].delta.content:
                yield chunk.choices[0].delta.content
    except openai.APIError as error:
        raise ServeError(f"{model} at {base_url} failed: {error}") from error


def _client(base_url: str, *, timeout_s: float) -> openai.OpenAI:
    # The key is required by the client and read by nobody; waiting is the callers' business.
    return openai.OpenAI(base_url=f"{base_url}/v1", api_key="none", timeout=timeout_s, max_retries=0)
