"""What a run may ask of a cluster."""

import pytest

from cluster.session import resolve_device


def test_a_gpu_run_is_accepted_where_the_autoscaler_may_add_gpus_and_auto_needs_a_node_to_choose_by() -> None:
    assert resolve_device("gpu", 0, may_grow=True) == "gpu"
    assert resolve_device("auto", 0, num_cpus=4, may_grow=True) == "cpu"
    with pytest.raises(ValueError, match="no node of the cluster is up"):
        resolve_device("auto", 0, num_cpus=0, may_grow=True)
    with pytest.raises(ValueError, match="has no GPU"):
        resolve_device("gpu", 0)
