"""Where a run lives on Kubernetes: image, storage, secrets by name, and what a pod of each group takes.

Imports no Ray, and no name in it is a secret's value.
"""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

NAME = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"
ObjectName = Annotated[str, Field(pattern=NAME, max_length=253)]
OptionalName = Annotated[str, Field(pattern=rf"{NAME}|^$", max_length=253)]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)


class HeadConfig(_Section):
    """The head's pod. It runs no Ray task, but the driver: models are fetched, mixed, merged and reported there. Of a
    service it runs the ingress."""

    cpus: int = Field(default=4, ge=1)
    memory_gib: int = Field(default=16, ge=4)
    """Request and limit, GiB."""
    node_selector: dict[str, str] = Field(default={})
    """Labels of the machines that it may be on."""
    tolerations: dict[str, str] = Field(default={})
    """Taints that it tolerates: key -> value, empty for any value."""


class GroupConfig(_Section):
    """Worker pods of one kind. What is absent follows from the recipe."""

    gpus: int | None = Field(default=None, ge=1, le=16)
    """GPUs of a pod. Absent: those of the largest engine, or of all workers of the largest cell up to eight. Not read
    where the recipe says `device = "cpu"`."""
    cpus: int | None = Field(default=None, ge=1)
    """Request and limit. Absent: six per GPU, four without one; a machine keeps some of its own for Kubernetes."""
    memory_gib: int | None = Field(default=None, ge=4)
    """Request and limit, GiB; half of it may be shared memory. Absent: 24 per GPU, 16 without one."""
    min_nodes: int | None = Field(default=None, ge=0)
    """Pods that are always up. Absent: none for teachers, those of the largest cell for students."""
    max_nodes: int | None = Field(default=None, ge=1)
    """Most pods. Absent: those of all engines, or of all cells at once."""
    node_selector: dict[str, str] = Field(default={})
    """Labels of the machines: the kind of GPU, spot or not."""
    tolerations: dict[str, str] = Field(default={})
    """Taints that are tolerated: key -> value, empty for any value. That of NVIDIA's GPUs is, without being named."""

    @model_validator(mode="after")
    def _validate_nodes(self) -> "GroupConfig":
        if self.min_nodes is not None and self.max_nodes is not None and self.min_nodes > self.max_nodes:
            raise ValueError(f"min_nodes = {self.min_nodes} is above max_nodes = {self.max_nodes}: lower it")
        return self


class KubernetesConfig(_Section):
    """What `--write-manifest` needs to know beside the recipe."""

    image: str = Field(pattern=r"^[^\s@]+(@sha256:[0-9a-f]{64})?$")
    """Image of all pods, built by `cluster/Dockerfile` (target `gpu` or `cpu`)."""
    namespace: OptionalName = ""
    """Empty: the one that kubectl is set to."""
    service_account: OptionalName = ""
    """Of all pods: where rights on a bucket or a private registry hang on one. Empty: the namespace's own."""
    claim: ObjectName = "distill"
    """A PersistentVolumeClaim that all pods write (ReadWriteMany): models, and the run where it is a folder."""
    mount: str = Field(default="/mnt/distill", pattern=r"^(/[A-Za-z0-9._-]+)+$")
    """Where it is mounted in every pod."""
    secret: ObjectName = "distill-keys"
    """A Secret with keys named as the variables that the recipe reads: `HF_TOKEN`, `api_key_env` of teachers and judge,
    `DISTILL_API_KEYS` of an endpoint."""
    secret_variables: tuple[Variable, ...] = ()
    """Further ones out of it, for every pod."""
    ray_token_secret: OptionalName = ""
    """A Secret whose key `auth_token` is the cluster's token. Empty: the operator makes one for each cluster."""
    head: HeadConfig = HeadConfig()
    teachers: GroupConfig = GroupConfig()
    """Engines that write traces."""
    students: GroupConfig = GroupConfig()
    """Training, evaluation and serving."""
    retries: int = Field(default=3, ge=0, le=100)
    """New clusters after a failed one; each goes on where the run directory ends."""
    keep_s: int = Field(default=600, ge=0)
    """How long a finished run's cluster stays to be looked at, seconds."""
    idle_s: int = Field(default=600, ge=0)
    """How long a pod without work stays, seconds. An engine takes minutes to start."""
