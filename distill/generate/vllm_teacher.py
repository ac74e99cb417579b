"""Teachers that run on this cluster: ray.data.llm starts and replaces the vLLM engines; their actors ask the prompts.

Imports ray.llm and torch: only for the driver of a generation and its actors.
"""

import asyncio
import functools
import os
import uuid
from typing import Any, NamedTuple

import pyarrow as pa
import ray
from ray.data import Dataset
from ray.data.llm import Processor, build_processor, vLLMEngineProcessorConfig

from cluster.placement import Resources
from cluster.session import Device
from cluster.storage import local_folder
from cluster.vllm_args import (
    engine_arguments,
    engine_bundles,
    engine_env,
    parallel_arguments,
    single_worker_env,
)
from distill.config.teachers import ChatFormat, EngineConfig, VllmTeacher
from distill.generate.asker import Asker, Completion, RequestFailed, RequestRefused, TeacherJob
from distill.generate.chunks import CHUNK_ROWS
from distill.generate.edits import begun_answer
from distill.generate.pools import Request, sampling_params, vllm_version
from distill.models.chat_template import (
    chat_messages,
    control_tokens,
    encode,
    end_of_turn,
    has_special_tags,
    prompt_text,
    without_trailing_ends,
)
from distill.models.resolve import load_tokenizer
from distill.models.thinking import prompt_end, with_prompt_opening
from distill.run.pools import Pool
from serve.api.reasoning_parser import opening_delimiter
from serve.engines.ray_data_llm import VLLM_CLIENT_ERRORS, VLLM_FATAL_ERRORS, vLLMEngineStageUDF

CHUNKS_IN_FLIGHT = 32
"""Chunks that one engine works on at once: as many prompts as vLLM runs sequences by default on a large GPU."""
QUEUE_FACTOR = 2
"""Requests queued at an engine, as a multiple of ray.data.llm's own limit (1.1 times what it computes at once). Short
answers finish in bursts, and a shorter queue runs dry before this actor can refill it."""


