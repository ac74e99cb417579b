"""One real engine on Ray Serve: plain weights and an adapter behind one address, asked as users ask."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from distill.models.chat_template import render_prompt
from serve.api.modes import chosen_in, opening_of
from serve.api.reasoning_parser import Delimiters
from serve.client import ask, chosen_mode, served_models
from serve.config import Endpoint, ServeConfig
from serve.dataset_client import complete
from serve.deploy import Progress, deploy, undeploy
from serve.errors import ServeError, UnknownModelError
from tests.fixtures.request_cases import (
    PATHS,
    case_name,
    differences,
    error_differences,
    read_answer,
    request_cases,
)
from tests.fixtures.tiny_models import (
    CHOICES,
    TOOLS_TEMPLATE,
    make_choosing_adapter,
    make_tiny_adapter,
    make_tiny_model,
)

CONFIG = ServeConfig(port=0, max_model_len=512, max_num_seqs=8, kv_cache_gib=0.1, cpus_per_engine=0.1)
QUESTION = "What is 3 + 4?"
THINKS = "tiny@thinks"
"""Begins inside its reasoning, and never ends it by itself."""
CHOOSES = "tiny@chooses"
"""Writes its mode itself, by the question."""
MODES = {"short": "Brief.", "long": "Think."}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("serve")


@pytest.fixture(scope="module")
def served(folder: Path, plain_ray: Path) -> Iterator[tuple[str, list[Progress]]]:
    """The base URL of a tiny model and one adapter on it, and what was reported while they started."""
    model = make_tiny_model(folder / "model", seed=1)
    adapter = make_tiny_adapter(folder / "adapter", model, seed=2)
    thinks = make_tiny_adapter(folder / "thinks", model, seed=3)
    endpoints = [
        Endpoint(name="tiny", source=str(model), metadata={"kind": "baseline"}, chat_template=TOOLS_TEMPLATE),
        Endpoint(name="tiny@mix-long", source=str(model), adapter=str(adapter), metadata={"accuracy": 0.5}),
        Endpoint(name=THINKS, source=str(model), adapter=str(thinks), reasoning=Delimiters(is_open=True)),
        Endpoint(
            name=CHOOSES,
            source=str(model),
            adapter=str(make_choosing_adapter(folder / "chooses", model)),
            metadata={"modes": MODES, "modes_in": "completion"},
            mode_openings={mode: opening_of(line) for mode, line in MODES.items()},
        ),
    ]
    seen: list[Progress] = []
    yield deploy(endpoints, CONFIG, on_progress=seen.append), seen
    undeploy()


def test_every_request_of_the_table_has_its_outcome(served: tuple[str, list[Progress]]) -> None:
    found = {}
    with httpx.Client(base_url=served[0], timeout=60) as client:
        for case in request_cases():
            answer = client.post(PATHS[case["path"]], json=case["body"])
            if answer.status_code != case["status"]:
                wrong = [f"{answer.status_code}: {answer.text[:300]}"]
            elif answer.status_code == 200:
                wrong = differences(case, read_answer(answer.text))
            else:
                wrong = error_differences(case, answer.json()["error"])
            found |= {case_name(case): wrong} if wrong else {}
    assert not found, "\n".join(f"{name}: {wrong}" for name, wrong in found.items())


def test_the_list_of_models_has_what_openai_requires(served: tuple[str, list[Progress]]) -> None:
    listed = openai.OpenAI(base_url=f"{served[0]}/v1", api_key="none").models.list().data
    assert all(time.time() - 3600 < model.created <= time.time() for model in listed)
    card = httpx.get(f"{served[0]}/v1/models/{THINKS}").json()
    assert (card["max_model_len"], card["root"], card["parent"]) == (CONFIG.max_model_len, "tiny", "tiny")
    assert httpx.get(f"{served[0]}/v1/models/nope").json()["error"]["code"] == "model_not_found"
    assert httpx.get(f"{served[0]}/v1/models/").json()["object"] == "list"


def test_a_wrong_method_is_told_the_right_one(served: tuple[str, list[Progress]]) -> None:
    answer = httpx.get(f"{served[0]}/v1/chat/completions")
    assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    body = {"model": "tiny", "messages": [{"role": "user", "content": QUESTION}], "max_tokens": 1}
    assert httpx.post(f"{served[0]}/v1/chat/completions/", json=body).status_code == 200, "no redirect"


def chat(url: str, model: str, **options: Any) -> str:
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none")
    answer = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": QUESTION}], temperature=0.0, seed=0, max_tokens=24, **options
    )
    return answer.choices[0].message.content or ""


def test_every_endpoint_is_listed_with_its_metadata(served: tuple[str, list[Progress]]) -> None:
    models = served_models(served[0])
    assert set(models) == {"tiny", "tiny@mix-long", THINKS, CHOOSES}
    assert models["tiny"]["kind"] == "baseline"
    assert models["tiny@mix-long"]["accuracy"] == 0.5


def test_a_student_that_writes_its_mode_chooses_it_by_the_question_or_takes_the_one_that_is_asked_for(
    served: tuple[str, list[Progress]],
) -> None:
    create = openai.OpenAI(base_url=f"{served[0]}/v1", api_key="none").chat.completions.create

    def answer(question: str, **fields: Any) -> str:
        turns: Any = [{"role": "user", "content": question}]
        reply = create(model=CHOOSES, messages=turns, temperature=0.0, seed=0, max_tokens=40, extra_body=fields)
        return str(reply.choices[0].message.content)

    openings = {mode: opening_of(line) for mode, line in MODES.items()}
    for question, (line, rest) in CHOICES.items():
        assert answer(question) == answer(question, mode="auto") == f"{line}\n{rest}"
        chosen = chosen_in(answer(question), openings)
        other = next(mode for mode in MODES if mode != chosen)
        assert answer(question, mode=chosen) == answer(question)
        assert chosen_in(answer(question, mode=other), openings) == other
        streamed = "".join(ask(served[0], CHOOSES, question, mode=other, max_tokens=40))
        assert streamed == answer(question, mode=other)
    assert chosen_mode(served_models(served[0])[CHOOSES]) == "auto"


def test_progress_counts_up_to_all_engines(served: tuple[str, list[Progress]]) -> None:
    ready = [progress.ready_engines for progress in served[1]]
    assert ready == sorted(ready) and ready[-1] == served[1][-1].num_engines == 1


def test_the_adapter_answers_differently_from_the_plain_weights(served: tuple[str, list[Progress]]) -> None:
    plain, adapted = chat(served[0], "tiny"), chat(served[0], "tiny@mix-long")
    assert plain and adapted and plain != adapted
    assert chat(served[0], "tiny") == plain, "a greedy answer repeats"


def greedy(model: Path, adapter: Path | None) -> str:
    """What transformers, without an engine, answers with these very weights."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    weights = AutoModelForCausalLM.from_pretrained(model, dtype=torch.bfloat16)
    if adapter:
        weights = PeftModel.from_pretrained(weights, adapter)
    tokens = torch.tensor([render_prompt(tokenizer, [{"role": "user", "content": QUESTION}])])
    answer = weights.generate(input_ids=tokens, max_new_tokens=8, do_sample=False)[0, tokens.shape[1] :]
    return str(tokenizer.decode(answer, skip_special_tokens=True))


