"""KubeRay's RayJob and RayService (ray.io/v1) and a ConfigMap, as dictionaries and as YAML. Pure functions."""

from collections.abc import Iterable, Mapping
from importlib.metadata import version
from typing import Any, NamedTuple

import yaml

from cluster.kuberay.config import KubernetesConfig

GPU = "nvidia.com/gpu"
FILES = "/etc/distill"
"""Mount path of the ConfigMap in the head pod."""
RAY_GROUP_ID = 100
"""Group of the user `ray` in Ray's images, which must be able to write to the claim."""
LABELS = {"app.kubernetes.io/part-of": "mix-distillation"}
HEAD_PORTS = {"gcs-server": 6379, "dashboard": 8265}

Manifest = dict[str, Any]


class Pod(NamedTuple):
    """Resources of a pod, and the nodes that it may run on."""

    name: str
    cpus: int
    memory_gib: int
    gpus: int = 0
    node_selector: Mapping[str, str] = {}
    tolerations: Mapping[str, str] = {}


class Group(NamedTuple):
    """Equal worker pods."""

    pod: Pod
    min_nodes: int
    initial_nodes: int
    """Nodes that the cluster starts with: a job begins once they are all up."""
    max_nodes: int


class Environment(NamedTuple):
    """Variables of every pod."""

    plain: Mapping[str, str]
    secret: Mapping[str, bool] = {}
    """Variable -> whether the pod requires it. The Secret's keys have the same names."""


