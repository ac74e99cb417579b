"""The audit tells of a prompt who wrote what, each verdict, which arm took what and why."""

import dataclasses
import io
from pathlib import Path

import pytest
from rich.console import Console

from distill.cli.audit import audit
from distill.core.errors import InputError
from distill.core.run_dir import Manifest
from distill.core.schema import Trace, content_hash
from distill.mix.stage import mix_stage
from distill.run.context import Run
from tests.unit.mix_run import make_run, trace

TRACES = [trace(number, pool) for number in range(20) for pool in ("long", "short")]
EXTRA = [
    trace(3, "long", 1, verdict="INCORRECT"),
    trace(3, "long", 2, completion=trace(3, "long").completion + " "),
    trace(4, "long", 1),
]


def run_with(folder: Path, traces: list[Trace]) -> Run:
    current = make_run(folder, [*traces], num_prompts=21, shards=3)
    manifest = mix_stage(current)
    current.run_dir.write_manifest(dataclasses.replace(manifest, key="k"), "mix")
    return current


def said(current: Run, subject: str = "") -> str:
    console = Console(file=io.StringIO(), width=200, highlight=False)
    audit(current.run_dir, current.recipe, subject, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_prompt_is_told_with_every_trace_verdict_and_reason(tmp_path: Path) -> None:
    told = said(run_with(tmp_path, [*TRACES, *EXTRA]), content_hash("p3"))
    assert "What is 3 + 1?" in told
    assert told.count("CORRECT by exact") == 4
    assert "INCORRECT by exact" in told
    assert "in the mix: not correct" in told
    assert "in the mix: duplicate" in told
    assert "long: all prompts take long" in told
    assert "mix-long: weighted, prompt " in told
    assert "(realised: long 4, short 16), so " in told
    assert trace(3, "short").completion.strip() in told


def test_of_two_samples_one_stands_for_its_pool(tmp_path: Path) -> None:
    told = said(run_with(tmp_path, [*TRACES, *EXTRA]), content_hash("p4"))
    assert told.count("stands for its pool") == 3
    assert told.count("another sample stands for its pool") == 1


def test_a_prompt_in_no_arm_says_why(tmp_path: Path) -> None:
    current = run_with(tmp_path, [*TRACES, trace(20, "long")])
    told = said(current, content_hash("p20"))
    assert "in no arm: not solved by every pool (no usable trace of short)" in told
    assert "its prompt is not common to all pools" in told


def test_an_arm_is_told_with_its_shares_and_its_traces(tmp_path: Path) -> None:
    current = run_with(tmp_path, TRACES)
    told = said(current, "mix-long")
    assert "mix-long: weighted, 20 rows" in told
    assert "long 20.0% asked, 20.0% of rows" in told
    assert sum(content_hash(f"p{number}") in told for number in range(20)) == 10
    assert "every arm teaches the same 20 prompts, one row each" in said(current)


def test_a_student_is_told_by_what_taught_it(tmp_path: Path) -> None:
    current = run_with(tmp_path, TRACES)
    current.run_dir.write_manifest(Manifest("train", "k", 20, 19, {"too_long": 1}), "train", "s@mix-long")
    told = said(current, "s@mix-long")
    assert "s@mix-long learnt from 19 rows of mix-long; dropped in training: 1 too_long" in told
    with pytest.raises(InputError, match=r"it has: s@mix-long"):
        said(current, "s@short")


def test_what_is_not_there_is_named_with_what_is(tmp_path: Path) -> None:
    current = run_with(tmp_path, TRACES)
    with pytest.raises(InputError, match="mixes: long, short, mix-long"):
        said(current, "mix-lnog")
    current.run_dir.remove("mix", "manifest.json")
    with pytest.raises(InputError, match="no mix is drawn yet"):
        said(current)


def test_texts_are_never_read_as_markup(tmp_path: Path) -> None:
    odd = [trace(0, pool, completion=f"[bold]{pool}[/nonsense] 1") for pool in ("long", "short")]
    told = said(run_with(tmp_path, [*odd, *TRACES[2:]]), content_hash("p0"))
    assert "[bold]long[/nonsense] 1" in told
