"""Sampling settings that the OpenAI client sends by name; others go into the body as they are."""

OPENAI_SAMPLING = frozenset(
    {"temperature", "top_p", "max_tokens", "seed", "stop", "presence_penalty", "frequency_penalty", "logprobs", "n"}
)
"""Arguments of the openai client; other keys (top_k, min_p, ...) are vLLM's and are sent in the extra body."""
