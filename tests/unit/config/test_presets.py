"""Presets: a row in the schema of each data set is a prompt and its traces, from a copy and by its hub source."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from distill.config.preset_table import PRESETS
from distill.config.presets import known_licences, with_presets
from distill.config.sources import HubSource, PromptSource
from distill.core.schema import Prompt, prompt_id
from distill.generate.dataset_teacher import Tally, usable_rows
from distill.prompts.load import Loaded, count_reasons, load_prompts
from distill.prompts.rows.read import read_rows
from tests.fixtures.data_sources import source_of, teacher_of
from tests.fixtures.paths import ROOT

CASES = [json.loads(line) for line in (ROOT / "tests/cases/presets.jsonl").read_text().splitlines()]
by_name = pytest.mark.parametrize("case", CASES, ids=lambda case: str(case["preset"]))


def written(case: dict[str, Any], folder: Path) -> Path:
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in case["rows"]))
    return path


def loaded(source: PromptSource, base: Path) -> Loaded:
    return load_prompts([source], base=base, max_problem_chars=999, num_prompts=None, seed=0)


def test_every_preset_has_a_case() -> None:
    without = {name for name, preset in PRESETS.items() if not preset.prompts and not preset.traces}
    assert {case["preset"] for case in CASES} | without == set(PRESETS)


@by_name
def test_rows_are_prompts(case: dict[str, Any], tmp_path: Path) -> None:
    if PRESETS[case["preset"]].prompts is None:
        return
    found = loaded(source_of(preset=case["preset"], path=str(written(case, tmp_path))), tmp_path)
    shown = [{"problem": one.problem, "reference": one.reference} for one in found.prompts]
    assert shown == case["prompts"], count_reasons(found.drops)
    total = len(found.prompts) + len(found.drops) + sum(found.skipped.values())
    assert total == len(case["rows"])


@by_name
def test_rows_are_traces(case: dict[str, Any], tmp_path: Path) -> None:
    if PRESETS[case["preset"]].traces is None:
        return
    teacher = teacher_of(preset=case["preset"], source={"path": str(written(case, tmp_path))})
    prompt = Prompt(prompt_id("What is 17 + 17?"), "What is 17 + 17?", "34", "math", "s", "", "", "")
    tally = Tally()
    rows = read_rows(teacher.source, tmp_path, teacher.columns, teacher.where, tally.counts)
    traces = [one.completion for one in usable_rows(teacher, rows, {prompt.prompt_id: prompt}, tally)]
    assert traces == case["traces"], tally.counts
    wanted = Counter(case.get("dropped", {}))
    assert {reason: tally.counts[reason] for reason in wanted if reason != "no answer"} == {
        reason: number for reason, number in wanted.items() if reason != "no answer"
    }


@pytest.mark.parametrize("name", [name for name, preset in PRESETS.items() if preset.dataset and preset.prompts])
def test_a_preset_alone_is_a_hub_source(name: str) -> None:
    source = source_of(preset=name)
    assert isinstance(source, HubSource) and source.dataset == PRESETS[name].dataset


def test_what_the_recipe_says_stands() -> None:
    source = source_of(preset="nemotron-math-v2-low", max_rows=9, columns={"subject": "url"})
    assert isinstance(source, HubSource)
    assert (source.split, source.streaming, source.max_rows) == ("low", True, 9)
    assert (source.columns.reference, source.columns.subject) == ("expected_answer", "url")
    teacher = teacher_of(preset="openmathreasoning", where={"generation_model": "QwQ-32B"})
    assert teacher.where == {"inference_mode": "cot", "generation_model": "QwQ-32B"}


@pytest.mark.parametrize(
    ("raw", "where", "remedy"),
    [
        ({"prompts": {"sources": [{"preset": "openr1"}]}}, "prompts.sources[0].preset", "openr1-math-220k"),
        ({"prompts": {"sources": [{"preset": "own-messages", "path": "x"}]}}, "prompts.sources[0].preset", "another"),
        ({"teachers": [{"name": "a", "preset": "gsm8"}]}, "teachers[a].preset", "did you mean 'gsm8k'"),
        ({"teachers": [{"name": "a", "preset": "dapo-math-17k"}]}, "teachers[a].preset", "another data set"),
        ({"teachers": [{"name": "a", "preset": "own-dataset"}]}, "teachers[a].preset", "name the file"),
        ({"benchmarks": {"b": {"source": {"preset": "opencodereasoning"}}}}, "benchmarks.b.source.preset", "another"),
    ],
)
def test_a_preset_that_cannot_be_used_here_is_named(raw: dict[str, Any], where: str, remedy: str) -> None:
    (problem,) = with_presets(raw).problems
    assert problem.where == where and remedy in problem.remedy


def test_licences_are_those_of_cards() -> None:
    known = dict(known_licences())
    assert known["openai/gsm8k"] == ("mit",) and "GAIR/LIMO" not in known


def test_the_page_of_data_sets_names_every_preset_with_its_licence_and_note() -> None:
    page = (ROOT / "docs/data.md").read_text(encoding="utf-8")
    for name, preset in PRESETS.items():
        (line,) = [line for line in page.splitlines() if f"| `{name}` |" in line]
        licence = " and ".join(preset.licences) or ("see its card" if preset.dataset else "")
        has = ["yes" if mapping is not None else "no" for mapping in (preset.prompts, preset.traces)]
        assert line.split("|")[3:7] == [f" {cell} " for cell in [*has, licence, preset.note]], name
