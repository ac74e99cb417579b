"""The nodes of the connected cluster as plans see them."""

import psutil

from cluster.gpus import gpu_name
from cluster.placement import Resources

GIB = 2**30


def nodes_by_id() -> dict[str, Resources]:
    """The live nodes of the connected cluster."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    alive = (node for node in ray.nodes() if node["Alive"])
    return {node["NodeID"]: _node(node["Resources"], is_here=node["NodeID"] == here) for node in alive}


def cluster_nodes() -> tuple[Resources, ...]:
    """The same without their names."""
    return tuple(nodes_by_id().values())


def free_nodes() -> tuple[Resources, ...]:
    """What is free of the live nodes now, whole CPUs: what others leave for cells to begin beside them."""
    import ray
    from ray._private.state import available_resources_per_node

    here, free = ray.get_runtime_context().get_node_id(), available_resources_per_node()
    nodes = (_node(left, is_here=node == here) for node, left in free.items())
    return tuple(node._replace(cpus=float(int(node.cpus))) for node in nodes)


def _node(total: dict[str, float], *, is_here: bool) -> Resources:
    # What Ray calls memory is what was free when the node started; a cell may also use what has become free since.
    told = total.get("memory", 0.0) + total.get("object_store_memory", 0.0)
    memory = psutil.virtual_memory().total if is_here else told
    return Resources(total.get("CPU", 0.0), total.get("GPU", 0.0), memory / GIB, gpu_name(total))
