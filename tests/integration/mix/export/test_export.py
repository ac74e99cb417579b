"""An export trains: TRL's SFTTrainer takes a real step on what was written, and learns the completion alone."""

import dataclasses
from pathlib import Path

import pytest
from datasets import load_dataset

from distill.mix.export.write import export
from distill.mix.stage import mix_stage
from tests.fixtures.mix_run import make_run, trace
from tests.fixtures.tiny_models import make_tiny_model

trl = pytest.importorskip("trl", reason="TRL is a development extra")


@pytest.mark.parametrize("kind", ["dataset", "messages", "prompt_completion"])
def test_trl_takes_a_step_on_an_export(kind: str, tmp_path: Path) -> None:
    traces = [trace(number, pool) for number in range(8) for pool in ("long", "short")]
    run = make_run(tmp_path, traces, num_prompts=8)
    run.run_dir.write_manifest(dataclasses.replace(mix_stage(run), key="k"), "mix")
    export(run.run_dir, run.recipe, "mix-long", kind=kind, target=tmp_path / "export")
    rows = load_dataset(str(tmp_path / "export"), split="train", cache_dir=str(tmp_path / "cache"))
    if kind == "dataset":
        rows = rows.select_columns(["messages"])
    model = make_tiny_model(tmp_path / "tiny")
    settings = trl.SFTConfig(
        output_dir=str(tmp_path / "out"),
        max_steps=1,
        per_device_train_batch_size=4,
        max_length=512,
        use_cpu=True,
        bf16=False,
        report_to="none",
        save_strategy="no",
    )
    trainer = trl.SFTTrainer(model=str(model), args=settings, train_dataset=rows)
    result = trainer.train()
    assert result.global_step == 1
    assert 0 < result.training_loss < 20
    batch = next(iter(trainer.get_train_dataloader()))
    learnt = (batch["labels"] != -100).sum(dim=1)
    assert (learnt > 0).all()
    if kind == "prompt_completion":
        assert (learnt < batch["attention_mask"].sum(dim=1)).all()
