"""A recipe on Kubernetes: `distill submit --write-manifest` and `distill serve --write-manifest`.

How many pods there are is in `distill.ops.deploy.pods`. Nothing here talks to a cluster, and no secret is read.
"""

import re
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from cluster.kuberay.config import KubernetesConfig
from cluster.kuberay.manifest import FILES, Environment, config_map, ray_cluster, ray_job, ray_service, to_file
from distill.config.load import apply_override, parse_recipe
from distill.config.recipe import Recipe
from distill.config.teachers import EndpointTeacher
from distill.core.errors import ConfigError, InputError, Problem
from distill.core.run_dir import RunDir
from distill.core.schema import content_hash
from distill.ops.deploy.pods import job_groups, service_group
from distill.ops.deploy.ray_job import RECIPE, input_files, refuse_unreachable
from serve.config import Endpoint
from serve.keys import KEYS_VARIABLE
from serve.proxy_settings import ENVIRONMENT

MAX_FILE_BYTES = 1_000_000
"""Kubernetes takes a little more in a ConfigMap."""
MAX_NAME = 47
"""KubeRay adds to it, and stays below what a label may have."""
S3_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_REGION")
MLFLOW_VARIABLES = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")


def write_job(recipe: Recipe, told: str, target: Path, console: Console) -> int:
    """`distill submit --write-manifest`: the run as a RayJob, with the recipe in it.

    Raises:
        ConfigError, InputError: the pods could not see a file, an engine fits into no pod, or no image is named.
    """
    run_dir = RunDir(told)
    refuse_unreachable(recipe, run_dir, told)
    target.write_text(job_file(recipe, run_dir), encoding="utf-8")
    console.print(f"{target}: `kubectl apply -f {target}` starts the run", markup=False)
    return 0


def job_file(recipe: Recipe, run_dir: RunDir) -> str:
    """ConfigMap and RayJob of a run."""
    config = kubernetes_config(recipe)
    refuse_unmounted(config, job_paths(recipe, run_dir))
    uri = run_dir.address
    name = object_name("run", recipe.name, content_hash(uri)[:8])
    environment = Environment(plain_variables(config), job_secrets(recipe, config, uri))
    cluster = ray_cluster(config, job_groups(recipe, config), environment, files=f"{name}-recipe")
    job = ray_job(
        config,
        name,
        entrypoint=f"distill run {FILES}/{RECIPE} --run-dir {shlex.quote(uri)}",
        cluster=cluster,
        metadata={"run": uri, "recipe": recipe.name},
    )
    text = recipe.model_dump_json(indent=1)
    if len(text.encode()) > MAX_FILE_BYTES:
        raise InputError(
            f"the recipe has {len(text.encode())} bytes, a ConfigMap takes {MAX_FILE_BYTES} -> shorten its worked "
            "examples, or start it with distill submit --address"
        )
    files = config_map(config, f"{name}-recipe", {RECIPE: text + "\n"})
    return to_file(comment(f"The run {recipe.name} as a job.", config, environment), [files, job])


def service_file(recipe: Recipe, run_dir: RunDir, endpoints: Sequence[Endpoint], content: dict[str, Any]) -> str:
    """RayService of a finished run.

    Args:
        recipe: the run's.
        run_dir: where it is.
        endpoints: the models.
        content: the Serve config file that deploys them.
    """
    config = kubernetes_config(recipe)
    weights = [path for endpoint in endpoints for path in (endpoint.source, endpoint.adapter or "")]
    refuse_unmounted(config, [run_dir.address, *weights])
    uri = run_dir.address
    secrets = {KEYS_VARIABLE: True} | s3_secrets(uri) | dict.fromkeys(config.secret_variables, True)
    environment = Environment(plain_variables(config), secrets)
    groups = [service_group(recipe, config, endpoints)]
    cluster = ray_cluster(config, groups, environment, serve_port=content["http_options"]["port"])
    # Named by the recipe alone: applying the file of a newer run updates the endpoint in its place.
    service = ray_service(config, object_name("serve", recipe.name), serve_config=content, cluster=cluster)
    return to_file(comment(f"The students of {recipe.name} behind an endpoint.", config, environment), [service])


