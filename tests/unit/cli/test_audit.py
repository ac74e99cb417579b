"""The audit tells of a prompt who wrote what, each verdict, which arm took what and why."""

import dataclasses
import io
from pathlib import Path

import pytest
from rich.console import Console

from distill.cli.audit import audit
from distill.core.errors import InputError
from distill.core.manifest import Manifest
from distill.core.schema import Trace, content_hash
from distill.mix.stage import mix_stage
from distill.run.context import RunContext
from tests.fixtures.mix_run import make_run, trace

TRACES = [trace(number, pool) for number in range(20) for pool in ("long", "short")]
EXTRA = [
    trace(3, "long", 1, verdict="INCORRECT"),
    trace(3, "long", 2, completion=trace(3, "long").completion + " "),
    trace(4, "long", 1),
]


def run_with(folder: Path, traces: list[Trace]) -> RunContext:
    run = make_run(folder, [*traces], num_prompts=21, shards=3)
    manifest = mix_stage(run)
    run.run_dir.write_manifest(dataclasses.replace(manifest, key="k"), "mix")
    return run


def audited(run: RunContext, subject: str = "") -> str:
    console = Console(file=io.StringIO(), width=200, highlight=False)
    audit(run.run_dir, run.recipe, subject, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_prompt_is_shown_with_every_trace_verdict_and_reason(tmp_path: Path) -> None:
    printed = audited(run_with(tmp_path, [*TRACES, *EXTRA]), content_hash("p3"))
    assert "What is 3 + 1?" in printed
    assert printed.count("CORRECT by exact") == 4
    assert "INCORRECT by exact" in printed
    assert "in the mix: not correct" in printed
    assert "in the mix: duplicate" in printed
    assert "long: all prompts take long" in printed
    assert "mix-long: weighted, prompt " in printed
    assert "(realised: long 4, short 16), so " in printed
    assert trace(3, "short").completion.strip() in printed


def test_of_two_samples_one_is_selected_for_its_pool(tmp_path: Path) -> None:
    printed = audited(run_with(tmp_path, [*TRACES, *EXTRA]), content_hash("p4"))
    assert printed.count("in the mix: selected from its teacher") == 2
    assert printed.count("in the mix: another sample of this teacher was selected") == 1


def test_a_prompt_in_no_arm_is_shown_with_the_reason(tmp_path: Path) -> None:
    run = run_with(tmp_path, [*TRACES, trace(20, "long")])
    printed = audited(run, content_hash("p20"))
    assert "in no arm: not solved by every pool (no usable trace of short)" in printed
    assert "its prompt is not common to all pools" in printed


def test_an_arm_is_shown_with_its_shares_and_its_traces(tmp_path: Path) -> None:
    run = run_with(tmp_path, TRACES)
    printed = audited(run, "mix-long")
    assert "mix-long: weighted, 20 rows" in printed
    assert "long 20.0% requested, 20.0% of rows" in printed
    assert sum(content_hash(f"p{number}") in printed for number in range(20)) == 10
    assert "every arm teaches the same 20 prompts, one row each" in audited(run)


def test_a_student_is_shown_with_the_examples_that_taught_it(tmp_path: Path) -> None:
    run = run_with(tmp_path, TRACES)
    run.run_dir.write_manifest(Manifest("train", "k", 20, 19, {"too_long": 1}), "train", "s@mix-long")
    printed = audited(run, "s@mix-long")
    assert "s@mix-long was trained on 19 rows of mix-long; dropped in training: 1 too_long" in printed
    with pytest.raises(InputError, match=r"it has: s@mix-long"):
        audited(run, "s@short")


def test_unknown_names_are_refused_with_the_known_ones(tmp_path: Path) -> None:
    run = run_with(tmp_path, TRACES)
    with pytest.raises(InputError, match="mixes: long, short, mix-long"):
        audited(run, "mix-lnog")
    run.run_dir.remove("mix", "manifest.json")
    with pytest.raises(InputError, match="the mix stage is not done yet"):
        audited(run)


def test_texts_are_never_read_as_markup(tmp_path: Path) -> None:
    odd = [trace(0, pool, completion=f"[bold]{pool}[/nonsense] 1") for pool in ("long", "short")]
    printed = audited(run_with(tmp_path, [*odd, *TRACES[2:]]), content_hash("p0"))
    assert "[bold]long[/nonsense] 1" in printed
