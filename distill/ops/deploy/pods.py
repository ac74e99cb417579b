"""How many pods a recipe takes on Kubernetes, and what is in each: pure arithmetic.

A pod holds whole engines, since the GPUs of one talk by shared memory; the workers of a cell may lie in several. A CPU
engine or worker computes on all cores, so it has a pod of its own.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from cluster.kuberay.config import GroupConfig, KubernetesConfig
from cluster.kuberay.manifest import Group, Pod
from distill.config.recipe import Recipe
from distill.config.serve import ServeSection
from distill.config.teachers import EngineConfig, VllmTeacher
from distill.core.errors import InputError
from distill.core.schema import content_hash
from distill.train.cells import all_cells, cells
from serve.config import Endpoint, group_engines

MAX_POD_GPUS = 8
"""Of the machines that clouds rent; a recipe that wants larger pods says so."""
GPU_CPUS, GPU_MEMORY_GIB = 6, 24
"""For each GPU: what Kubernetes leaves of the smallest machines with one (8 CPUs, 32 GB)."""
CPU_CPUS, CPU_MEMORY_GIB = 4, 16


class Pods(NamedTuple):
    """Numbers of pods of a group, as the recipe has them."""

    needed: int
    """With fewer the work cannot be done."""
    fewest: int
    """That are always up."""
    first: int
    """To begin with."""
    most: int


def job_groups(recipe: Recipe, config: KubernetesConfig) -> list[Group]:
    """The worker groups of a run: teachers where it has engines of its own, and students.

    Raises:
        InputError: an engine fits into no pod, or the settings allow too few.
    """
    engines = list(_teacher_engines(recipe))
    teachers = [_teacher_group(recipe, config.teachers, engines)] if engines else []
    return [*teachers, _student_group(recipe, config.students)]


def service_group(recipe: Recipe, config: KubernetesConfig, endpoints: Sequence[Endpoint]) -> Group:
    """The engines of an endpoint: those that start, and most of them, with those of an update beside them.

    Raises:
        InputError: an engine fits into no pod, or the settings allow too few.
    """
    section, size = recipe.serve, engine_slots(recipe, recipe.serve.engine)
    slots = pod_slots(recipe, config.students, size)
    refuse_wide("an engine of serve.engine", size, slots, "students")
    engines = group_engines(endpoints, rank_of=lambda folder: 1)
    eager = [engine for engine in engines if not engine.is_on_demand]
    first = pods_for([size] * len(eager) * max(1, section.min_replicas), slots)
    kept = pods_for([size] * len(eager) * section.min_replicas, slots)
    most = pods_for([size] * len(engines) * _with_surge(section), slots)
    return _sized(recipe, "students", config.students, slots, Pods(first, kept, first, most))


def _with_surge(section: ServeSection) -> int:
    return -(-section.max_replicas * (100 + section.surge_percent) // 100)


def _teacher_engines(recipe: Recipe) -> Iterator[VllmTeacher]:
    """One teacher for each model that has engines of its own: styles of one share them."""
    seen = set()
    for teacher in recipe.teachers:
        if isinstance(teacher, VllmTeacher):
            key = content_hash(teacher.model, teacher.engine.model_dump(), teacher.replicas)
            if key not in seen:
                seen.add(key)
                yield teacher


def _teacher_group(recipe: Recipe, group: GroupConfig, teachers: Sequence[VllmTeacher]) -> Group:
    sizes = {teacher.name: engine_slots(recipe, teacher.engine) for teacher in teachers}
    slots = pod_slots(recipe, group, max(sizes.values()))
    for name, size in sizes.items():
        refuse_wide(f"an engine of teachers[{name}]", size, slots, "teachers")
    fewest = [[sizes[teacher.name]] * teacher.replicas[0] for teacher in teachers]
    most = [sizes[teacher.name] for teacher in teachers for _ in range(teacher.replicas[1])]
    # All teachers at once to begin with. Pods of one that has nothing to do go, and come back when it has.
    first = pods_for([size for engines in fewest for size in engines], slots)
    needed = max(pods_for(engines, slots) for engines in fewest)
    return _sized(recipe, "teachers", group, slots, Pods(needed, 0, first, pods_for(most, slots)))


def _student_group(recipe: Recipe, group: GroupConfig) -> Group:
    trained = cells(recipe)
    workers = sorted((cell.student.num_workers for cell in trained), reverse=True)
    engine = engine_slots(recipe, recipe.serve.engine)
    slots = pod_slots(recipe, group, max(engine, min(workers[0], MAX_POD_GPUS)))
    refuse_wide("an engine of serve.engine", engine, slots, "students")
    at_once = workers[: recipe.train.max_parallel_cells]
    num_engines = min(recipe.serve.max_engines, len(recipe.students) + len(all_cells(recipe)))
    # The queue of cells plans with the machines that are up when training begins: the largest cell must find its own.
    fewest = -(-workers[0] // slots)
    most = max(-(-sum(at_once) // slots), pods_for([engine] * num_engines, slots))
    return _sized(recipe, "students", group, slots, Pods(fewest, fewest, fewest, most))


def is_gpu(recipe: Recipe) -> bool:
    """Which pods it wants is not asked of a cluster: a recipe that does not say "cpu" means GPUs."""
    return recipe.device != "cpu"


def engine_slots(recipe: Recipe, engine: EngineConfig) -> int:
    """What an engine takes of a pod: GPUs, or all of it."""
    return engine.tensor_parallel * engine.pipeline_parallel if is_gpu(recipe) else 1


def pod_slots(recipe: Recipe, group: GroupConfig, largest: int) -> int:
    """GPUs of a pod, or the one place that it has without."""
    return group.gpus or largest if is_gpu(recipe) else 1


def refuse_wide(what: str, size: int, slots: int, group: str) -> None:
    """An engine that is wider than a pod.

    Raises:
        InputError: says by how much.
    """
    if size > slots:
        remedy = f"set kubernetes.{group}.gpus={size}, or lower its parallelism"
        raise InputError(f"{what} takes {size} GPUs, a pod has {slots} -> {remedy}")


def pods_for(sizes: Iterable[int], slots: int) -> int:
    """Pods that hold engines of these sizes whole: the largest first, each where it fits first."""
    free: list[int] = []
    for size in sorted(sizes, reverse=True):
        index = next((index for index, left in enumerate(free) if left >= size), None)
        if index is None:
            free.append(slots - size)
        else:
            free[index] -= size
    return len(free)


def _sized(recipe: Recipe, name: str, group: GroupConfig, slots: int, pods: Pods) -> Group:
    """A group with what the recipe asks for, bounded by what the settings say.

    Raises:
        InputError: they allow fewer pods than the work takes.
    """
    if group.max_nodes is not None and group.max_nodes < pods.needed:
        remedy = f"set it to {pods.needed} or more, or give a pod more GPUs"
        raise InputError(f"kubernetes.{name}.max_nodes = {group.max_nodes}, {pods.needed} are needed -> {remedy}")
    fewest = pods.fewest if group.min_nodes is None else group.min_nodes
    most = max(1, fewest, pods.most) if group.max_nodes is None else group.max_nodes
    gpus = slots if is_gpu(recipe) else 0
    pod = Pod(
        name,
        cpus=group.cpus or GPU_CPUS * gpus or CPU_CPUS,
        memory_gib=group.memory_gib or GPU_MEMORY_GIB * gpus or CPU_MEMORY_GIB,
        gpus=gpus,
        node_selector=group.node_selector,
        tolerations=group.tolerations,
    )
    return Group(pod, min(fewest, most), min(max(fewest, pods.first), most), most)
