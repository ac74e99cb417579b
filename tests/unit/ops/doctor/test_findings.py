"""Findings from what the probes measured."""

import dataclasses
from typing import Any

import pytest

from distill.ops.doctor.findings import (
    NodeProbe,
    disk_finding,
    gpu_finding,
    is_ready,
    node_findings,
    source_finding,
    version_findings,
)

NODE = NodeProbe("b (1234)", skew_s=0.2, error="", is_seen=True, versions={"ray": "2.60.0"})


def test_a_version_that_was_not_tried_and_one_that_is_missing_are_named() -> None:
    installed = {"ray": "2.59.0", "torch": "2.13.0", "gguf": "0.1"}
    found = list(version_findings(["ray[data]==2.60.0", "torch>=2", "gguf>=0.17", "peft"], installed))
    assert [(one.status, one.what) for one in found] == [
        ("problem", "ray 2.59.0 is installed, ==2.60.0 was tested with the others"),
        ("warning", "gguf 0.1 is installed, >=0.17 was tested with the others"),
        ("problem", "peft is not installed"),
    ]
    assert not is_ready(found)
    assert is_ready(version_findings(["ray==2.60.0"], {"ray": "2.60.0"}))


def test_gpus_are_missed_only_where_the_recipe_asks_for_them() -> None:
    assert gpu_finding("gpu", [], "no driver").status == "problem"
    assert gpu_finding("auto", [], "no driver").status == "ok"
    assert "H100" in gpu_finding("gpu", ["NVIDIA H100, 81559 MiB, 570.1"], "").what


def test_a_disk_must_have_room_for_what_is_written_and_a_reserve() -> None:
    assert disk_finding("runs", 4.0, 0.0).status == "problem"
    assert disk_finding("runs", 30.0, 10.0).status == "ok"


def test_a_model_may_come_from_any_of_its_sources() -> None:
    assert source_finding("models", "m", {"a/b": "no network", "package://p": ""}).status == "ok"
    refused = source_finding("models", "m", {"a/b": "GatedRepoError from the hub, without a token"})
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
def test_a_node_that_would_break_a_run_is_named(change: dict[str, Any], what: str) -> None:
    (fault, *_) = node_findings([dataclasses.replace(NODE, **change)], {"ray": "2.60.0"})
    assert "b (1234)" in fault.what and what in fault.what


def test_good_nodes_are_one_line() -> None:
    (line,) = node_findings([NODE, NODE], {"ray": "2.60.0"})
    assert line.status == "ok" and line.what.startswith("2 write")
