"""Manifests for Kubernetes: fields that KubeRay knows, pods that the recipe needs, secrets by name only.

KubeRay's own schemas are read where `KUBERAY_CRDS` names a folder of them; what is tested in any case is the part of
them in `tests/cases/kuberay.json` (see `tests/fixtures/kuberay_schema.py`). None was ever applied to a cluster.
"""

import copy
import json
import os
import re
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from cluster.kuberay.config import KubernetesConfig
from distill.cli.main import main
from distill.config.load import find_recipe, load_recipe
from distill.config.recipe import Recipe
from distill.core.errors import ConfigError, InputError
from distill.core.run_dir import RunDir
from distill.ops.deploy.kubernetes import job_file, object_name, with_overrides
from serve.config_file import read_arguments
from serve.key_variables import KEYS_VARIABLE
from serve.keys import hash_key
from tests.fixtures import kuberay_cases as cases
from tests.fixtures.kuberay_schema import FILES, SCHEMA_FILE, crd_schema, strict
from tests.fixtures.paths import ROOT
from tests.fixtures.serve_schema import read_by_serve

EXAMPLES = ROOT / "cluster" / "kuberay"
SCHEMAS: dict[str, Any] = json.loads(SCHEMA_FILE.read_text())


@pytest.fixture(scope="module")
def manifests() -> list[dict[str, Any]]:
    """Of all cases, without the recipes beside them."""
    return [one for one in cases.all_documents() if one["kind"] in FILES]


def job(recipe: Recipe, run: str = cases.RUN) -> dict[str, Any]:
    return cases.documents(job_file(recipe, RunDir(run)))[1]


