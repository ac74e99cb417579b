"""The student of the arm before answers the prompt of every row, at temperature 1: one vLLM engine in a Ray task.

Its log-probabilities are kept only to see later how far the student has moved; what is learnt from is computed by our
own code (`distill.train.rollouts.score`): an engine's are in its own precision, and those of prompts may be stale.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from cluster.session import Device
from cluster.storage import local_folder
from cluster.vllm_args import engine_arguments, parallel_arguments
from distill.config.teachers import EngineConfig
from distill.core.run_dir import RunDir
from distill.core.schema import Example, seed_for
from distill.models.chat_template import end_of_turn, render_prompt
from distill.models.resolve import load_tokenizer
from distill.models.template_options import read_options
from distill.train.rollouts.engine_watch import ends_with_engine, started_engine
from distill.train.rollouts.store import Rollout, write_rollouts
from serve.config import LORA_RANKS

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHUNK = 512
"""Answers whose log-probabilities are Python objects at the same time."""


@dataclass(frozen=True)
class RolloutJob:
    """What the engine's task needs, sent to it by pickle."""

    run_uri: str
    cell: str
    examples: str
    """Path of the arm's rows in the run's file system."""
    seed: int
    model: str
    """Address of the weights that the cell starts from."""
    adapter: str
    """Of the adapter on them; empty: none."""
    rank: int
    engine: EngineConfig
    device: Device
    max_tokens: int
    max_length: int
    """Of prompt and answer together, as a row is trained on."""


class Asked(NamedTuple):
    """A row's prompt as the student gets it."""

    trace_id: str
    tokens: list[int]
    room: int
    """Most tokens of the answer."""


def student_prompt(tokenizer: PreTrainedTokenizerBase, example: Mapping[str, Any]) -> list[int]:
    """A row's prompt in the student's format, as training rows have it."""
    return render_prompt(tokenizer, example["messages"][:-1], read_options(example["template_options"]))


def read_examples(run_dir: RunDir, path: str) -> list[dict[str, Any]]:
    """The rows of an arm. `path`: in the run's file system."""
    parts = path.removeprefix(run_dir.path()).strip("/").split("/")
    rows: list[dict[str, Any]] = run_dir.read_table(*parts, row_type=Example).to_pylist()
    return rows


def prompts_of(job: RolloutJob, examples: Sequence[Mapping[str, Any]], tokenizer: Any) -> Iterator[Asked]:
    """Every row's prompt that leaves room for an answer."""
    for example in examples:
        tokens = student_prompt(tokenizer, example)
        room = min(job.max_tokens, job.max_length - len(tokens), job.engine.max_model_len - len(tokens))
        if room > 0:
            yield Asked(example["trace_id"], tokens, room)


def write_answers(job: RolloutJob) -> float:
    """The Ray task: write and store the answers; the seconds that it took without starting the engine."""
    from vllm import LLM, SamplingParams
    from vllm.inputs.llm import TokensPrompt
    from vllm.lora.request import LoRARequest

    run_dir, tokenizer = RunDir(job.run_uri), load_tokenizer(local_folder(job.model))
    asked = list(prompts_of(job, read_examples(run_dir, job.examples), tokenizer))
    end = end_of_turn(tokenizer)[-1]
    adapter = LoRARequest("student", 1, local_folder(job.adapter)) if job.adapter else None
    rank = job.rank if job.adapter else 0
    arguments = llm_arguments(job.engine, job.device, seed=job.seed, rank=rank)
    engine, processes = started_engine(lambda: LLM(model=local_folder(job.model), **arguments))
    rollouts: list[Rollout] = []
    started = time.monotonic()
    for start in range(0, len(asked), CHUNK):
        part = asked[start : start + CHUNK]
        params = [
            SamplingParams(
                temperature=1.0,
                top_p=1.0,
                max_tokens=one.room,
                seed=seed_for("rollout", job.seed, one.trace_id),
                stop_token_ids=[end],
                logprobs=0,  # of the sampled token alone
                flat_logprobs=True,
                detokenize=False,
            )
            for one in part
        ]
        prompts = [TokensPrompt(prompt_token_ids=one.tokens) for one in part]
        with ends_with_engine(processes):
            outputs = engine.generate(prompts, params, use_tqdm=False, lora_request=adapter)
        rollouts += [_rollout(one.trace_id, output.outputs[0]) for one, output in zip(part, outputs, strict=True)]
    seconds = time.monotonic() - started
    write_rollouts(run_dir, job.cell, [one for one in rollouts if len(one.tokens)])
    return seconds


def llm_arguments(engine: EngineConfig, device: Device, *, seed: int, rank: int) -> dict[str, Any]:
    """Arguments of a `vllm.LLM` that a student writes with. `rank`: of its adapter; 0: it has none."""
    spans = parallel_arguments(engine.tensor_parallel, engine.pipeline_parallel)
    most = next((one for one in LORA_RANKS if one >= rank), rank)
    adapters = {"enable_lora": True, "max_loras": 1, "max_lora_rank": most} if rank else {}
    own = {"generation_config": "vllm", "seed": seed, **adapters, **spans, **engine.kwargs}
    return engine_arguments(device, max_model_len=engine.max_model_len, kv_cache_gib=engine.kv_cache_gib, extra=own)


def _rollout(trace_id: str, answer: Any) -> Rollout:
    """An engine's answer as arrays."""
    flat = answer.logprobs
    sampled = [flat.logprobs[start] for start in flat.start_indices] if len(answer.token_ids) else []
    return Rollout(
        trace_id,
        np.asarray(answer.token_ids, dtype=np.int32),
        np.asarray(sampled, dtype=np.float32),
        answer.finish_reason == "stop",
    )
