"""Settings of a run on Kubernetes: image, storage, names of secrets, and resources of the pods of each group.

Imports no Ray, and holds no secret values.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

NAME = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
ObjectName = Annotated[str, Field(pattern=NAME, max_length=253)]
OptionalName = Annotated[str, Field(pattern=rf"{NAME}|^$", max_length=253)]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class HeadConfig(_Section):
    """The head pod. It runs the driver, which fetches models, mixes, merges and reports, and a service's ingress, but
    no Ray task."""

    cpus: int = Field(default=4, ge=1)
    """Request and limit."""
    memory_gib: int = Field(default=16, ge=4)
    """Request and limit, GiB."""
    node_selector: dict[str, str] = Field(default={})
    """Labels of the nodes that it may run on."""
    tolerations: dict[str, str] = Field(default={})
    """Taints that it tolerates: key -> value, empty for any value."""


class GroupConfig(_Section):
    """Worker pods of one kind. Absent values follow from the recipe."""

    gpus: int | None = Field(default=None, ge=1, le=16)
    """GPUs of a pod. Absent: those of the largest engine, or of all workers of the largest cell up to eight. Not read
    with `device = "cpu"`."""
    cpus: int | None = Field(default=None, ge=1)
    """Request and limit. Absent: six per GPU, four without one; Kubernetes itself needs some of a node's CPUs."""
    memory_gib: int | None = Field(default=None, ge=4)
    """Request and limit, GiB; half of it may be shared memory. Absent: 24 per GPU, 16 without one."""
    min_nodes: int | None = Field(default=None, ge=0)
    """Pods that are always up. Absent: none for teachers; those of the largest cell for students."""
    max_nodes: int | None = Field(default=None, ge=1)
    """Most pods. Absent: enough for all engines, or for all cells at once."""
    node_selector: dict[str, str] = Field(default={})
    """Labels of the nodes, for example the kind of GPU, or spot."""
    tolerations: dict[str, str] = Field(default={})
    """Tolerated taints: key -> value, empty for any value. `nvidia.com/gpu` is always tolerated by pods with GPUs."""

    @model_validator(mode="after")
    def _validate_nodes(self) -> "GroupConfig":
        if self.min_nodes is not None and self.max_nodes is not None and self.min_nodes > self.max_nodes:
            raise ValueError(f"min_nodes = {self.min_nodes} is above max_nodes = {self.max_nodes}: lower it")
        return self


class KubernetesConfig(_Section):
    """Settings of `--write-manifest`."""

    image: str = Field(pattern=r"^[^\s@]+(@sha256:[0-9a-f]{64})?$")
    """Image of all pods, built from `cluster/Dockerfile` (target `gpu` or `cpu`)."""
    namespace: OptionalName = ""
    """Namespace. Empty: kubectl's current one."""
    service_account: OptionalName = ""
    """Service account of all pods, for access to a bucket or a private registry. Empty: the namespace's default."""
    claim: ObjectName = "distill"
    """PersistentVolumeClaim that all pods mount (ReadWriteMany): for models, and for a run directory in a folder."""
    mount: str = Field(default="/mnt/distill", pattern=r"^(/[A-Za-z0-9._-]+)+$")
    """Path of the claim in every pod."""
    secret: ObjectName = "distill-keys"
    """Secret whose keys are named like the environment variables that the recipe reads: `HF_TOKEN`, `api_key_env` of
    teachers and judge, `DISTILL_API_KEYS` of an endpoint."""
    secret_variables: tuple[Variable, ...] = ()
    """Further variables from the Secret, for every pod."""
    ray_token_secret: OptionalName = ""
    """Secret whose key `auth_token` is the Ray cluster's token. Empty: the operator creates one for each cluster."""
    head: HeadConfig = Field(default_factory=HeadConfig)
    """The head's pod."""
    teachers: GroupConfig = Field(default_factory=GroupConfig)
    """Pods of the teachers' engines."""
    students: GroupConfig = Field(default_factory=GroupConfig)
    """Pods of training, evaluation and serving."""
    retries: int = Field(default=3, ge=0, le=100)
    """New clusters after a failed one; each continues the run directory."""
    ttl_after_finished_s: int = Field(default=600, ge=0)
    """Time until the cluster of a finished run is deleted, seconds."""
    idle_timeout_s: int = Field(default=600, ge=0)
    """Time until a pod without work is removed, seconds. An engine takes minutes to start."""
