"""The preflight's questions to the nodes of a real Ray cluster of two."""

from pathlib import Path

from distill.core.run_dir import RunDir
from distill.ops.doctor.findings import node_findings
from distill.ops.doctor.probes import installed_versions, probe_nodes


def test_every_node_writes_to_the_storage_and_reports_its_clock_and_versions(tmp_path: Path) -> None:
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    try:
        cluster.add_node(num_cpus=1)
        ray.init(address=cluster.address, log_to_driver=False)
        run_dir = RunDir(str(tmp_path / "run"))
        nodes = list(probe_nodes(run_dir))
        assert len(nodes) == 2 and len({node.name for node in nodes}) == 2
        assert all(node.is_seen and not node.error and abs(node.skew_s) < 1 for node in nodes)
        assert all(node.versions["ray"] == installed_versions()["ray"] for node in nodes)
        (line,) = node_findings(nodes, installed_versions())
        assert line.status == "ok" and line.what.startswith("2 write")
        assert not run_dir.fs.exists(run_dir.path(".doctor"))
    finally:
        ray.shutdown()
        cluster.shutdown()