def test_plain_weights_and_adapter_answer_with_their_own_weights(
    served: tuple[str, list[Progress]], folder: Path
) -> None:
    # vLLM's own CPU kernels give plain requests the adapter of the last slot while they decode.
    assert chat(served[0], "tiny").startswith(greedy(folder / "model", None))
    assert chat(served[0], "tiny@mix-long").startswith(greedy(folder / "model", folder / "adapter"))


def test_ask_streams_the_same_answer(served: tuple[str, list[Progress]]) -> None:
    pieces = list(ask(served[0], "tiny@mix-long", QUESTION, max_tokens=24))
    assert len(pieces) > 1
    assert "".join(pieces) == chat(served[0], "tiny@mix-long")


def test_a_helper_continues_where_the_student_doubts(served: tuple[str, list[Progress]]) -> None:
    create = openai.OpenAI(base_url=f"{served[0]}/v1", api_key="none").chat.completions.create
    question: Any = [{"role": "user", "content": QUESTION}]
    greedily: dict[str, Any] = {"temperature": 0.0, "seed": 0, "max_tokens": 24}
    alone = chat(served[0], "tiny")
    doubt = alone[: alone.index(alone[6]) + 1]  # the first time that it writes what is its seventh character
    turns = [*question, {"role": "assistant", "content": doubt}]
    continuation = {"add_generation_prompt": False, "continue_final_message": True}
    step = create(model="tiny@mix-long", messages=turns, extra_body=continuation, **greedily | {"max_tokens": 4})
    helper = {"model": "tiny@mix-long", "triggers": [doubt[-1]], "max_tokens": 4, "step_tokens": 4}
    asked = {"model": "tiny", "messages": question, "extra_body": {"speculative": helper}, **greedily}
    whole = create(**asked)
    text, usage = whole.choices[0].message.content, whole.usage
    assert text.startswith(doubt + step.choices[0].message.content) and text != alone
    assert usage.model_extra["helper_tokens"] == step.usage.completion_tokens and usage.completion_tokens <= 24
    pieces = [chunk.choices[0].delta.content for chunk in create(**asked, stream=True) if chunk.choices]
    assert "".join(filter(None, pieces)) == text


