"""The preflight reads the first rows of every source and says what they become."""

import json
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from distill.config.sources import FileSource, GymSource, PromptSource
from distill.ops.doctor.data import prompt_sample, source_finding, trace_sample
from distill.ops.doctor.findings import Finding
from tests.fixtures.data_sources import source_of, teacher_of

ROW = {"problem": "What is 17 + 17?", "answer": "34", "completion": "It is \\boxed{34}.", "model": "m"}


def found(source: PromptSource, base: Path) -> Finding:
    return source_finding(source, base, partial(prompt_sample, source, base, 999))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in [{**ROW, "answer": None}, ROW]))
    return tmp_path


def test_a_source_shows_its_first_prompt(folder: Path) -> None:
    assert found(FileSource(path="rows.jsonl"), folder) == Finding(
        "data", "ok", "rows.jsonl: 'What is 17 + 17?' -> '34'"
    )
    boxed = source_of(path="rows.jsonl", kind="file", columns={"reference": "completion", "reference_from": "box"})
    assert found(boxed, folder).what.endswith("'34', from its box")
    assert found(GymSource(task="chain_sum", size=2), folder).status == "ok"


@pytest.mark.parametrize(
    ("fields", "status", "what"),
    [
        ({"path": "other.jsonl"}, "problem", "other.jsonl: no such file"),
        ({"columns": {"reference": "gold"}}, "warning", "no row has 'gold', named in its columns"),
        ({"where": {"model": "x"}}, "warning", "none of its first 50 rows can be used: 2 excluded by where"),
        ({"columns": {"problem_pattern": "^Q: (.*)"}}, "warning", "2 does not match problem_pattern"),
    ],
)
def test_what_is_wrong_with_a_source_is_said(fields: dict[str, Any], status: str, what: str, folder: Path) -> None:
    finding = found(source_of(**{"kind": "file", "path": "rows.jsonl", **fields}), folder)
    assert finding.status == status and what in finding.what and finding.remedy


def test_a_pool_shows_its_first_trace(folder: Path) -> None:
    teacher = teacher_of(kind="dataset", name="t", source={"kind": "file", "path": "rows.jsonl"})
    finding = source_finding(teacher.source, folder, partial(trace_sample, teacher, folder))
    assert finding == Finding("data", "ok", "rows.jsonl: pool t, first trace 'It is \\\\boxed{34}.'")