class TeacherEngine(vLLMEngineStageUDF):
    """ray.data.llm's engine actor, which takes prompts (to ask, grade and ask again) instead of single requests."""

    def __init__(self, *, job: TeacherJob, model: str, expected_input_keys: list[str], **engine: Any) -> None:
        # Our rows have no sampling_params column.
        super().__init__(model=local_folder(model), expected_input_keys=[], **engine)
        self.engine_name = f"vllm {vllm_version()}"
        self.window = asyncio.Semaphore(QUEUE_FACTOR * self.llm.max_pending_requests)
        self.asker = Asker(job, self.write)
        job.progress.engine_ready.remote()

    async def __call__(self, batch: pa.Table) -> pa.Table:
        """Ask a chunk of prompts; returns its row with the new states."""
        return await self.asker.answer_table(batch)

    async def write(self, request: Request, pool: Pool, problem: str) -> Completion:
        """One completion by this actor's engine."""
        from vllm import SamplingParams
        from vllm.inputs.llm import TokensPrompt
        from vllm.sampling_params import RequestOutputKind

        teacher = pool.teacher
        assert isinstance(teacher, VllmTeacher)
        prompt = prompt_of(pool, problem, request.read)
        tokens = prompt.tokens
        if len(tokens) >= teacher.engine.max_model_len:
            limit = teacher.engine.max_model_len
            raise RequestRefused(f"the prompt has {len(tokens)} tokens, engine.max_model_len is {limit}")
        params = SamplingParams(
            **sampling_params(teacher.sampling, request.seed),
            **end_params(pool),
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        async with self.window:  # vLLM slows down when far more requests wait than it computes at once
            output = await self._finished(TokensPrompt(prompt_token_ids=tokens), params)
        answer = output.outputs[0]
        if answer.finish_reason not in ("stop", "length"):
            raise RequestFailed(f"the engine ended the request with {answer.finish_reason!r}")
        given = len(with_prompt_opening(prompt.text, prompt.begun)) if prompt.begun else 0
        return Completion(
            text=trace_text(pool, prompt, prompt.begun + answer.text),
            finish_reason=answer.finish_reason,
            prompt_tokens=len(tokens),
            completion_tokens=len(answer.token_ids),
            engine=self.engine_name,
            cached_tokens=output.num_cached_tokens or 0,
            given=given,
        )

    async def _finished(self, prompt: Any, params: Any) -> Any:
        try:
            async for output in self.llm.engine.generate(prompt, params, request_id=uuid.uuid4().hex):
                if output.finished:
                    return output
        except VLLM_FATAL_ERRORS:
            # The engine's process died, this actor did not. Ray replaces an actor that exits this way and gives its
            # batches to another one; exit_actor() would fail them.
            reported = self.asker.job.progress.engine_died.remote(self.asker.engine, sorted(self.asker.batches))
            ray.get(reported, timeout=10)
            os._exit(1)
        except (ValueError, *VLLM_CLIENT_ERRORS) as error:
            raise RequestRefused(str(error)) from error
        except RuntimeError as error:
            raise RequestFailed(f"{type(error).__name__}: {error}") from error
        raise RequestFailed("the engine ended the request without an answer")


@functools.lru_cache(maxsize=8)
def _tokenizer(path: str) -> Any:
    return load_tokenizer(path)


class RenderedPrompt(NamedTuple):
    """A prompt as the engine gets it."""

    text: str
    """Without what begins the answer."""
    tokens: list[int]
    begun: str = ""
    """The beginning of the answer, which the engine gets as well: what it is to continue."""


@functools.lru_cache(maxsize=4096)
def _rendered(path: str, chat_json: str, problem: str) -> RenderedPrompt:
    chat, tokenizer = ChatFormat.model_validate_json(chat_json), _tokenizer(path)
    text = prompt_text(tokenizer, chat_messages(problem, chat), chat.template_options)
    return RenderedPrompt(text, encode(tokenizer, text))


def prompt_of(pool: Pool, problem: str, read: str = "") -> RenderedPrompt:
    """The prompt that the pool's engine gets; one without a trace is cached for its further samples.

    `read`: what the teacher reads; empty: it reads nothing.
    """
    teacher = pool.teacher
    assert isinstance(teacher, VllmTeacher)
    if not read:
        return _rendered(pool.source, teacher.chat.model_dump_json(), problem)
    tokenizer, chat = _tokenizer(pool.source), teacher.chat
    text = prompt_text(tokenizer, chat_messages(problem, chat, read), chat.template_options)
    if teacher.continues is None:
        return RenderedPrompt(text, encode(tokenizer, text))
    end = prompt_end(text)
    is_free = not (end.opened or end.closed or end.is_answer)
    opens = is_free and opening_delimiter(teacher.reasoning_end) in tokenizer.get_added_vocab()
    begun = begun_answer(teacher, read, opens=opens)
    return RenderedPrompt(text, encode(tokenizer, text + begun), begun)


def end_params(pool: Pool) -> dict[str, Any]:
    """Sampling parameters that end a turn where the chat template ends it, and that keep think tags in the text."""
    tokenizer = _tokenizer(pool.source)
    return {
        "stop_token_ids": [end_of_turn(tokenizer)[-1]],
        "skip_special_tokens": not has_special_tags(tokenizer),
    }


def trace_text(pool: Pool, prompt: RenderedPrompt, text: str) -> str:
    """An engine's text as a whole trace: the reasoning that the prompt has opened is put back, end tokens are cut off.

    Args:
        pool: that it was written for.
        prompt: as the engine got it.
        text: what the engine wrote behind it.
    """
    tokenizer = _tokenizer(pool.source)
    if has_special_tags(tokenizer):  # special tokens are in the text, those that end the turn as well
        text = without_trailing_ends(text, tuple(control_tokens(tokenizer).values()))
    return with_prompt_opening(prompt.text, text)


def ask_vllm(chunks: Dataset, job: TeacherJob, device: Device) -> Dataset:
    """Ask the engines of one model chunk by chunk, lazily; the chunks come back with their new states.

    Only the engine stage of ray.data.llm's processor is used, not the maps before and after it: with them every chunk
    would take three Ray tasks instead of one.
    """
    stage = build_processor(processor_config(job.pools[0], device)).get_stage_by_name("vLLMEngineStage")
    how = stage.get_dataset_map_batches_kwargs(batch_size=1, data_column=Processor.DATA_COLUMN)
    how["fn_constructor_kwargs"] |= {"job": job, "model": job.pools[0].source}
    return chunks.map_batches(TeacherEngine, batch_format="pyarrow", **how)


def engine_need(pool: Pool, device: Device) -> Resources:
    """Resources of the pool's smallest number of engines."""
    assert isinstance(pool.teacher, VllmTeacher)
    num_engines = pool.teacher.replicas[0]
    num_workers = pool.teacher.engine.num_gpus
    count = num_engines * num_workers
    return Resources(cpus=count, gpus=count, gpu=pool.teacher.gpu) if device == "gpu" else Resources(cpus=count)


def _engine_extra(engine: EngineConfig) -> dict[str, Any]:
    spans = parallel_arguments(engine.tensor_parallel, engine.pipeline_parallel)
    # The "ray" executor keeps its placement group after the job, so the next teacher would wait for it (ray #64035).
    return spans | ({"distributed_executor_backend": "mp"} if spans else {}) | engine.kwargs


def processor_config(pool: Pool, device: Device) -> vLLMEngineProcessorConfig:
    """ray.data.llm's settings for a pool's engines. Chat templates and tokens are ours, so its CPU stages are off."""
    teacher = pool.teacher
    assert isinstance(teacher, VllmTeacher)
    engine = teacher.engine
    num_workers = engine.num_gpus
    environment = engine_env(device, pool.source) | single_worker_env(device, num_workers)
    return vLLMEngineProcessorConfig(
        model_source=local_folder(pool.source),
        engine_kwargs=engine_arguments(
            device,
            max_model_len=engine.max_model_len,
            kv_cache_gib=engine.kv_cache_gib,
            extra=_engine_extra(engine),
        ),
        runtime_env={"env_vars": environment},
        placement_group_config=engine_bundles(device, num_workers, gpu=teacher.gpu),
        concurrency=teacher.replicas,
        batch_size=CHUNK_ROWS,
        max_concurrent_batches=CHUNKS_IN_FLIGHT,
        chat_template_stage=False,
        tokenize_stage=False,
        detokenize_stage=False,
        log_engine_metrics=False,
    )
