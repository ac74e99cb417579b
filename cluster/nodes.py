"""The nodes of the connected Ray cluster as `Resources`."""

from cluster.gpus import gpu_name
from cluster.limits import usable_memory_bytes
from cluster.placement import Resources
from cluster.units import GIB


def nodes_by_id() -> dict[str, Resources]:
    """The live nodes of the connected cluster, by Ray's node id."""
    import ray

    here = ray.get_runtime_context().get_node_id()
    alive = (node for node in ray.nodes() if node["Alive"])
    return {node["NodeID"]: _node(node["Resources"], is_here=node["NodeID"] == here) for node in alive}


def cluster_nodes() -> tuple[Resources, ...]:
    """The live nodes of the connected cluster."""
    return tuple(nodes_by_id().values())


def _node(total: dict[str, float], *, is_here: bool) -> Resources:
    # Ray reports the memory that was free when the node started; a job may also use what has become free since.
    reported = total.get("memory", 0.0) + total.get("object_store_memory", 0.0)
    memory = usable_memory_bytes() if is_here else reported
    return Resources(total.get("CPU", 0.0), total.get("GPU", 0.0), memory / GIB, gpu_name(total))