def comment(title: str, config: KubernetesConfig, environment: Environment) -> str:
    """What stands on top of a file: what must be there before it is applied."""
    needed = [name for name, must in environment.secret.items() if must]
    wanted = [name for name, must in environment.secret.items() if not must]
    lines = [
        f"{title} Written by `distill`, see cluster/kuberay/README.md; KubeRay 1.6 or newer.",
        f"PersistentVolumeClaim: {config.claim} (ReadWriteMany)",
    ]
    if needed or wanted:
        lines.append(f"Secret {config.secret}: {', '.join([*needed, *(f'{name} (or none)' for name in wanted)])}")
    if config.ray_token_secret:
        lines.append(f"Secret {config.ray_token_secret}: auth_token")
    return "\n".join(lines)


# Settings


def kubernetes_config(recipe: Recipe) -> KubernetesConfig:
    """The recipe's section.

    Raises:
        ConfigError: there is none.
    """
    if recipe.kubernetes is None:
        remedy = "kubernetes.image=REGISTRY/mix-distillation:gpu, built by cluster/Dockerfile"
        raise ConfigError([Problem("kubernetes.image", "is missing", remedy)])
    return recipe.kubernetes


def with_overrides(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """A run's recipe with other settings for Kubernetes.

    Raises:
        ConfigError: an override is wrong, or of another section: the run is made.
    """
    raw = recipe.model_dump(mode="json")
    problems = [
        Problem(text, "cannot be changed: the run is made", "only kubernetes.... is taken here")
        for text in overrides
        if not text.startswith("kubernetes.")
    ]
    problems += [problem for text in overrides if (problem := apply_override(raw, text))]
    return parse_recipe(raw, problems)


def object_name(prefix: str, name: str, mark: str = "") -> str:
    """A name that Kubernetes takes; `mark` tells those of one recipe apart."""
    end = f"-{mark}" if mark else ""
    told = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return f"{prefix}-{told[: MAX_NAME - len(prefix) - 1 - len(end)].strip('-')}{end}"


# What pods can see


def job_paths(recipe: Recipe, run_dir: RunDir) -> list[str]:
    """Where a run reads and writes: its directory, its data, and models that are nowhere but in a folder."""
    folders = [model.sources for model in recipe.models.values() if all(one.startswith("/") for one in model.sources)]
    return [run_dir.address, *input_files(recipe), *(source for sources in folders for source in sources)]


def refuse_unmounted(config: KubernetesConfig, paths: Iterable[str]) -> None:
    """Folders of this machine that no pod has.

    Raises:
        InputError: names them.
    """
    outside = [path for path in paths if path.startswith("/") and not path.startswith(f"{config.mount}/")]
    if outside:
        raise InputError(
            f"{', '.join(sorted(set(outside)))}: not below {config.mount}, where pods have the claim {config.claim} -> "
            "put it there and name it so, or set kubernetes.mount"
        )


# Environment


def plain_variables(config: KubernetesConfig) -> dict[str, str]:
    """What every pod is told."""
    return {
        # The driver fetches models to where every engine and every worker finds them.
        "XDG_CACHE_HOME": f"{config.mount}/cache",
        # Compiled code stays in the pod: two that build it in one folder wait for each other's locks.
        "TORCH_EXTENSIONS_DIR": "/home/ray/.cache/torch_extensions",
        "VLLM_CACHE_ROOT": "/home/ray/.cache/vllm",
        "RAY_USAGE_STATS_ENABLED": "0",
        **ENVIRONMENT,
    }


def job_secrets(recipe: Recipe, config: KubernetesConfig, uri: str) -> dict[str, bool]:
    """Variables out of the Secret, and whether a run cannot begin without them."""
    keys = [teacher.api_key_env for teacher in recipe.teachers if isinstance(teacher, EndpointTeacher)]
    keys += [recipe.verify.judge.api_key_env] if recipe.verify.judge else []
    mlflow = MLFLOW_VARIABLES if "mlflow" in recipe.train.trackers else ()
    return (
        {"HF_TOKEN": False}
        | s3_secrets(f"{uri} {recipe.model_dump_json()}")
        | dict.fromkeys(mlflow, False)
        | dict.fromkeys((key for key in keys if key), True)
        | dict.fromkeys(config.secret_variables, True)
    )


def s3_secrets(text: str) -> dict[str, bool]:
    """Keys of a bucket, where one is named; a service account may have the right instead."""
    return dict.fromkeys(S3_VARIABLES, False) if "s3://" in text else {}
