"""Recipes, models and settings out of which manifests for Kubernetes are made."""

from functools import cache
from typing import Any

import yaml

from distill.config.load import find_recipe, load_recipe, parse_recipe
from distill.config.recipe import Recipe
from distill.core.run_dir import RunDir
from distill.ops.deploy.kubernetes import job_file, service_file
from distill.train.cells import all_cells
from serve.api.reasoning_parser import Delimiters
from serve.config import Endpoint, ServeConfig
from serve.config_file import config_file

IMAGE = "registry.example.org/mix-distillation:gpu"
RUN = "/mnt/distill/runs/one-gpu-0.5b"
EXAMPLE = [f"kubernetes.image={IMAGE}", "train.seeds=[0]"]
SPOT = [
    "kubernetes.teachers.node_selector={ 'gke-spot' = 'true' }",
    "kubernetes.teachers.tolerations={ 'gke-spot' = 'true' }",
]
EVERYTHING = [
    *EXAMPLE,
    *SPOT,
    "kubernetes.namespace=ml",
    "kubernetes.service_account=distill",
    "kubernetes.ray_token_secret=ray-token",
    "kubernetes.secret_variables=['COMPANY_TOKEN']",
    "kubernetes.head.tolerations={ dedicated = '' }",
    "kubernetes.head.node_selector={ pool = 'cpu' }",
]


@cache
def recipe(name: str = "one-gpu-0.5b", *overrides: str) -> Recipe:
    """A shipped recipe with settings for Kubernetes."""
    return load_recipe(find_recipe(name), overrides or EXAMPLE)


def changed(base: Recipe, **sections: Any) -> Recipe:
    """A recipe with other sections."""
    return parse_recipe({**base.model_dump(mode="json"), **sections})


def with_keys() -> Recipe:
    """A recipe that reads two keys: of a paid teacher and of a judge."""
    base = recipe("one-gpu-0.5b", *EVERYTHING)
    raw = base.model_dump(mode="json")
    paid = {
        "kind": "endpoint",
        "name": "long",
        "style": "long",
        "base_url": "https://models.example.org/v1",
        "remote_model": "large",
        "api_key_env": "LARGE_MODEL_KEY",
    }
    judge = {"base_url": "https://judge.example.org/v1", "model": "judge", "api_key_env": "JUDGE_KEY"}
    return changed(base, teachers=[paid, raw["teachers"][1]], verify={**raw["verify"], "judge": judge})


def endpoints(base: Recipe, run: str = RUN) -> list[Endpoint]:
    """The models of a finished run: students untouched, and trained with all weights."""
    models = "/mnt/distill/cache/mix-distillation/models"
    delimiters = Delimiters(start="<think>", end="</think>", is_open=False)
    untouched = [Endpoint(name=one.name, source=f"{models}/{one.model}") for one in base.students]
    names = [cell.name for cell in all_cells(base)]
    trained = [Endpoint(name=name, source=f"{run}/train/{name}/model", reasoning=delimiters) for name in names]
    return [*untouched, *trained]


def service(base: Recipe, run: str = RUN) -> str:
    """The file of a RayService."""
    models = endpoints(base, run)
    config = ServeConfig(device="gpu", max_model_len=base.serve.engine.max_model_len)
    content = config_file(
        models,
        config.model_copy(update={"host": "0.0.0.0"}),
        import_path="distill.ops.deploy.endpoint:from_config_file",
        run_dir=run,
    )
    return service_file(base, RunDir(run), models, content)


def documents(text: str) -> list[dict[str, Any]]:
    """The objects in a file."""
    return list(yaml.safe_load_all(text))


def all_documents() -> list[dict[str, Any]]:
    """Manifests that together use every field which we ever write."""
    bases = [
        recipe(),
        recipe("quickstart", *EXAMPLE),
        recipe("mix-long", *EXAMPLE),
        recipe("one-gpu-0.5b", *EVERYTHING),
    ]
    jobs = [job_file(base, RunDir(RUN)) for base in [*bases, with_keys()]]
    return [one for text in [*jobs, *map(service, bases)] for one in documents(text)]
