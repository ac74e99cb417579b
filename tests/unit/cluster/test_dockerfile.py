"""The image of a cluster's nodes: what can be told of it without building it."""

import re
import shlex
import tomllib
from typing import Any

import pytest
import yaml

from tests.fixtures.paths import ROOT

TEXT = re.sub(r"\\\n\s*", "", (ROOT / "cluster" / "Dockerfile").read_text())
LINES = [line for line in TEXT.splitlines() if line and not line.startswith("#")]
INSTRUCTIONS = {"FROM", "RUN", "COPY", "ENV", "WORKDIR"}


def stages() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in LINES:
        if line.startswith("FROM"):
            found[line.rsplit(" ", 1)[1]] = []
        found[list(found)[-1]].append(line)
    return found


def test_every_line_is_an_instruction_whose_words_are_well_formed() -> None:
    for line in LINES:
        instruction, words = line.split(" ", 1)
        assert instruction in INSTRUCTIONS, line
        assert shlex.split(words), line


@pytest.mark.parametrize("build", ["cpu", "gpu"])
def test_a_stage_installs_the_lock_of_its_build_on_the_clusters_image(build: str) -> None:
    config: dict[str, Any] = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())
    images = {"cpu": config["docker"]["head_image"], "gpu": config["docker"]["worker_image"]}
    lines = stages()[build]
    assert lines[0] == f"FROM {images[build]} AS {build}"
    assert any(f"cluster/requirements/{build}.txt" in line for line in lines)
    assert (ROOT / "cluster" / "requirements" / f"{build}.txt").is_file()


def test_the_gpu_stage_runs_the_setup_commands_of_the_cluster_file() -> None:
    config: dict[str, Any] = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())
    runs = [line.removeprefix("RUN ") for line in stages()["gpu"] if line.startswith("RUN ")]
    assert runs[1:] == config["setup_commands"][1:]


@pytest.mark.parametrize("build", ["cpu", "gpu"])
def test_every_copied_path_is_there_and_all_packages_are_copied(build: str) -> None:
    copied = [path for line in stages()[build] if line.startswith("COPY") for path in shlex.split(line)[2:-1]]
    assert all((ROOT / path).exists() for path in copied)
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]["include"]
    assert {name.rstrip("*") for name in packages} <= set(copied)
