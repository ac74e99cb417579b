"""Number and size of the pods that a recipe needs on Kubernetes. Pure functions.

A pod holds whole engines, since the GPUs of an engine communicate by shared memory; the workers of a cell may be in
several pods. A CPU engine or worker computes on all cores, so it has a pod of its own.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from cluster.kuberay.config import GroupConfig, KubernetesConfig
from cluster.kuberay.manifest import Group, Pod
from distill.config.recipe import Recipe
from distill.config.serve import ServeSection
from distill.config.teachers import EngineConfig, VllmTeacher, engine_key
from distill.core.errors import InputError
from distill.train.cells import all_cells, cells, num_at_once
from serve.config import Endpoint, group_engines

MAX_POD_GPUS = 8
"""GPUs of the largest usual cloud machine; a recipe may set larger pods."""
GPU_CPUS, GPU_MEMORY_GIB = 6, 24
"""Per GPU: what Kubernetes leaves free on the smallest machines with one (8 CPUs, 32 GB)."""
CPU_CPUS, CPU_MEMORY_GIB = 4, 16


class Pods(NamedTuple):
    """Numbers of pods of a group, from the recipe."""

    needed: int
    """Fewest pods with which the work can be done."""
    min_nodes: int
    """Pods that are always up."""
    initial_nodes: int
    """Pods at the start."""
    max_nodes: int


def job_groups(recipe: Recipe, config: KubernetesConfig) -> list[Group]:
    """The worker groups of a run: teachers, if any of them is an engine of this cluster, and students.

    Raises:
        InputError: an engine does not fit a pod, or the settings allow too few pods.
    """
    engines = list(_teacher_engines(recipe))
    teachers = [_teacher_group(recipe, config.teachers, engines)] if engines else []
    return [*teachers, _student_group(recipe, config.students)]


def service_group(recipe: Recipe, config: KubernetesConfig, endpoints: Sequence[Endpoint]) -> Group:
    """The worker group of an endpoint: pods for all engines, and for those that an update starts beside them.

    Raises:
        InputError: an engine does not fit a pod, or the settings allow too few pods.
    """
    section, size = recipe.serve, engine_slots(recipe, recipe.serve.engine)
    slots = pod_slots(recipe, config.students, size)
    validate_fits_pod("an engine of serve.engine", size, slots, "students")
    engines = group_engines(endpoints, rank_of=lambda folder: 1)
    eager = [engine for engine in engines if not engine.is_on_demand]
    initial = pods_for([size] * len(eager) * max(1, section.min_replicas), slots)
    kept = pods_for([size] * len(eager) * section.min_replicas, slots)
    largest = pods_for([size] * len(engines) * _with_surge(section), slots)
    return _sized(recipe, "students", config.students, slots, Pods(initial, kept, initial, largest))


def _with_surge(section: ServeSection) -> int:
    return -(-section.max_replicas * (100 + section.max_surge_percent) // 100)


def _teacher_engines(recipe: Recipe) -> Iterator[VllmTeacher]:
    """One teacher for each group of engines (`engine_key`)."""
    seen = set()
    for teacher in recipe.teachers:
        if isinstance(teacher, VllmTeacher) and engine_key(teacher) not in seen:
            seen.add(engine_key(teacher))
            yield teacher


def _teacher_group(recipe: Recipe, group: GroupConfig, teachers: Sequence[VllmTeacher]) -> Group:
    sizes = {teacher.name: engine_slots(recipe, teacher.engine) for teacher in teachers}
    slots = pod_slots(recipe, group, max(sizes.values()))
    for name, size in sizes.items():
        validate_fits_pod(f"an engine of teachers[{name}]", size, slots, "teachers")
    fewest = [[sizes[teacher.name]] * teacher.replicas[0] for teacher in teachers]
    most = [sizes[teacher.name] for teacher in teachers for _ in range(teacher.replicas[1])]
    # All teachers at the start. The autoscaler removes pods of a teacher without work, and adds them again later.
    initial = pods_for([size for engines in fewest for size in engines], slots)
    needed = max(pods_for(engines, slots) for engines in fewest)
    return _sized(recipe, "teachers", group, slots, Pods(needed, 0, initial, pods_for(most, slots)))


def _student_group(recipe: Recipe, group: GroupConfig) -> Group:
    trained = cells(recipe)
    workers = sorted((cell.student.num_workers for cell in trained), reverse=True)
    engine = engine_slots(recipe, recipe.serve.engine)
    slots = pod_slots(recipe, group, max(engine, min(workers[0], MAX_POD_GPUS)))
    validate_fits_pod("an engine of serve.engine", engine, slots, "students")
    at_once = workers[: num_at_once(trained, recipe.train.max_parallel_cells)]
    num_engines = min(recipe.serve.max_engines, len(recipe.students) + len(all_cells(recipe)))
    # The queue of cells plans with the nodes that are up when training begins, so the largest cell must fit them.
    fewest = -(-workers[0] // slots)
    most = max(-(-sum(at_once) // slots), pods_for([engine] * num_engines, slots))
    return _sized(recipe, "students", group, slots, Pods(fewest, fewest, fewest, most))


def is_gpu(recipe: Recipe) -> bool:
    """Whether the pods have GPUs: no cluster is asked, so every recipe without device = "cpu" gets them."""
    return recipe.device != "cpu"


def engine_slots(recipe: Recipe, engine: EngineConfig) -> int:
    """Slots that an engine takes: its GPUs, or one on CPU."""
    return engine.num_gpus if is_gpu(recipe) else 1


def pod_slots(recipe: Recipe, group: GroupConfig, largest: int) -> int:
    """Slots of a pod: its GPUs, or one on CPU."""
    return group.gpus or largest if is_gpu(recipe) else 1


def validate_fits_pod(what: str, size: int, slots: int, group: str) -> None:
    """Check that an engine fits a pod.

    Raises:
        InputError: it takes more GPUs than a pod has.
    """
    if size > slots:
        remedy = f"set kubernetes.{group}.gpus={size}, or lower its parallelism"
        raise InputError(f"{what} takes {size} GPUs, a pod has {slots} -> {remedy}")


def pods_for(sizes: Iterable[int], slots: int) -> int:
    """Number of pods that hold engines of these sizes (first-fit decreasing)."""
    free: list[int] = []
    for size in sorted(sizes, reverse=True):
        index = next((index for index, left in enumerate(free) if left >= size), None)
        if index is None:
            free.append(slots - size)
        else:
            free[index] -= size
    return len(free)


def _sized(recipe: Recipe, name: str, group: GroupConfig, slots: int, pods: Pods) -> Group:
    """A group of the size that the recipe needs, within the bounds of the settings.

    Raises:
        InputError: the settings allow fewer pods than the work needs.
    """
    if group.max_nodes is not None and group.max_nodes < pods.needed:
        remedy = f"set it to {pods.needed} or more, or give a pod more GPUs"
        raise InputError(f"kubernetes.{name}.max_nodes = {group.max_nodes}, {pods.needed} are needed -> {remedy}")
    min_nodes = pods.min_nodes if group.min_nodes is None else group.min_nodes
    max_nodes = max(1, min_nodes, pods.max_nodes) if group.max_nodes is None else group.max_nodes
    gpus = slots if is_gpu(recipe) else 0
    pod = Pod(
        name,
        cpus=group.cpus or GPU_CPUS * gpus or CPU_CPUS,
        memory_gib=group.memory_gib or GPU_MEMORY_GIB * gpus or CPU_MEMORY_GIB,
        gpus=gpus,
        node_selector=group.node_selector,
        tolerations=group.tolerations,
    )
    return Group(pod, min(min_nodes, max_nodes), min(max(min_nodes, pods.initial_nodes), max_nodes), max_nodes)
