"""`distill status` tells from a run's files how full its pools and arms are."""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from distill.cli.status import PoolFill, common_prompts, pool_fill, pool_fills, show_status
from distill.config.mix import BothMix, WeightedMix, WeightedTokensMix
from distill.config.shares import rows_by_pool
from distill.config.teachers import VllmTeacher
from distill.core.schema import Prompt, Trace
from tests.fixtures.mix_run import make_run, prompt, trace


def test_a_pools_fill_counts_each_trace_once_and_no_cut_or_wrong_one_as_solved(tmp_path: Path) -> None:
    traces = [trace(1, "long"), trace(2, "long", verdict="INCORRECT"), trace(3, "long", finish_reason="length")]
    run = make_run(tmp_path, [*traces, trace(1, "short")], num_prompts=4)
    run.run_dir.write_rows(traces, Trace, "generate", "long-f", "again.parquet")
    long = run.recipe.teachers[0]
    fill = pool_fill(run.run_dir, long, {})
    assert (fill.traces, fill.correct, len(fill.solved)) == (3, 1, 1)
    assert pool_fill(run.run_dir, long.model_copy(update={"name": "lon"}), {}).traces == 0


def test_edits_count_as_correct_only_where_they_are_used(tmp_path: Path) -> None:
    sources = [trace(1, "long"), trace(2, "long", verdict="INCORRECT"), trace(3, "long")]

    def edit(number: int, index: int, parent: str, growth: float = 0.5) -> Trace:
        return trace(number, "edits", index, parent=parent, growth=growth)

    edits = [
        edit(1, 0, sources[0].trace_id),
        edit(2, 0, sources[1].trace_id),  # of a wrong trace
        edit(3, 0, sources[2].trace_id, growth=1.0),  # as long as its source
        edit(4, 0, "00000000000000ab"),  # its source is gone
    ]
    run = make_run(tmp_path, sources, num_prompts=5)
    run.run_dir.write_rows(edits, Trace, "generate", "edits-f", "0.parquet")

    def fill(**fields: Any) -> PoolFill:
        raw = {"name": "edits", "model": "m", "style": "short", "reads": "long", "chat": {"template": "{trace}"}}
        reader = VllmTeacher.model_validate(raw | fields)
        return pool_fills(run.run_dir, [reader, *run.recipe.teachers])["edits"]

    assert [fill().correct, fill(takes="any").correct, fill(keep_if="shorter").correct] == [2, 3, 1]
    assert fill(keep_if="shorter").solved == {prompt(1).prompt_id} and fill().traces == 4


def test_arms_fill_with_the_prompts_that_all_pools_solved(tmp_path: Path) -> None:
    traces = [trace(number, "long") for number in range(12)] + [trace(number, "short") for number in range(2, 20)]
    run = make_run(tmp_path, traces, num_prompts=20)
    fills = pool_fills(run.run_dir, run.recipe.teachers)
    (group,) = run.recipe.arm_groups
    assert len(common_prompts(group, fills, {})) == 10
    console = Console(file=io.StringIO(), width=120)
    show_status(run.run_dir, run.recipe, console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "prompts that all pools solved: 10" in printed
    assert "mix-long: long 2, short 8" in printed
    assert "s@mix-long" in printed


def test_a_cell_says_which_other_it_waits_for_and_arms_of_own_sources_fill_by_themselves(tmp_path: Path) -> None:
    def in_stages(raw: dict[str, Any]) -> dict[str, Any]:
        first, second, _ = raw["mixes"]
        return raw | {"mixes": [first | {"sources": ["puzzles"]}, second | {"after": "long"}]}

    traces = [trace(number, "long") for number in range(12)] + [trace(number, "short") for number in range(2, 20)]
    run = make_run(tmp_path, traces, num_prompts=20, change=in_stages)
    prompts = [replace(prompt(number), source="puzzles" if number < 5 else "sums") for number in range(20)]
    run.run_dir.write_rows(prompts, Prompt, "prompts", "prompts.parquet")
    console = Console(file=io.StringIO(), width=120)
    show_status(run.run_dir, run.recipe, console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "prompts of puzzles that long solved: 5" in printed and "prompts that short solved: 18" in printed
    assert "s@short waiting for s@long" in " ".join(printed.split())


def test_an_arms_rows_follow_from_its_policy() -> None:
    weights = {"long": 0.2, "short": 0.8}
    assert rows_by_pool(WeightedMix(name="m", weights=weights), 44) == {"long": 9, "short": 35}
    assert rows_by_pool(BothMix(name="m", pools=("long", "short")), 44) == {"long": 44, "short": 44}
    assert rows_by_pool(WeightedTokensMix(name="m", weights=weights), 44) == {}
