"""Engines of teachers and of the evaluation that can never be placed on the given machines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from cluster.units import GIB
from distill.config.recipe import Recipe
from distill.config.teachers import EngineConfig, VllmTeacher
from distill.core.errors import Problem
from distill.models.shape import ModelShape
from distill.ops.forecast.roofline import RESERVED_GIB, USED_MEMORY, EngineSize
from distill.train.machines import Machines


def unplaceable(recipe: Recipe, shapes: Mapping[str, ModelShape], machines: Machines) -> list[Problem]:
    """Every engine that would wait for ever, with the missing resource and a remedy."""
    problems = []
    for teacher in recipe.teachers:
        if isinstance(teacher, VllmTeacher):
            where, shape = f"teachers[{teacher.name}]", shapes[teacher.model]
            mine, missing = _of_kind(where, teacher.gpu, machines)
            problems += missing or list(_engine_problems(where, teacher.engine, shape, mine, on_one_node=True))
            problems += list(_replica_problems(where, teacher, mine)) if not problems else []
    mine, missing = _of_kind("serve", recipe.serve.gpu, machines)
    problems += missing
    for model in sorted({student.model for student in recipe.students} if not missing else ()):
        problems += list(_serving_problems(recipe, shapes[model], mine))
    return list(dict.fromkeys(problems))


def _of_kind(where: str, gpu: str, machines: Machines) -> tuple[Machines, list[Problem]]:
    """The nodes with GPUs of a kind; a problem where there are none."""
    nodes = tuple(node for node in machines.nodes if node.is_of_kind(gpu) or machines.device == "cpu")
    if nodes:
        return replace(machines, nodes=nodes, gpu_memory_gib=machines.memory_of(gpu)), []
    found = ", ".join(sorted({node.gpu or "GPUs of an unknown kind" for node in machines.nodes})) or "no node"
    what = f'gpu = "{gpu}": no node has one; the cluster has {found}'
    return machines, [
        Problem(where, what, "name a kind that the cluster has, add nodes of that kind, or leave gpu out")
    ]


def _engine_problems(
    where: str, engine: EngineConfig, shape: ModelShape, machines: Machines, *, on_one_node: bool
) -> Iterator[Problem]:
    """GPUs (CPUs) or memory that one engine lacks. A teacher's engine runs on one node (vLLM's mp executor)."""
    count = engine.num_gpus
    found = _largest_node(machines) if on_one_node else int(sum(_devices(machines)))
    unit = "GPUs" if machines.device == "gpu" else "CPUs"
    if count > found:
        where_found = " on one node; the largest node" if on_one_node else "; the cluster"
        what = f"an engine needs {count} {unit}{where_found} has {found}"
        sizes = f"tensor_parallel = {engine.tensor_parallel}, pipeline_parallel = {engine.pipeline_parallel}"
        yield Problem(where, f"{what} ({sizes})", f"lower their product to at most {found}, or take larger nodes")
    elif machines.device == "gpu" and (missing := _missing_gib(engine, shape, machines)) > 0:
        has = f"{count} x {machines.gpu_memory_gib:.0f} GiB"
        need = f"{EngineSize(shape).weight_bytes / GIB:.1f} GiB of weights and {engine.max_model_len} tokens of context"
        more = next((n for n in (2, 4, 8, 16) if n > count and _missing_gib(engine, shape, machines, n) <= 0), None)
        remedy = f"set engine.tensor_parallel = {more}" if more and more <= found else "take GPUs with more memory"
        yield Problem(where, f"{need} do not fit {has}: {missing:.1f} GiB are missing", remedy)


def _missing_gib(engine: EngineConfig, shape: ModelShape, machines: Machines, num_gpus: int = 0) -> float:
    """GiB that are missing for the weights and one sequence of full length; not positive where they fit."""
    count = num_gpus or engine.num_gpus
    size = EngineSize(shape, count)
    share = float(engine.kwargs.get("gpu_memory_utilization", USED_MEMORY))
    usable = count * (share * machines.gpu_memory_gib - RESERVED_GIB)
    return (size.weight_bytes + engine.max_model_len * size.token_bytes) / GIB - usable


def _replica_problems(where: str, teacher: VllmTeacher, machines: Machines) -> Iterator[Problem]:
    """A problem where the least number of replicas exceeds what the cluster holds."""
    count = teacher.engine.num_gpus
    held = sum(int(have // count) for have in _devices(machines))
    fewest = teacher.replicas[0]
    if fewest > held:
        unit = "GPUs" if machines.device == "gpu" else "CPUs"
        what = f"replicas = {list(teacher.replicas)} needs {fewest} engines of {count} {unit}; the cluster holds {held}"
        yield Problem(where, what, f"set replicas = [{held}, {max(held, teacher.replicas[1])}]")


def _serving_problems(recipe: Recipe, shape: ModelShape, machines: Machines) -> Iterator[Problem]:
    yield from _engine_problems("serve.engine", recipe.serve.engine, shape, machines, on_one_node=False)
    if machines.device == "cpu":
        spare = sum(node.cpus for node in machines.nodes) - 1.0
        wanted = recipe.serve.cpus_per_engine
        if wanted > spare:
            what = f"an engine reserves {wanted:g} CPUs; apart from one CPU for small tasks there are {spare:g}"
            yield Problem("serve.cpus_per_engine", what, f"set it to at most {spare:g}")


def _devices(machines: Machines) -> Sequence[float]:
    return [node.gpus if machines.device == "gpu" else node.cpus for node in machines.nodes]


def _largest_node(machines: Machines) -> int:
    return int(max(_devices(machines), default=0))
