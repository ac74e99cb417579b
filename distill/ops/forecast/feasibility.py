"""What can never be placed: engines of teachers and of the evaluation that no node or cluster of these can hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from distill.config.recipe import Recipe
from distill.config.teachers import EngineConfig, VllmTeacher
from distill.core.errors import Problem
from distill.models.shape import ModelShape
from distill.ops.forecast.roofline import GIB, OWN_GIB, USED_MEMORY, EngineSize
from distill.train.machines import Machines


def unplaceable(recipe: Recipe, shapes: Mapping[str, ModelShape], machines: Machines) -> list[Problem]:
    """Everything that would wait for ever, each with the missing resource and what would help."""
    problems = []
    for teacher in recipe.teachers:
        if isinstance(teacher, VllmTeacher):
            where, shape = f"teachers[{teacher.name}]", shapes[teacher.model]
            mine, missing = _of_kind(where, teacher.gpu, machines)
            problems += missing or list(_engine_problems(where, teacher.engine, shape, mine, on_one_node=True))
            problems += list(_too_many(where, teacher, mine)) if not problems else []
    mine, missing = _of_kind("serve", recipe.serve.gpu, machines)
    problems += missing
    for model in sorted({student.model for student in recipe.students} if not missing else ()):
        problems += list(_serving_problems(recipe, shapes[model], mine))
    return list(dict.fromkeys(problems))


def _of_kind(where: str, gpu: str, machines: Machines) -> tuple[Machines, list[Problem]]:
    """The nodes whose GPUs are of a kind; a problem where there is none."""
    nodes = tuple(node for node in machines.nodes if node.is_of_kind(gpu) or machines.device == "cpu")
    if nodes:
        return replace(machines, nodes=nodes), []
    found = ", ".join(sorted({node.gpu or "GPUs of no known kind" for node in machines.nodes})) or "no node"
    what = f'gpu = "{gpu}": no node has one; the cluster has {found}'
    return machines, [Problem(where, what, "name a kind that it has, add a node group of that kind, or leave gpu out")]


def _engine_problems(
    where: str, engine: EngineConfig, shape: ModelShape, machines: Machines, *, on_one_node: bool
) -> Iterator[Problem]:
    """Missing GPUs (CPUs) or memory of one engine. A teacher's engine lives on one node (vLLM's mp executor)."""
    count = engine.tensor_parallel * engine.pipeline_parallel
    found = _most(machines) if on_one_node else int(sum(_devices(machines)))
    unit = "GPUs" if machines.device == "gpu" else "CPUs"
    if count > found:
        place = "on one node; the largest node" if on_one_node else "; the cluster"
        what = f"an engine needs {count} {unit} {place} has {found}"
        sizes = f"tensor_parallel = {engine.tensor_parallel}, pipeline_parallel = {engine.pipeline_parallel}"
        yield Problem(
            where, f"{what} ({sizes})".replace(" ;", ";"), f"lower them to {found} {unit} in all, or larger nodes"
        )
    elif machines.device == "gpu" and (missing := _missing_gib(engine, shape, machines)) > 0:
        has = f"{count} x {machines.gpu_memory_gib:.0f} GiB"
        need = f"{EngineSize(shape).weight_bytes / GIB:.1f} GiB of weights and {engine.max_model_len} tokens of context"
        more = next((n for n in (2, 4, 8, 16) if n > count and _missing_gib(engine, shape, machines, n) <= 0), None)
        remedy = f"set engine.tensor_parallel = {more}" if more and more <= found else "take GPUs with more memory"
        yield Problem(where, f"{need} do not fit {has}: {missing:.1f} GiB are missing", remedy)


def _missing_gib(engine: EngineConfig, shape: ModelShape, machines: Machines, num_gpus: int = 0) -> float:
    """Memory that the weights and one sequence of full length lack, GiB; not positive where they fit."""
    count = num_gpus or engine.tensor_parallel * engine.pipeline_parallel
    size = EngineSize(shape, count)
    share = float(engine.kwargs.get("gpu_memory_utilization", USED_MEMORY))
    usable = count * (share * machines.gpu_memory_gib - OWN_GIB)
    return (size.weight_bytes + engine.max_model_len * size.token_bytes) / GIB - usable


def _too_many(where: str, teacher: VllmTeacher, machines: Machines) -> Iterator[Problem]:
    """Fewest replicas that are more than the cluster holds."""
    count = teacher.engine.tensor_parallel * teacher.engine.pipeline_parallel
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
            what = f"an engine reserves {wanted:g} CPUs; beside the CPU that small tasks need there are {spare:g}"
            yield Problem("serve.cpus_per_engine", what, f"set it to at most {spare:g}")


def _devices(machines: Machines) -> Sequence[float]:
    return [node.gpus if machines.device == "gpu" else node.cpus for node in machines.nodes]


def _most(machines: Machines) -> int:
    return int(max(_devices(machines), default=0))
