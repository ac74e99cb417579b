"""Kubernetes manifests of a run: `distill submit --write-manifest` and `distill serve --write-manifest`.

`distill.ops.deploy.pods` computes the number of pods. Nothing here contacts a cluster or reads a secret.
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
from distill.ops.deploy.ray_job import RECIPE, input_files, validate_reachable
from serve.config import Endpoint
from serve.key_variables import KEYS_VARIABLE
from serve.proxy_settings import SERVE_ENV

MAX_FILE_BYTES = 1_000_000
"""Slightly less than Kubernetes allows in a ConfigMap."""
MAX_NAME = 47
"""KubeRay appends to the name, and the result must fit a label."""
S3_VARIABLES = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_REGION")
MLFLOW_VARIABLES = ("MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN")


def write_job(recipe: Recipe, run_uri: str, target: Path, console: Console) -> int:
    """`distill submit --write-manifest`: the run as a RayJob, with the recipe in it.

    Raises:
        ConfigError, InputError: pods could not read a file, an engine does not fit a pod, or no image is named.
    """
    run_dir = RunDir(run_uri)
    validate_reachable(recipe, run_dir, run_uri)
    target.write_text(job_file(recipe, run_dir), encoding="utf-8")
    console.print(f"{target}: `kubectl apply -f {target}` starts the run", markup=False)
    return 0


def job_file(recipe: Recipe, run_dir: RunDir) -> str:
    """ConfigMap and RayJob of a run."""
    config = kubernetes_config(recipe)
    validate_mounted(config, job_paths(recipe, run_dir))
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
            f"the recipe has {len(text.encode())} bytes, a ConfigMap holds {MAX_FILE_BYTES} -> shorten its worked "
            "examples, or submit it with distill submit --address"
        )
    files = config_map(config, f"{name}-recipe", {RECIPE: text + "\n"})
    return to_file(comment(f"The run {recipe.name} as a job.", config, environment), [files, job])


def service_file(recipe: Recipe, run_dir: RunDir, endpoints: Sequence[Endpoint], content: dict[str, Any]) -> str:
    """RayService of a finished run.

    Args:
        recipe: its recipe.
        run_dir: its directory.
        endpoints: the models.
        content: the Serve config file that deploys them.
    """
    config = kubernetes_config(recipe)
    weights = [path for endpoint in endpoints for path in (endpoint.source, endpoint.adapter or "")]
    validate_mounted(config, [run_dir.address, *weights])
    uri = run_dir.address
    secrets = {KEYS_VARIABLE: True} | s3_secrets(uri) | dict.fromkeys(config.secret_variables, True)
    environment = Environment(plain_variables(config), secrets)
    groups = [service_group(recipe, config, endpoints)]
    cluster = ray_cluster(config, groups, environment, serve_port=content["http_options"]["port"])
    # Named by the recipe alone, so that applying the file of a newer run updates the endpoint in place.
    service = ray_service(config, object_name("serve", recipe.name), serve_config=content, cluster=cluster)
    return to_file(comment(f"The students of {recipe.name} behind an endpoint.", config, environment), [service])


def comment(title: str, config: KubernetesConfig, environment: Environment) -> str:
    """The comment at the top of a manifest: what must exist before it is applied."""
    required = [name for name, is_required in environment.secret.items() if is_required]
    optional = [name for name, is_required in environment.secret.items() if not is_required]
    lines = [
        f"{title} Written by `distill`, see cluster/kuberay/README.md; KubeRay 1.6 or newer.",
        f"PersistentVolumeClaim: {config.claim} (ReadWriteMany)",
    ]
    if required or optional:
        names = [*required, *(f"{name} (optional)" for name in optional)]
        lines.append(f"Secret {config.secret}: {', '.join(names)}")
    if config.ray_token_secret:
        lines.append(f"Secret {config.ray_token_secret}: auth_token")
    return "\n".join(lines)


# Settings


def kubernetes_config(recipe: Recipe) -> KubernetesConfig:
    """The recipe's `[kubernetes]` section.

    Raises:
        ConfigError: it has none.
    """
    if recipe.kubernetes is None:
        remedy = "kubernetes.image=REGISTRY/mix-distillation:gpu, built by cluster/Dockerfile"
        raise ConfigError([Problem("kubernetes.image", "is missing", remedy)])
    return recipe.kubernetes


def with_overrides(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """A finished run's recipe with other settings for Kubernetes.

    Raises:
        ConfigError: an override is wrong, or of another section.
    """
    raw = recipe.model_dump(mode="json", exclude={"kubernetes"} if recipe.kubernetes is None else None)
    problems = [
        Problem(text, "cannot be changed: the run is finished", "only kubernetes.* can be set here")
        for text in overrides
        if not text.startswith("kubernetes.")
    ]
    problems += [problem for text in overrides if (problem := apply_override(raw, text))]
    return parse_recipe(raw, problems)


def object_name(prefix: str, name: str, suffix: str = "") -> str:
    """A valid name of a Kubernetes object; `suffix` distinguishes those of one recipe."""
    end = f"-{suffix}" if suffix else ""
    cleaned = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    return f"{prefix}-{cleaned[: MAX_NAME - len(prefix) - 1 - len(end)].strip('-')}{end}"


# Paths that pods can read


def job_paths(recipe: Recipe, run_dir: RunDir) -> list[str]:
    """The paths of a run: its directory, its data, and models that exist only in a folder."""
    folders = [model.sources for model in recipe.models.values() if all(one.startswith("/") for one in model.sources)]
    return [run_dir.address, *input_files(recipe), *(source for sources in folders for source in sources)]


def validate_mounted(config: KubernetesConfig, paths: Iterable[str]) -> None:
    """Check that every path is on the volume that pods mount, or at a URI.

    Raises:
        InputError: some are not.
    """
    outside = [path for path in paths if path.startswith("/") and not path.startswith(f"{config.mount}/")]
    if outside:
        raise InputError(
            f"{', '.join(sorted(set(outside)))}: not below {config.mount}, where pods mount the claim {config.claim} "
            "-> move it there and use that path, or set kubernetes.mount"
        )


# Environment variables


def plain_variables(config: KubernetesConfig) -> dict[str, str]:
    """Variables with the same value in every pod."""
    return {
        # The driver fetches models to a folder that every engine and worker can read.
        "XDG_CACHE_HOME": f"{config.mount}/cache",
        # Compiled code stays in the pod: two pods that build it in one folder would wait for each other's locks.
        "TORCH_EXTENSIONS_DIR": "/home/ray/.cache/torch_extensions",
        "VLLM_CACHE_ROOT": "/home/ray/.cache/vllm",
        "RAY_USAGE_STATS_ENABLED": "0",
        **SERVE_ENV,
    }


def job_secrets(recipe: Recipe, config: KubernetesConfig, uri: str) -> dict[str, bool]:
    """Variables from the Secret, and whether a run requires them."""
    keys = [teacher.api_key_env for teacher in recipe.teachers if isinstance(teacher, EndpointTeacher)]
    keys += [judge.api_key_env for judge in (recipe.verify.judge, recipe.evaluate.judge) if judge]
    mlflow = MLFLOW_VARIABLES if "mlflow" in recipe.train.trackers else ()
    return (
        {"HF_TOKEN": False}
        | s3_secrets(f"{uri} {recipe.model_dump_json()}")
        | dict.fromkeys(mlflow, False)
        | dict.fromkeys((key for key in keys if key), True)
        | dict.fromkeys(config.secret_variables, True)
    )


def s3_secrets(text: str) -> dict[str, bool]:
    """Optional keys of a bucket, where the text names one; a service account may grant access instead."""
    return dict.fromkeys(S3_VARIABLES, False) if "s3://" in text else {}