def config_map(config: KubernetesConfig, name: str, files: Mapping[str, str]) -> Manifest:
    """Small files for the head pod."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": _metadata(config, name), "data": dict(files)}


def ray_job(
    config: KubernetesConfig, name: str, *, entrypoint: str, cluster: Manifest, metadata: Mapping[str, str]
) -> Manifest:
    """A cluster that lives as long as one command."""
    spec = {
        "entrypoint": entrypoint,
        "metadata": dict(metadata),
        # The operator submits by HTTP. A submitter pod would follow the log, and a few lost connections within days
        # would fail the job and its cluster.
        "submissionMode": "HTTPMode",
        "backoffLimit": config.retries,
        "shutdownAfterJobFinishes": True,
        "ttlSecondsAfterFinished": config.ttl_after_finished_s,
        "rayClusterSpec": cluster,
    }
    return {"apiVersion": "ray.io/v1", "kind": "RayJob", "metadata": _metadata(config, name), "spec": spec}


def ray_service(config: KubernetesConfig, name: str, *, serve_config: Mapping[str, Any], cluster: Manifest) -> Manifest:
    """A cluster that serves an application."""
    spec = {"serveConfigV2": to_yaml(serve_config), "rayClusterConfig": cluster}
    return {"apiVersion": "ray.io/v1", "kind": "RayService", "metadata": _metadata(config, name), "spec": spec}


def ray_cluster(
    config: KubernetesConfig,
    groups: Iterable[Group],
    environment: Environment,
    *,
    files: str = "",
    serve_port: int | None = None,
) -> Manifest:
    """A cluster spec: head and worker groups, with autoscaling.

    Args:
        config: image, storage, secrets.
        groups: the workers.
        environment: variables of all pods.
        files: name of the ConfigMap that the head mounts at `FILES`. Empty: none.
        serve_port: port of the endpoint of a service.
    """
    serve = {"serve": serve_port} if serve_port else {}
    return {
        "rayVersion": version("ray"),
        # The operator passes the token to every pod, and uses it itself.
        "authOptions": {"mode": "token"} | ({"secretName": config.ray_token_secret} if config.ray_token_secret else {}),
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {"version": "v2", "idleTimeoutSeconds": config.idle_timeout_s},
        # No task on the head: one that uses up its memory would take the cluster down.
        "headGroupSpec": {
            "rayStartParams": {"num-cpus": "0"},
            "template": _head_template(config, environment, HEAD_PORTS | serve, files),
        },
        "workerGroupSpecs": [_worker_group(config, group, environment, serve) for group in groups],
    }


def _head_template(
    config: KubernetesConfig, environment: Environment, ports: Mapping[str, int], files: str
) -> Manifest:
    head = config.head
    pod = Pod("head", head.cpus, head.memory_gib, 0, head.node_selector, head.tolerations)
    template = _pod_template(config, pod, environment, ports)
    if files:
        mount = {"name": "files", "mountPath": FILES, "readOnly": True}
        template["spec"]["containers"][0]["volumeMounts"].append(mount)
        template["spec"]["volumes"].append({"name": "files", "configMap": {"name": files}})
    return template


def _worker_group(
    config: KubernetesConfig, group: Group, environment: Environment, ports: Mapping[str, int]
) -> Manifest:
    return {
        "groupName": group.pod.name,
        "replicas": group.initial_nodes,
        "minReplicas": group.min_nodes,
        "maxReplicas": group.max_nodes,
        "labels": {"group": group.pod.name},
        "rayStartParams": {},
        "template": _pod_template(config, group.pod, environment, ports),
    }


def _pod_template(config: KubernetesConfig, pod: Pod, environment: Environment, ports: Mapping[str, int]) -> Manifest:
    # Requests equal limits: Ray plans with the limit, and a pod that uses more than its request may be killed.
    resources = {"cpu": str(pod.cpus), "memory": f"{pod.memory_gib}Gi"} | ({GPU: str(pod.gpus)} if pod.gpus else {})
    container: Manifest = {
        "name": f"ray-{pod.name}",
        "image": config.image,
        "resources": {"requests": resources, "limits": dict(resources)},
        "env": _variables(config, environment),
        "volumeMounts": [{"name": "claim", "mountPath": config.mount}, {"name": "shm", "mountPath": "/dev/shm"}],
    }
    spec: Manifest = {
        "securityContext": {"fsGroup": RAY_GROUP_ID, "fsGroupChangePolicy": "OnRootMismatch"},
        "containers": [container],
        "volumes": [
            {"name": "claim", "persistentVolumeClaim": {"claimName": config.claim}},
            # For NCCL and the object store; the default of 64 MB fails the first collective. Part of the pod's memory.
            {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": f"{pod.memory_gib // 2}Gi"}},
        ],
    }
    if ports:
        container["ports"] = [{"name": name, "containerPort": port} for name, port in ports.items()]
    if config.service_account:
        spec["serviceAccountName"] = config.service_account
    if pod.node_selector:
        spec["nodeSelector"] = dict(pod.node_selector)
    if tolerations := ({GPU: ""} if pod.gpus else {}) | dict(pod.tolerations):
        spec["tolerations"] = [_toleration(key, value) for key, value in tolerations.items()]
    return {"metadata": {"labels": dict(LABELS)}, "spec": spec}


def _toleration(key: str, value: str) -> Manifest:
    return {"key": key, "operator": "Equal", "value": value} if value else {"key": key, "operator": "Exists"}


def _variables(config: KubernetesConfig, environment: Environment) -> list[Manifest]:
    plain = [{"name": name, "value": value} for name, value in environment.plain.items()]
    return plain + [
        {
            "name": name,
            "valueFrom": {
                "secretKeyRef": {"name": config.secret, "key": name} | ({} if is_required else {"optional": True})
            },
        }
        for name, is_required in environment.secret.items()
    ]


def _metadata(config: KubernetesConfig, name: str) -> Manifest:
    return {"name": name} | ({"namespace": config.namespace} if config.namespace else {}) | {"labels": dict(LABELS)}


# YAML


class _Dumper(yaml.SafeDumper):
    """Writes multi-line strings as blocks, and no anchors, which are hard to read in a manifest."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _text)


def to_yaml(document: Mapping[str, Any]) -> str:
    """One document, keys in the given order."""
    return yaml.dump(dict(document), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000)


def to_file(comment: str, documents: Iterable[Manifest]) -> str:
    """A file for `kubectl apply`, with a comment at the top."""
    head = "".join(f"# {line}".rstrip() + "\n" for line in comment.splitlines())
    return head + "---\n".join(to_yaml(document) for document in documents)
