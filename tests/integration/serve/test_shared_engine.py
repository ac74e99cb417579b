"""Two students of the same shapes in one real engine: each answers as in an engine of its own."""

import shutil
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest

from serve.config import Endpoint, ServeConfig
from serve.deploy import Progress, deploy, undeploy
from tests.fixtures.tiny_models import make_tiny_model

CONFIG = ServeConfig(port=0, max_model_len=512, max_num_seqs=8, kv_cache_gib=0.1, cpus_per_engine=0.1)
EXAMPLES = " ".join(f"{number} + {number} = {2 * number}." for number in range(12))
"""A beginning of some 200 tokens that all questions share, so that the engine takes it from its prefix cache."""
QUESTIONS = [f"{EXAMPLES} What is {number} + 4?" for number in range(6)]


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, plain_ray: Path) -> Iterator[str]:
    """`first` and `second` take turns; `alone` has the weights of `second` in an engine of its own."""
    folder = tmp_path_factory.mktemp("shared")
    first, second = (make_tiny_model(folder / name, seed=seed) for name, seed in (("first", 1), ("second", 2)))
    alone = shutil.copytree(second, folder / "alone")
    endpoints = [
        Endpoint(name="first", source=str(first), shared_engine="tiny"),
        Endpoint(name="second", source=str(second), shared_engine="tiny"),
        Endpoint(name="alone", source=str(alone)),
    ]
    seen: list[Progress] = []
    yield deploy(endpoints, CONFIG, on_progress=seen.append)
    assert seen[-1].num_engines == 2
    undeploy()


def answers(url: str, model: str) -> list[str]:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")

    def answer(question: str) -> str:
        reply = client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": question}], temperature=0.0, seed=0, max_tokens=24
        )
        assert reply.model == model
        return reply.choices[0].message.content or ""

    with ThreadPoolExecutor(4) as pool:
        return list(pool.map(answer, QUESTIONS))


def test_exchanged_weights_answer_as_in_a_fresh_engine_and_so_do_the_first_ones_afterwards(url: str) -> None:
    before = answers(url, "first")
    exchanged = answers(url, "second")
    assert exchanged == answers(url, "alone") != before
    assert answers(url, "first") == before


def test_students_that_are_asked_at_the_same_time_do_not_mix(url: str) -> None:
    apart = {model: answers(url, model) for model in ("first", "second")}
    with ThreadPoolExecutor(6) as pool:
        models = ["first", "second", "alone"] * 3
        together = list(zip(models, pool.map(lambda model: answers(url, model), models), strict=True))
    assert all(found == apart["second" if model == "alone" else model] for model, found in together)
