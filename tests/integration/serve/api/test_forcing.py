"""Every way to have a model answer on one real engine: what it inserts is there, and the model goes on from it.

The tiny models write the same characters whatever they are asked, one token each. Their reasoning ends with what they
write anyway: two characters, two tokens, for the plain weights; one for the adapter on them.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import openai
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from distill.models.chat_template import render_prompt
from serve.api.forcing import OPENINGS
from serve.api.reasoning_parser import Delimiters
from serve.config import Endpoint, ServeConfig
from serve.deploy import deploy, undeploy
from tests.fixtures.tiny_models import make_tiny_adapter, make_tiny_model

CONFIG = ServeConfig(port=0, max_model_len=512, max_num_seqs=8, kv_cache_gib=0.1, cpus_per_engine=0.1)
QUESTION: Any = [{"role": "user", "content": "What is 3 + 4?"}]
TOKENS = 24
PLAIN, ADAPTED = "tiny", "tiny@mix"


class Served(NamedTuple):
    """An endpoint with two models, and what ends the reasoning of each."""

    url: str
    end: str
    """Of the plain weights: two tokens."""
    adapted_end: str
    """Of the adapter: one token."""

    def message(self, model: str = PLAIN, **extra: Any) -> tuple[str, str, Any]:
        """Reasoning, content and usage of an answer, and the same streamed."""
        create = openai.OpenAI(base_url=f"{self.url}/v1", api_key="none").chat.completions.create
        asked: dict[str, Any] = {
            "model": model,
            "messages": QUESTION,
            "temperature": 0.0,
            "seed": 0,
            "max_tokens": TOKENS,
            "extra_body": {"ignore_eos": True, **extra},
        }
        whole = create(**asked)
        found = whole.choices[0].message
        thought = getattr(found, "reasoning_content", None) or ""
        deltas = [chunk.choices[0].delta for chunk in create(**asked, stream=True) if chunk.choices]
        assert "".join(getattr(delta, "reasoning_content", None) or "" for delta in deltas) == thought
        assert "".join(delta.content or "" for delta in deltas) == (found.content or "")
        return thought, found.content or "", whole.usage


def greedy(model: Path, adapter: Path | None) -> str:
    """What transformers writes with these weights."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    weights = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
    if adapter:
        weights = PeftModel.from_pretrained(weights, adapter)
    tokens = torch.tensor([render_prompt(tokenizer, QUESTION)])
    answer = weights.generate(input_ids=tokens, max_new_tokens=10, do_sample=False)[0, tokens.shape[1] :]
    return str(tokenizer.decode(answer))


def end_in(text: str, num_chars: int) -> str:
    """Characters that the text has, and has not before its fourth."""
    found = (text[at : at + num_chars] for at in range(3, len(text) - num_chars))
    return next(end for end in found if text.index(end) > 2 and end.strip() == end)


@pytest.fixture(scope="module")
def served(prepared_ray: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("serve")
    model = make_tiny_model(folder / "model", seed=1)
    adapter = make_tiny_adapter(folder / "adapter", model, seed=2)
    ends = end_in(greedy(model, None), 2), end_in(greedy(model, adapter), 1)
    reasoning = [Delimiters(start="<think>", end=end, is_open=True) for end in ends]
    endpoints = [
        Endpoint(name=PLAIN, source=str(model), reasoning=reasoning[0]),
        Endpoint(name=ADAPTED, source=str(model), adapter=str(adapter), reasoning=reasoning[1]),
    ]
    yield Served(deploy(endpoints, CONFIG), *ends)
    undeploy()


def test_by_itself_the_model_ends_its_reasoning(served: Served) -> None:
    for model in (PLAIN, ADAPTED):
        thought, content, usage = served.message(model)
        assert thought and content and usage.completion_tokens == TOKENS


def test_a_budget_closes_the_reasoning_within_its_end_of_two_tokens(served: Served) -> None:
    alone, _, _ = served.message()
    thought, content, usage = served.message(thinking_budget=len(alone) + 1)  # the first half of the end is written
    assert thought == alone and content and usage.completion_tokens == TOKENS
    cut, content, _ = served.message(thinking_budget=2)
    assert cut == f"{alone[:2]}\n" and content


def test_a_cue_takes_the_place_of_the_end_of_two_tokens(served: Served) -> None:
    alone, _, _ = served.message()
    thought, _, usage = served.message(extend={"times": 1, "cue": "Wait"})
    glue = "" if alone[-1].isspace() else "\n"
    assert thought.startswith(f"{alone}{glue}Wait") and usage.completion_tokens <= TOKENS


def test_a_bias_ends_the_reasoning_at_once_or_never_where_the_end_is_one_token(served: Served) -> None:
    alone, _, _ = served.message(ADAPTED)
    at_once, content, _ = served.message(ADAPTED, end_bias=100)
    assert at_once == "" and content
    never, content, _ = served.message(ADAPTED, end_bias=-100)
    assert len(never) > len(alone) and content == "" and served.adapted_end not in never
    with pytest.raises(openai.BadRequestError, match="is 2 tokens of this model"):
        served.message(PLAIN, end_bias=5)


def test_the_first_share_of_the_helpers_reasoning_begins_the_models_own(served: Served) -> None:
    helpers, _, _ = served.message(ADAPTED)
    thought, content, usage = served.message(share={"model": ADAPTED, "share": 1.0})
    assert (thought + served.end + content).startswith(helpers)
    assert (
        usage.model_extra["helper_tokens"] >= len(helpers)
        and usage.completion_tokens > usage.model_extra["helper_tokens"]
    )


def test_the_reasoning_begins_in_german(served: Served) -> None:
    thought, content, usage = served.message(language="de")
    assert (thought + served.end + content).startswith(OPENINGS["de"]) and usage.completion_tokens == TOKENS


def test_an_empty_block_leaves_no_reasoning(served: Served) -> None:
    thought, content, usage = served.message(think=False)
    assert thought == "" and content and usage.completion_tokens == TOKENS


def test_a_helper_writes_where_the_model_doubts(served: Served) -> None:
    alone, _, _ = served.message()
    helper = {"model": ADAPTED, "triggers": [alone[1]], "max_tokens": 4, "step_tokens": 4}
    thought, content, usage = served.message(speculative=helper)
    assert usage.model_extra["helper_tokens"] == 4 and (thought, content) != served.message()[:2]


def test_a_way_that_needs_another_model_is_refused_where_that_is_not_served(served: Served) -> None:
    with pytest.raises(openai.NotFoundError):
        served.message(share={"model": "nope", "share": 0.5})
