"""The prompts stage with enough prompts for Ray Data: what is planted goes, a template set stays, in any order."""

import json
import random
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from rich.console import Console

from distill.config.load import parse_recipe
from distill.core.manifest import Manifest
from distill.core.run_dir import RunDir
from distill.core.schema import Dropped, Prompt, prompt_id
from distill.prompts import clean as clean_prompts
from distill.prompts.stage import prompts_stage
from distill.run.context import RunContext

TEMPLATE = "State the final answer to the following arithmetic problem:"
SUMS = {f"{TEMPLATE} {a} + {b} =": str(a + b) for a in range(80) for b in range(64)}
MAPS = [
    f"On the map of an old town find the shortest way from the gate to the tower by these streets: {way}"
    for way in (" ".join(random.Random(seed).choices("abcdefghijklmnop", k=12)) for seed in range(75))
]
NEAR_LIMIT = dict.fromkeys(MAPS[:65], "left")
"""A template in 65 prompts where 53 make it wording: a count that is lost anywhere gives these prompts away."""
EXAM = (
    dict.fromkeys(MAPS[65:], "left")
    | {f"{TEMPLATE} {a} - {a} =": "0" for a in range(80)}
    | {
        "A train leaves the town of Arden at noon and goes north at sixty miles per hour until it is home.": "4",
        "What has keys and no lock?": "a piano",
    }
)
TRAIN = "A train leaves the town of Arden at noon and goes north at sixty miles per hour. How far is it at one?"
STORY = "Anna picks 12 apples in the morning and 7 in the evening, then gives 5 of them to Tom, who lives next door."
TWINS = [STORY, STORY.replace("Anna", "Maria"), STORY.replace("apples", "Apples  ").replace(", then", " then")]
PLANTED = {**dict.fromkeys(TWINS, "14"), TRAIN: "60", "What has keys, and no lock": "a piano"}
OTHER_NUMBER = {STORY.replace("12", "13"): "15"}


class Done(NamedTuple):
    """A finished prompts stage."""

    manifest: Manifest
    prompts: set[str]
    drops: dict[str, Dropped]
    current: RunContext


@pytest.fixture(scope="module")
def on_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Done]:
    with ExitStack() as resources:
        yield run_prompts(tmp_path_factory.mktemp("ray"), resources, seed=0)


def run_prompts(folder: Path, resources: ExitStack, *, seed: int) -> Done:
    rows = [
        {"problem": text, "answer": answer} for text, answer in (SUMS | NEAR_LIMIT | PLANTED | OTHER_NUMBER).items()
    ]
    random.Random(seed).shuffle(rows)
    (folder / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    exam = [{"problem": text, "answer": answer} for text, answer in EXAM.items()]
    (folder / "exam.jsonl").write_text("\n".join(map(json.dumps, exam)))
    current = RunContext(parse_recipe(recipe()), folder, RunDir(str(folder / "run")), Console(quiet=True), resources)
    manifest = prompts_stage(current)
    prompts = current.run_dir.read_table("prompts", "prompts.parquet", row_type=Prompt).column("problem").to_pylist()
    drops = [
        Dropped(**row) for row in current.run_dir.read_table("prompts", "dropped.parquet", row_type=Dropped).to_pylist()
    ]
    return Done(manifest, set(prompts), {json.loads(drop.row)["problem"]: drop for drop in drops}, current)


def recipe() -> dict[str, Any]:
    return {
        "name": "cleaning",
        "device": "cpu",
        "models": {"none": {"sources": ["none"]}},
        "prompts": {"sources": [{"kind": "file", "path": "prompts.jsonl"}], "near_duplicates": 0.7},
        "teachers": [{"name": name, "model": "none", "style": name} for name in ("long", "short")],
        "mixes": [{"name": "half", "weights": {"long": 0.5, "short": 0.5}}],
        "students": [{"name": "student", "model": "none"}],
        "benchmarks": {"exam": {"source": {"kind": "file", "path": "exam.jsonl"}}},
        "evaluate": {"benchmarks": ["exam"]},
    }


def test_there_were_enough_prompts_for_ray(on_ray: Done) -> None:
    assert len(SUMS) >= clean_prompts.RAY_FROM
    assert "session" in vars(on_ray.current), "Ray was not joined"


def test_template_sets_and_a_story_with_another_number_stay(on_ray: Done) -> None:
    assert set(SUMS) | set(NEAR_LIMIT) | set(OTHER_NUMBER) <= on_ray.prompts


def test_of_near_duplicates_the_one_with_the_smallest_id_is_kept(on_ray: Done) -> None:
    kept = min(TWINS, key=prompt_id)
    assert on_ray.prompts & set(TWINS) == {kept}
    gone = [on_ray.drops[text] for text in TWINS if text != kept]
    assert [drop.reason for drop in gone] == ["near duplicate"] * 2
    assert all(drop.detail.startswith(prompt_id(kept)) for drop in gone)


def test_contaminated_prompts_are_dropped_with_what_they_matched(on_ray: Done) -> None:
    train, lock = on_ray.drops[TRAIN], on_ray.drops["What has keys, and no lock"]
    assert train.reason == lock.reason == "shares words with a benchmark"
    assert (
        train.detail == f"exam {prompt_id(list(EXAM)[-2])}: a train leaves the town of arden at noon and goes north at"
    )
    assert lock.detail == f"exam {prompt_id(list(EXAM)[-1])}: what has keys and no lock"


def test_the_numbers_add_up(on_ray: Done) -> None:
    manifest = on_ray.manifest
    assert manifest.drops == {"near duplicate": 2, "shares words with a benchmark": 2}
    assert manifest.rows_in == len(SUMS) + len(NEAR_LIMIT) + len(PLANTED) + len(OTHER_NUMBER) == manifest.rows_out + 4


def test_in_one_process_and_in_another_order_the_result_is_the_same(
    on_ray: Done, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clean_prompts, "RAY_FROM", 1 << 30)
    with ExitStack() as resources:
        alone = run_prompts(tmp_path, resources, seed=1)
    assert "session" not in vars(alone.current)
    assert alone.prompts == on_ray.prompts
    assert {text: drop.detail for text, drop in alone.drops.items()} == {
        text: drop.detail for text, drop in on_ray.drops.items()
    }
