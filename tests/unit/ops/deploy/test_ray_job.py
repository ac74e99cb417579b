"""A run as a Ray job: what it is called, what travels, and what a cluster could not see."""

import json
from pathlib import Path

import pytest
from ray.exceptions import AuthenticationError
from rich.console import Console

from distill.config.load import find_recipe, load_recipe
from distill.core.errors import InputError
from distill.core.run_dir import RunDir
from distill.ops.deploy.ray_job import (
    MAX_UPLOAD_MIB,
    job_base,
    next_job,
    pack,
    stop,
    validate_reachable,
    validate_upload_size,
)

BASE = job_base("s3://bucket/run", "quickstart")


def test_a_run_that_is_under_way_is_attached_to_and_a_finished_one_gets_the_next_number() -> None:
    assert next_job(BASE, []) == (f"{BASE}-1", False)
    assert next_job(BASE, [(f"{BASE}-1", "FAILED"), (f"{BASE}-2", "STOPPED")]) == (f"{BASE}-3", False)
    assert next_job(BASE, [(f"{BASE}-1", "FAILED"), (f"{BASE}-2", "RUNNING")]) == (f"{BASE}-2", True)
    others = [(f"{job_base('s3://bucket/other', 'quickstart')}-7", "RUNNING"), ("someone", "RUNNING"), ("", "RUNNING")]
    assert next_job(BASE, others) == (f"{BASE}-1", False)


@pytest.mark.parametrize("spelling", ["s3://bucket/run/", "S3://bucket//run", "s3a://bucket/run"])
def test_a_run_directory_has_one_job_however_it_is_spelled_and_the_recipe_is_called(spelling: str) -> None:
    assert job_base(spelling, "quickstart") == BASE
    assert job_base("file:///shared/x", "a") == job_base("/shared/x", "a")
    assert next_job(job_base(spelling, "renamed"), [(f"{BASE}-2", "RUNNING")]) == (f"{BASE}-2", True)
    assert next_job(BASE, [("distill-x", "RUNNING")]) == (f"{BASE}-1", False)


def test_code_and_the_whole_recipe_travel_and_nothing_else(tmp_path: Path) -> None:
    recipe = load_recipe(find_recipe("one-gpu-0.5b"), ["train.num_epochs=3"])
    pack(recipe, tmp_path / "upload")
    assert {path.name for path in (tmp_path / "upload").iterdir()} == {"cluster", "distill", "serve", "recipe.json"}
    assert load_recipe(tmp_path / "upload" / "recipe.json") == recipe
    assert not list((tmp_path / "upload").rglob("__pycache__"))
    total = sum(path.stat().st_size for path in (tmp_path / "upload").rglob("*") if path.is_file())
    assert total < 4 * 2**20


def test_a_cluster_that_wants_a_token_is_told_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(address: str) -> None:
        raise AuthenticationError(f"{address}: token is missing")

    monkeypatch.setattr("ray.job_submission.JobSubmissionClient", refuse)
    recipe, console = load_recipe(find_recipe("one-gpu-0.5b")), Console()
    with pytest.raises(InputError, match=r"wants a token: .* -> set RAY_AUTH_MODE=token"):
        stop(recipe, "/shared/run", "http://head:8265", console)


def test_an_upload_that_is_too_large_names_its_largest_files() -> None:
    validate_upload_size({"code.py": 2**20})
    with pytest.raises(InputError, match=r"30\.0 MiB, 20 are allowed: data.bin \(29\.0 MiB\), code.py"):
        validate_upload_size({"code.py": 2**20, "data.bin": 29 * 2**20})
    assert MAX_UPLOAD_MIB < 100


def test_a_folder_of_this_machine_and_files_beside_the_recipe_are_refused(tmp_path: Path) -> None:
    recipe = load_recipe(find_recipe("quickstart"))
    validate_reachable(recipe, RunDir("memory://run"), "memory://run")
    with pytest.raises(InputError, match="runs/x is a folder of this machine"):
        validate_reachable(recipe, RunDir("runs/x"), "runs/x")
    beside = recipe.model_dump(mode="json")
    beside["prompts"]["sources"] = [{"kind": "file", "path": "mine.jsonl"}]
    (tmp_path / "recipe.json").write_text(json.dumps(beside))
    with pytest.raises(InputError, match=r"mine\.jsonl: relative to the recipe"):
        validate_reachable(load_recipe(tmp_path / "recipe.json"), RunDir("memory://run"), "memory://run")
