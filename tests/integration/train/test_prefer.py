"""Imitation, then preferences, for real: through the train stage, with tiny models."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from distill.core.manifest import Manifest
from distill.core.run_dir import RunDir
from distill.core.schema import Example, Message
from distill.train.worker.metrics import read_metrics
from distill.train.worker.pairs import REFERENCE_FILE, ReferenceScore
from tests.fixtures.train_run import NUM_ROWS, example
from tests.integration.train.test_after import Run, base, staged_recipe

__all__ = ["base"]
SFT = {"name": "short", "weights": {"short": 1.0}}
DPO = {
    "name": "dpo", "policy": "pairs", "pools": ["short"], "after": "short", "num_steps": 20,
    "objective": {"kind": "prefer", "beta": 0.5},
}  # fmt: skip
TWO_SAMPLES = [{"name": style, "model": "m", "style": style, "num_samples": 2} for style in ("long", "short")]
CELLS = ("full@dpo", "lora@dpo")


def write_pairs(run_dir: RunDir) -> None:
    """The mix stage's files as of an arm with rows and one with pairs, of the same prompts."""
    rows = [example(number, "short", "short") for number in range(NUM_ROWS)]
    pairs = []
    for number, row in enumerate(rows):
        wrong = [row.messages[0], Message("assistant", f"so it is {number + 7}.")]
        pairs.append(dataclasses.replace(row, mix="dpo", side="chosen"))
        pairs.append(dataclasses.replace(row, mix="dpo", side="rejected", trace_id=f"w{number}", messages=wrong))
    details = {}
    for name, examples in (("short", rows), ("dpo", pairs)):
        run_dir.write_rows(examples, Example, "mix", f"{name}.parquet")
        tokens = sum(len(one.messages[-1].content) for one in examples)
        details[name] = {"rows": len(examples), "tokens": tokens}
    details["dpo"] |= {"pairs": NUM_ROWS, "without_pair": {}}
    run_dir.write_manifest(Manifest("mix", "", details={"mixes": details}), "mix")


class PairRun(Run):
    """A run with pairs, whose train stage has run once."""

    def train(self) -> Manifest:
        if not self.run_dir.exists("mix", "dpo.parquet"):
            write_pairs(self.run_dir)
        return super().train()


@pytest.fixture(scope="module")
def trained(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[PairRun]:
    recipe = staged_recipe(base, "full", "lora", mixes=[SFT, DPO], merges=[], teachers=TWO_SAMPLES)
    yield PairRun(tmp_path_factory.mktemp("pairs"), recipe)


@pytest.mark.parametrize("cell", CELLS)
def test_the_chosen_traces_become_likelier_than_the_rejected_ones(trained: PairRun, cell: str) -> None:
    lines = read_metrics(trained.run_dir, cell)
    assert len(lines) == 20
    first, last = lines[0].pairs, lines[-1].pairs
    assert first["margin"] == pytest.approx(0.0, abs=0.05) and last["margin"] > 1.0
    assert last["rejected_nll"] - last["chosen_nll"] > first["rejected_nll"] - first["chosen_nll"]
    assert trained.manifest.details["cells"][cell]["pairs"]["positive"] > 0.8
    assert trained.manifest.details["cells"][cell]["after"] == [cell.replace("dpo", "short")]


@pytest.mark.parametrize("cell", CELLS)
def test_the_reference_is_the_student_of_the_arm_before_not_the_untouched_one(trained: PairRun, cell: str) -> None:
    table = trained.run_dir.read_table("train", cell, REFERENCE_FILE, row_type=ReferenceScore).to_pylist()
    taught = [row["nll"] / row["num_tokens"] for row in table if row["trace_id"].startswith("t")]
    assert len(table) == 2 * NUM_ROWS
    after = trained.losses(cell.replace("dpo", "short"))
    assert sum(taught) / len(taught) < 0.8 * after[0], "what the first stage has learnt is likely from the start"


def test_a_pass_more_than_imitation_is_counted_and_nothing_is_trained_twice(trained: PairRun) -> None:
    cells = trained.manifest.details["cells"]
    per_token = {name: one["flops"] / one["tokens"] for name, one in cells.items()}
    assert 1.2 < per_token["full@dpo"] / per_token["full@short"] < 1.5
    before = {cell: trained.run_dir.local_path("train", cell, "manifest.json").stat().st_mtime_ns for cell in CELLS}
    trained.train()
    after = {cell: trained.run_dir.local_path("train", cell, "manifest.json").stat().st_mtime_ns for cell in CELLS}
    assert before == after