def test_ask_names_the_models_there_are(served: tuple[str, list[Progress]]) -> None:
    with pytest.raises(UnknownModelError, match=r"no model 'nope'.*tiny.*tiny@mix-long"):
        list(ask(served[0], "nope", QUESTION))


def test_ask_says_how_to_start_an_endpoint_when_nothing_listens() -> None:
    with pytest.raises(ServeError, match="start one with"):
        list(ask("http://127.0.0.1:9", "tiny", QUESTION))


def test_a_batch_returns_every_row_once_and_keeps_impossible_ones_with_a_reason(
    served: tuple[str, list[Progress]],
) -> None:
    rows = [
        {
            "row": number,
            "model": "tiny" if number % 2 else "tiny@mix-long",
            "messages": [{"role": "user", "content": f"{number} + {number}?"}],
            "sampling": {"temperature": 0.0, "seed": number, "max_tokens": 8},
        }
        for number in range(20)
    ]
    rows[3]["messages"] = [{"role": "user", "content": "9" * 1000}]
    rows[4]["model"] = "nope"
    done = sorted(complete(rows, served[0]).take_all(), key=lambda row: row["row"])
    assert [row["row"] for row in done] == list(range(20))
    assert {row["row"] for row in done if row["error"]} == {3, 4}
    assert "context length" in done[3]["error"]
    assert all(row["finish_reason"] in {"stop", "length"} and row["prompt_tokens"] for row in done if not row["error"])


def test_serve_cannot_move_to_another_port_and_the_running_endpoints_stay(served: tuple[str, list[Progress]]) -> None:
    port = int(served[0].rsplit(":", 1)[1])
    elsewhere = CONFIG.model_copy(update={"port": port - 1})
    with pytest.raises(ServeError, match=f"listens on port {port}, not on {port - 1}"):
        deploy([Endpoint(name="x", source="nowhere")], elsewhere)
    assert chat(served[0], "tiny")


def test_prometheus_reads_requests_and_the_engines_state_from_the_node(served: tuple[str, list[Progress]]) -> None:
    import ray

    chat(served[0], "tiny")
    node = ray.nodes()[0]
    address = f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"
    deadline, missing = time.monotonic() + 60, {"ray_serve_deployment_request_counter", "ray_vllm_generation_tokens"}
    while missing and time.monotonic() < deadline:
        time.sleep(2)
        told = httpx.get(address, timeout=10).text
        missing = {name for name in missing if name not in told}
    assert not missing, "within a minute of a request"
