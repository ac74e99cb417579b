"""The preflight: what it makes of the facts, and that a run begins with its quick part."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest

from distill.config.load import find_recipe, load_recipe
from distill.core.errors import InputError
from distill.core.run_dir import RunDir
from distill.ops.doctor import preflight as examine
from distill.ops.doctor import probes as facts
from distill.ops.doctor.findings import (
    NodeFacts,
    disk_finding,
    gpu_finding,
    import_findings,
    is_ready,
    node_findings,
    source_finding,
    version_findings,
)

NODE = NodeFacts("b (1234)", skew_s=0.2, error="", is_seen=True, versions={"ray": "2.60.0"})


def test_a_version_that_was_not_tried_and_one_that_is_missing_are_named() -> None:
    installed = {"ray": "2.59.0", "torch": "2.13.0", "gguf": "0.1"}
    found = list(version_findings(["ray[data]==2.60.0", "torch>=2", "gguf>=0.17", "peft"], installed))
    assert [(one.status, one.what) for one in found] == [
        ("problem", "ray 2.59.0 is here, ==2.60.0 was tried with the others"),
        ("warning", "gguf 0.1 is here, >=0.17 was tried with the others"),
        ("problem", "peft is not installed"),
    ]
    assert not is_ready(found)
    assert is_ready(version_findings(["ray==2.60.0"], {"ray": "2.60.0"}))


def test_this_checkout_has_the_versions_that_it_asks_for() -> None:
    assert is_ready(version_findings(facts.requirements(), facts.installed_versions()))


def test_an_import_that_fails_says_what_python_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(facts, "LIBRARIES", ("json", "no_such_library"))
    (problem,) = import_findings(facts.import_errors())
    assert problem.what == "no_such_library: ModuleNotFoundError: No module named 'no_such_library'"


def test_gpus_are_missed_only_where_the_recipe_asks_for_them() -> None:
    assert gpu_finding("gpu", [], "no driver").status == "problem"
    assert gpu_finding("auto", [], "no driver").status == "ok"
    assert "H100" in gpu_finding("gpu", ["NVIDIA H100, 81559 MiB, 570.1"], "").what


def test_a_disk_must_hold_what_is_written_and_a_reserve() -> None:
    assert disk_finding("runs", 4.0, 0.0).status == "problem"
    assert disk_finding("runs", 30.0, 10.0).status == "ok"


def test_a_model_may_come_from_any_of_its_sources() -> None:
    assert source_finding("models", "m", {"a/b": "no network", "package://p": ""}).status == "ok"
    refused = source_finding("models", "m", {"a/b": "GatedRepoError of the hub, without a token"})
    assert refused.status == "problem" and "without a token" in refused.what and "HF_TOKEN" in refused.remedy


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"error": "PermissionError: no"}, "cannot write to the run's storage: PermissionError: no"),
        ({"is_seen": False}, "the run directory is not shared"),
        ({"skew_s": -40.0}, "is -40.0 s off"),
        ({"versions": {"ray": "2.59.0"}}, "has ray 2.59.0, not 2.60.0"),
    ],
)
def test_a_node_that_would_spoil_a_run_is_named(change: dict[str, Any], what: str) -> None:
    (fault, *_) = node_findings([dataclasses.replace(NODE, **change)], {"ray": "2.60.0"})
    assert "b (1234)" in fault.what and what in fault.what


def test_good_nodes_are_one_line() -> None:
    (line,) = node_findings([NODE, NODE], {"ray": "2.60.0"})
    assert line.status == "ok" and line.what.startswith("2 write")


def test_a_run_does_not_begin_where_it_cannot_write(tmp_path: Path) -> None:
    recipe = load_recipe(find_recipe("quickstart"))
    examine.refuse_unready(recipe, tmp_path, RunDir(str(tmp_path / "run")))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot begin(.|\n)*storage: .*NotADirectory"):
        examine.refuse_unready(recipe, tmp_path, RunDir(str(tmp_path / "file" / "run")))


def test_keys_are_named_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe(find_recipe("quickstart"), ["verify.judge.base_url='http://h/v1'", "verify.judge.model=m"])
    judge = recipe.verify.judge
    assert judge is not None
    verify = recipe.verify.model_copy(update={"judge": judge.model_copy(update={"api_key_env": "MIX_TEST_KEY"})})
    recipe = recipe.model_copy(update={"verify": verify})
    monkeypatch.setenv("MIX_TEST_KEY", "secret-1")
    (found,) = examine._credentials(recipe)
    assert found.status == "ok" and "MIX_TEST_KEY" in found.what and "secret-1" not in found.what
    monkeypatch.delenv("MIX_TEST_KEY")
    (found,) = examine._credentials(recipe)
    assert found.status == "problem" and found.remedy == "export MIX_TEST_KEY=..."
