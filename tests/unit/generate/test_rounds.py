"""Readers on another engine than their source: both are asked again as long as that helps. Without Ray."""

import asyncio
import io
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from cluster.placement import Resources
from distill.config.mix import SingleMix
from distill.config.pass_order import pass_numbers
from distill.config.prompt_sets import arm_groups
from distill.config.teachers import GenerateConfig
from distill.config.verify import VerifyConfig
from distill.core.manifest import Manifest
from distill.core.run_dir import RunDir
from distill.generate.asker import Asker, Completion, TeacherJob
from distill.generate.chunks import chunk_table
from distill.generate.pools import Request
from distill.generate.stage import generate_stage
from distill.generate.survey import survey_prompts
from distill.run.pools import Pool
from tests.fixtures.teacher_jobs import LocalHandle, pool, reader, traces, write_prompts


def generate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pools: Sequence[Pool], *, num_wrong: int
) -> tuple[Manifest, list[str]]:
    """The stage with scripted engines; of a prompt's edits the first `num_wrong` are wrong. Returns what was asked."""
    run_dir, asked, edits = RunDir(str(tmp_path)), list[str](), Counter[str]()
    write_prompts(run_dir, 2)

    async def write(request: Request, pool: Pool, problem: str) -> Completion:
        asked.append(pool.name)
        edits[request.prompt_id] += bool(request.parent)
        is_wrong = bool(request.parent) and edits[request.prompt_id] <= num_wrong
        return Completion("99" if is_wrong else problem.split()[0], "stop", 5, 7, "test")

    def ask_teachers(groups: Any, plan: Any, pools: Any, recipe: Any, run_dir: RunDir, **other: Any) -> Counter[str]:
        (group,) = groups
        survey = survey_prompts(run_dir, pools, plan, {one.name for one in group})
        read = {one.name: one for one in pools}
        handle = LocalHandle()
        job = TeacherJob(run_dir.uri, tuple(group), plan, read, recipe.generate, recipe.verify, 1, handle)

        async def answer() -> None:
            await Asker(job, write).answer_table(chunk_table(survey.open_chunks))

        asyncio.run(answer())
        return Counter(handle.progress.counts)

    engines = ModuleType("distill.generate.ask_job")
    engines.__dict__.update(ask_teachers=ask_teachers, first_engine_need=lambda pool, device: Resources(1))
    monkeypatch.setitem(sys.modules, "distill.generate.ask_job", engines)
    mixes = [SingleMix(name="edit", pool="edit")]
    numbers = pass_numbers([one.teacher for one in pools], mixes, ())
    recipe = SimpleNamespace(
        mixes=mixes,
        arm_groups=arm_groups(mixes, numbers.arms),
        pass_numbers=numbers,
        generate=GenerateConfig(flush_s=0.01),
        verify=VerifyConfig(),
        seed=1,
    )
    run: Any = SimpleNamespace(
        recipe=recipe,
        run_dir=run_dir,
        pools=tuple(pools),
        base=tmp_path,
        console=Console(file=io.StringIO()),
        session=SimpleNamespace(device="cpu", nodes=lambda: (Resources(2),)),
    )
    return generate_stage(run), asked


def chain() -> tuple[Pool, Pool]:
    """A source and its reader, on two engines."""
    base = pool("base", num_samples=3)
    return base, Pool(reader("edit", base).teacher, "another folder", "f" * 16)


def test_a_source_is_asked_again_in_further_rounds_until_its_reader_has_solved_the_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    base, edit = chain()
    manifest, asked = generate(tmp_path, monkeypatch, [base, edit], num_wrong=1)
    assert asked == ["base", "base", "edit", "edit"] * 2
    assert manifest.details["complete_prompts"] == 2
    assert manifest.details["not_asked"] == {"solved": 2, "lost": 0}, "the third sample of each prompt"


def test_rounds_end_once_a_source_has_nothing_more_to_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base, edit = chain()
    manifest, asked = generate(tmp_path, monkeypatch, [base, edit], num_wrong=9)
    assert Counter(asked) == {"base": 6, "edit": 6}
    assert manifest.details["complete_prompts"] == 0
    assert len(traces(tmp_path, [edit])) == 6