def pods(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Pod templates' specs, the head's first."""
    cluster = document["spec"].get("rayClusterSpec") or document["spec"]["rayClusterConfig"]
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        yield group["template"]["spec"]


def group(document: dict[str, Any], name: str) -> dict[str, Any]:
    cluster = document["spec"].get("rayClusterSpec") or document["spec"]["rayClusterConfig"]
    (found,) = [one for one in cluster["workerGroupSpecs"] if one["groupName"] == name]
    return dict(found)


def counts(document: dict[str, Any], name: str) -> tuple[int, int, int]:
    found = group(document, name)
    return found["minReplicas"], found["replicas"], found["maxReplicas"]


def gpus(document: dict[str, Any], name: str) -> str | None:
    (container,) = group(document, name)["template"]["spec"]["containers"]
    limit: str | None = container["resources"]["limits"].get("nvidia.com/gpu")
    return limit


# Fields


def test_every_manifest_has_fields_that_kuberay_knows_of_the_types_that_it_takes(
    manifests: list[dict[str, Any]],
) -> None:
    assert {one["kind"] for one in manifests} == {*FILES}
    for document in manifests:
        jsonschema.validate(document, SCHEMAS[document["kind"]])


def every_path(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield (*path, key)
            yield from every_path(value, (*path, key))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from every_path(value, (*path, index))


FREE_MAPS = {"labels", "nodeSelector", "requests", "limits", "rayStartParams", "metadata"}
"""Whose keys are the user's or Kubernetes' own."""


@pytest.mark.parametrize("kind", sorted(FILES))
def test_any_misspelt_field_of_any_depth_is_refused(kind: str, manifests: list[dict[str, Any]]) -> None:
    document = next(one for one in manifests if one["kind"] == kind)
    misspelt = [path for path in every_path(document) if path[-2:-1] not in [(name,) for name in FREE_MAPS]]
    assert len(misspelt) > 100
    validator = jsonschema.Draft202012Validator(SCHEMAS[kind])
    for path in misspelt:
        broken = copy.deepcopy(document)
        parent: Any = broken
        for part in path[:-1]:
            parent = parent[part]
        parent[f"{path[-1]}x"] = parent.pop(path[-1])
        assert not validator.is_valid(broken), path


@pytest.mark.skipif("KUBERAY_CRDS" not in os.environ, reason="KUBERAY_CRDS names no folder of KubeRay's CRDs")
@pytest.mark.parametrize("kind", sorted(FILES))
def test_manifests_fit_the_whole_schemas_of_kuberay(kind: str, manifests: list[dict[str, Any]]) -> None:
    schema = strict(crd_schema(Path(os.environ["KUBERAY_CRDS"]), kind))
    validator = jsonschema.Draft202012Validator(schema)
    for document in [one for one in manifests if one["kind"] == kind]:
        validator.validate(document)
        broken = copy.deepcopy(document)
        next(pods(broken))["containers"][0]["imagePullPolicyy"] = "Always"
        assert not validator.is_valid(broken)


def test_the_schema_says_what_it_was_taken_from() -> None:
    assert re.search(r"ray-project/kuberay v\d+\.\d+\.\d+", SCHEMAS["source"])


def test_the_file_begins_with_the_recipe_and_the_recipe_is_whole() -> None:
    recipe = cases.recipe()
    files, started = cases.documents(job_file(recipe, RunDir(cases.RUN)))
    assert (files["apiVersion"], files["kind"]) == ("v1", "ConfigMap")
    assert Recipe.model_validate_json(files["data"]["recipe.json"]) == recipe
    (mount,) = [one for one in next(pods(started))["volumes"] if one["name"] == "files"]
    assert mount["configMap"]["name"] == files["metadata"]["name"]
    assert started["spec"]["entrypoint"] == f"distill run /etc/distill/recipe.json --run-dir {cases.RUN}"


def test_the_serve_config_of_a_service_is_what_ray_takes_and_asks_for_keys() -> None:
    (service,) = cases.documents(cases.service(cases.recipe()))
    (application,) = read_by_serve(service["spec"]["serveConfigV2"])["applications"]
    keys = f'[[keys]]\nname = "a"\nsha256 = "{hash_key("s")}"'
    endpoints, config = read_arguments(application["args"], {KEYS_VARIABLE: keys})
    assert [one.name for one in endpoints][:2] == ["qwen2-5-0-5b", "qwen2-5-0-5b@long"]
    assert (config.host, config.port) == ("0.0.0.0", 8000)
    with pytest.raises(ValueError, match="no API keys"):
        read_arguments(application["args"], {})
    for pod in pods(service):
        assert {"name": "serve", "containerPort": 8000} in pod["containers"][0]["ports"]


# What a cluster is like


@pytest.mark.parametrize("kind", sorted(FILES))
def test_no_work_lands_on_the_head_and_every_pod_gets_what_it_asks_for(
    kind: str, manifests: list[dict[str, Any]]
) -> None:
    document = next(one for one in manifests if one["kind"] == kind)
    cluster = document["spec"].get("rayClusterSpec") or document["spec"]["rayClusterConfig"]
    assert cluster["headGroupSpec"]["rayStartParams"] == {"num-cpus": "0"}
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["rayVersion"] == version("ray")
    assert cluster["authOptions"]["mode"] == "token"
    for pod in pods(document):
        (container,) = pod["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        mounted = {one["mountPath"]: one["name"] for one in container["volumeMounts"]}
        volumes = {one["name"]: one for one in pod["volumes"]}
        assert volumes[mounted["/dev/shm"]]["emptyDir"]["medium"] == "Memory"
        assert volumes[mounted["/mnt/distill"]]["persistentVolumeClaim"]["claimName"] == "distill"
        names = [one["name"] for one in container["env"]]
        assert len(names) == len({*names}), "the API server takes no name twice"
        assert len({*mounted}) == len(container["volumeMounts"]) == len({*volumes})


def test_a_failed_job_is_tried_again_and_a_finished_one_leaves_nothing_that_costs() -> None:
    spec = job(load_recipe(find_recipe("quickstart"), ["kubernetes.image=i", "kubernetes.retries=7"]))["spec"]
    assert (spec["backoffLimit"], spec["shutdownAfterJobFinishes"], spec["ttlSecondsAfterFinished"]) == (7, True, 600)


def test_a_worker_group_is_scheduled_where_its_settings_say_and_no_other_is() -> None:
    document = job(cases.recipe("one-gpu-0.5b", *cases.EVERYTHING))
    teachers, students = (group(document, name)["template"]["spec"] for name in ("teachers", "students"))
    assert teachers["nodeSelector"] == {"gke-spot": "true"}
    assert {"key": "gke-spot", "operator": "Equal", "value": "true"} in teachers["tolerations"]
    assert students["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists"}]
    assert "nodeSelector" not in students
    head = next(pods(document))
    assert (head["nodeSelector"], head["tolerations"]) == (
        {"pool": "cpu"},
        [{"key": "dedicated", "operator": "Exists"}],
    )


def test_names_are_such_as_kubernetes_takes() -> None:
    name = object_name("run", "My_Long.Recipe" * 9, "0123abcd")
    assert re.fullmatch(r"run-my-long-recipe[a-z-]*-0123abcd", name)
    assert len(name) <= 47


def test_a_job_is_one_of_its_run_directory_and_a_service_one_of_its_recipe() -> None:
    jobs = [job(cases.recipe(), f"/mnt/distill/runs/{run}")["metadata"]["name"] for run in ("a", "b", "a")]
    assert jobs[0] == jobs[2] != jobs[1]
    services = [cases.documents(cases.service(cases.recipe(), f"/mnt/distill/runs/{run}"))[0] for run in ("a", "b")]
    assert [one["metadata"]["name"] for one in services] == ["serve-one-gpu-0-5b"] * 2
    assert services[0]["spec"]["serveConfigV2"] != services[1]["spec"]["serveConfigV2"]
    assert services[0]["spec"]["rayClusterConfig"] == services[1]["spec"]["rayClusterConfig"]


# Secrets


def secrets(document: dict[str, Any]) -> dict[str, dict[str, Any]]:
    found = [one for pod in pods(document) for one in pod["containers"][0]["env"] if "valueFrom" in one]
    assert all("value" not in one and [*one["valueFrom"]] == ["secretKeyRef"] for one in found)
    return {one["name"]: one["valueFrom"]["secretKeyRef"] for one in found}


def test_keys_come_from_the_secret_under_the_names_of_the_recipe_and_no_value_is_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("HF_TOKEN", "LARGE_MODEL_KEY", "JUDGE_KEY", "COMPANY_TOKEN", KEYS_VARIABLE, "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, "very-secret")
    text = job_file(cases.with_keys(), RunDir(cases.RUN)) + cases.service(cases.with_keys())
    assert "very-secret" not in text
    document = job(cases.with_keys())
    found = secrets(document)
    assert found["HF_TOKEN"] == {"name": "distill-keys", "key": "HF_TOKEN", "optional": True}
    for name in ("LARGE_MODEL_KEY", "JUDGE_KEY", "COMPANY_TOKEN"):
        assert found[name] == {"name": "distill-keys", "key": name}, "a run does not begin without it"
    assert document["spec"]["rayClusterSpec"]["authOptions"] == {"mode": "token", "secretName": "ray-token"}
    (service,) = cases.documents(cases.service(cases.with_keys()))
    assert secrets(service)[KEYS_VARIABLE] == {"name": "distill-keys", "key": KEYS_VARIABLE}
    assert "LARGE_MODEL_KEY" not in secrets(service)


def test_the_keys_of_a_bucket_are_given_where_one_is_named() -> None:
    assert "AWS_SECRET_ACCESS_KEY" not in secrets(job(cases.recipe()))
    models = cases.recipe().model_dump(mode="json")["models"]
    models["qwen2-5-0-5b"]["sources"] = ["s3://bucket/model"]
    found = secrets(job(cases.changed(cases.recipe(), models=models)))
    assert found["AWS_SECRET_ACCESS_KEY"]["optional"] is True


# How many pods


def test_a_teachers_pod_holds_its_engine_and_there_are_as_many_as_it_has_replicas() -> None:
    document = job(cases.recipe("mix-long", *cases.EXAMPLE))
    assert (gpus(document, "teachers"), counts(document, "teachers")) == ("2", (0, 2, 2))
    replicas = ["teachers.long.replicas=[2, 5]", "teachers.short.replicas=[1, 3]"]
    document = job(cases.recipe("mix-long", *cases.EXAMPLE, *replicas))
    assert counts(document, "teachers") == (0, 3, 8)
    document = job(cases.recipe("mix-long", *cases.EXAMPLE, *replicas, "kubernetes.teachers.gpus=8"))
    assert (gpus(document, "teachers"), counts(document, "teachers")) == ("8", (0, 1, 2))


def test_styles_of_one_model_share_their_engines() -> None:
    same = ["teachers.short.model=qwq-32b-preview", "teachers.short.engine={ max_model_len=18000, tensor_parallel=2 }"]
    assert counts(job(cases.recipe("mix-long", *cases.EXAMPLE, *same)), "teachers") == (0, 1, 1)


def test_styles_of_one_model_on_different_kinds_of_gpu_have_engines_of_their_own() -> None:
    engine = "engine={ max_model_len=18000, tensor_parallel=2 }"
    same = ["teachers.short.model=qwq-32b-preview", f"teachers.short.{engine}"]
    kinds = ["teachers.long.gpu=H100", "teachers.short.gpu=L40S"]
    assert counts(job(cases.recipe("mix-long", *cases.EXAMPLE, *same, *kinds)), "teachers") == (0, 2, 2)


def test_a_students_pod_holds_the_largest_cell_which_always_finds_its_machine() -> None:
    document = job(cases.recipe("mix-long", *cases.EXAMPLE))
    assert (gpus(document, "students"), counts(document, "students")) == ("4", (1, 1, 6))
    wide = ["students.qwen2-5-3b.num_workers=16", "students.qwen2-5-3b.micro_batch_size=1"]
    document = job(cases.recipe("mix-long", *cases.EXAMPLE, *wide))
    assert (gpus(document, "students"), counts(document, "students")) == ("8", (2, 2, 8))
    few = [*wide, "train.max_parallel_cells=1", "kubernetes.students.min_nodes=3"]
    assert counts(job(cases.recipe("mix-long", *cases.EXAMPLE, *few)), "students") == (3, 3, 3)


def test_a_recipe_for_cpus_asks_for_no_gpu_and_one_without_engines_for_no_teacher() -> None:
    document = job(cases.recipe("quickstart", *cases.EXAMPLE))
    assert gpus(document, "students") is None and gpus(document, "teachers") is None
    assert "tolerations" not in group(document, "students")["template"]["spec"]
    raw = cases.recipe().model_dump(mode="json")
    pools = [
        {"kind": "dataset", "name": name, "style": name, "source": {"kind": "hub", "dataset": f"a/{name}"}}
        for name in ("long", "short")
    ]
    bare = job(cases.changed(cases.recipe(), teachers=pools, models=raw["models"]))
    assert [one["groupName"] for one in bare["spec"]["rayClusterSpec"]["workerGroupSpecs"]] == ["students"]


def test_a_service_has_pods_for_its_engines_and_for_an_update_beside_them() -> None:
    (service,) = cases.documents(cases.service(cases.recipe()))
    assert counts(service, "students") == (4, 4, 8)
    sparing = [*cases.EXAMPLE, "serve.max_surge_percent=0", "serve.min_replicas=0", "serve.max_replicas=2"]
    (service,) = cases.documents(cases.service(cases.recipe("one-gpu-0.5b", *sparing)))
    assert counts(service, "students") == (0, 4, 8)
    (service,) = cases.documents(
        cases.service(cases.recipe("one-gpu-0.5b", *cases.EXAMPLE, "kubernetes.students.gpus=4"))
    )
    assert counts(service, "students") == (1, 1, 2)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["kubernetes.teachers.gpus=1"], r"an engine of teachers\[long\] takes 2 GPUs, a pod has 1 -> set kubernetes"),
        (["kubernetes.teachers.max_nodes=1", "teachers.long.replicas=[3, 3]"], r"max_nodes = 1, 3 are needed"),
        (["serve.engine.tensor_parallel=8", "kubernetes.students.gpus=4"], r"serve\.engine takes 8 GPUs"),
    ],
)
def test_pods_that_could_not_hold_the_work_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        job(cases.recipe("mix-long", *cases.EXAMPLE, *overrides))


# The command line


def test_a_recipe_without_an_image_says_which_setting_is_missing() -> None:
    with pytest.raises(ConfigError, match=r"kubernetes\.image: is missing\n.*kubernetes\.image=REGISTRY"):
        job(load_recipe(find_recipe("quickstart")))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("kubernetes.namespac=ml", "did you mean 'namespace'"),
        ("kubernetes.claim=No_Name", r"kubernetes\.claim"),
        ("kubernetes.students={ min_nodes = 3, max_nodes = 2 }", "min_nodes = 3 is above max_nodes = 2"),
        ("kubernetes.mount=relative", r"kubernetes\.mount"),
    ],
)
def test_wrong_settings_are_refused_like_those_of_any_section(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_recipe(find_recipe("quickstart"), [*cases.EXAMPLE, override])


def test_files_that_pods_cannot_read_are_refused() -> None:
    with pytest.raises(InputError, match=r"/home/me/run: not below /mnt/distill, where pods mount the claim distill"):
        job(cases.recipe(), "/home/me/run")
    raw = cases.recipe().model_dump(mode="json")
    raw["models"]["qwen2-5-7b"]["sources"] = ["/models/here"]
    with pytest.raises(InputError, match="/models/here: not below"):
        job(cases.changed(cases.recipe(), models=raw["models"]))
    with pytest.raises(InputError, match="runs/elsewhere"):
        cases.service(cases.recipe(), "/runs/elsewhere")


def test_a_made_run_takes_settings_for_kubernetes_only() -> None:
    recipe = with_overrides(
        load_recipe(find_recipe("quickstart")), ["kubernetes.image=i", "kubernetes.ttl_after_finished_s=5"]
    )
    assert recipe.kubernetes == KubernetesConfig(image="i", ttl_after_finished_s=5)
    with pytest.raises(ConfigError, match=r"train\.num_epochs=9: cannot be changed: the run is finished"):
        with_overrides(recipe, ["train.num_epochs=9"])


# The examples


def test_the_example_of_a_job_is_what_the_command_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    target = tmp_path / "job.yaml"
    run = "/mnt/distill/runs/mix-long"
    command = ["submit", "mix-long", "--run-dir", run, "--write-manifest", str(target)]
    assert main([*command, f"kubernetes.image={cases.IMAGE}"]) == 0
    assert f"kubectl apply -f {target}" in capsys.readouterr().out
    assert target.read_text() == (EXAMPLES / "rayjob.yaml").read_text()


def test_the_example_of_a_service_is_what_is_written_today() -> None:
    assert cases.service(cases.recipe()) == (EXAMPLES / "rayservice.yaml").read_text()
