"""Learning from a student's own answers: the seconds of a round beside TRL's GRPOTrainer, and scoring beside writing.

    python -m tests.benchmarks.rounds [--rounds N] [--prompts N] [--samples N] [--max-tokens N] [--imitated N]
        [--run-dir DIR]

A recipe is run as a user would run it: SmolLM2-135M (LoRA of rank 16) imitates short solutions of sums, then it is
rewarded by the verifier for its own answers in rounds of one step each, and in another arm it is matched with its
teacher. A round is everything from the student's adapter to its next: handing it to the engine, answers, verdicts,
step, checkpoint. The first, in which the engine starts, is left out on both sides.

TRL trains the same adapter on the same prompts, with as many answers of as many tokens, the same rate, no reference
model and the advantage without deviation, rewarded where the last number is right; it writes with transformers, since
its vLLM engine needs a GPU. It runs at several sizes of a pass, and the quickest is compared.

How long a round of ours takes depends on how many prompts have answers that differ (`differing`): the others' take no
pass. After few steps of imitation (`--imitated`) nearly all do.

Keys: `round_s` (goal <= 30), `score_over_write` (positions that are scored per second over tokens that are written per
second, goal >= 5; `answers_over_write` counts the answers' positions alone), `ratio_vs_trl` (TRL's seconds over ours,
goal >= 1.5). The last line is a JSON object.
"""

import argparse
import json
import re
import subprocess
import sys
import time
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

from cluster.cpus import has_fast_bf16
from distill.config.teachers import VllmTeacher
from distill.core.run_dir import RunDir, Training
from distill.core.schema import Example, Prompt
from distill.mix.feature_store import read_problems
from distill.models.resolve import load_tokenizer
from distill.run.run_recipe import load_run_recipe
from distill.train.rollouts.rewards import OwnAnswer
from distill.train.rollouts.score import scorer_prompt
from distill.train.rollouts.store import read_rollouts

PROBLEM = "State the final answer to the following arithmetic problem: "
RECIPE = """
extends = "graded-sums"
name = "rounds"
description = "A student's own answers, for tests.benchmarks.rounds."
merges = []
question = { arms = ["rl"], over = ["match"] }

[prompts]
num_prompts = 160

[[teachers]]
name = "short"
model = "smollm2-135m"
style = "short"
num_samples = 4
sampling = { temperature = 0.7, max_tokens = 48 }
engine = { max_model_len = 768, kv_cache_gib = 0.5 }
[teachers.chat]
template = "{problem}"
examples = [
  { problem = "PROBLEM4 + 3 =", completion = "4 + 3 = 7. The answer is \\\\boxed{7}." },
  { problem = "PROBLEM59 - 35 =", completion = "59 - 35 = 24. The answer is \\\\boxed{24}." },
  { problem = "PROBLEM48 + 27 - 5 =", completion = "48 + 27 - 5 = 70. The answer is \\\\boxed{70}." },
]

[[mixes]]
name = "sft"
weights = { short = 1.0 }
num_steps = IMITATED
[[mixes]]
name = "rl"
weights = { short = 1.0 }
after = "sft"
num_steps = ROUNDS
objective = { kind = "reinforce", samples = SAMPLES, max_tokens = TOKENS, learning_rate = 1e-4 }
[[mixes]]
name = "match"
weights = { short = 1.0 }
after = "sft"
num_steps = ROUNDS
objective = { kind = "match", max_tokens = TOKENS, learning_rate = 1e-4 }

[[students]]
name = "smol-135m"
model = "smollm2-135m"
tune = { kind = "lora", rank = 16, alpha = 32, learning_rate = 5e-4 }

[train]
batch_size = PROMPTS
seeds = [0]
unmatched = true
max_parallel_cells = 1
""".replace("PROBLEM", PROBLEM)
PASSES = (8, 32)
"""Answers in a pass of TRL's training."""


def recipe_text(asked: argparse.Namespace) -> str:
    """The recipe of one measurement."""
    sizes = {"ROUNDS": asked.rounds, "SAMPLES": asked.samples, "TOKENS": asked.max_tokens, "PROMPTS": asked.prompts}
    sizes["IMITATED"] = asked.imitated
    text = RECIPE
    for name, size in sizes.items():
        text = text.replace(name, str(size))
    return text


def run_ours(folder: Path, asked: argparse.Namespace) -> RunDir:
    """Run the recipe until its students are trained."""
    recipe = folder / "rounds.toml"
    recipe.write_text(recipe_text(asked))
    command = [str(Path(sys.executable).with_name("distill")), "run", str(recipe), "--run-dir", str(folder / "run")]
    subprocess.run([*command, "--until", "train"], check=True)
    return RunDir(str(folder / "run"))


def cell_of(run_dir: RunDir, arm: str) -> Training:
    """The only cell of an arm."""
    (manifest,) = run_dir.matching("train", f"*@{arm}*", "manifest.json")
    return Training(Path(manifest).parent.name)


def measured_rounds(run_dir: RunDir) -> dict[str, Any]:
    """Of the rounds after the first: seconds from one round's answers to the next one's, and what was written."""
    paths = sorted(Path(path) for path in run_dir.matching(*cell_of(run_dir, "rl").file("rounds"), "*.json"))
    figures = [json.loads(path.read_text()) for path in paths]
    differing = [num_differing(run_dir, path.with_suffix(".parquet").name) for path in paths]
    times = [path.stat().st_mtime for path in paths]
    return {
        "round_s": (times[-1] - times[0]) / (len(times) - 1),
        "write_s": mean(one["write_s"] for one in figures[1:]),
        "tokens": mean(one["tokens"] for one in figures[1:]),
        "right": [round(one["right"], 3) for one in figures],
        "differing": differing,
        "cut": sum(one["cut"] for one in figures),
    }


def num_differing(run_dir: RunDir, name: str) -> int:
    """Prompts of a round whose answers are not all right or all wrong."""
    verdicts: dict[str, set[str]] = {}
    for row in read(run_dir, (*cell_of(run_dir, "rl").file("rounds"), name), OwnAnswer):
        verdicts.setdefault(row["answer_id"].rpartition("/")[0], set()).add(row["verdict"])
    return sum(len(found) > 1 for found in verdicts.values())


def measured_scoring(run_dir: RunDir) -> dict[str, float]:
    """Tokens written and positions scored per second, engine and model loaded. Positions are those of the teacher's
    prompt, worked examples and all, and of the answer."""
    cell = cell_of(run_dir, "match")
    found = json.loads(run_dir.read_bytes(*cell.file("rollouts.json")) or b"{}")
    examples = {row["trace_id"]: row for row in read(run_dir, ("mix", "match.parquet"), Example)}
    chat = next(one.chat for one in load_run_recipe(run_dir).teachers if isinstance(one, VllmTeacher))
    tokenizer, problems = load_tokenizer(base_of(run_dir)), read_problems(run_dir)
    positions = sum(
        len(scorer_prompt(tokenizer, examples[one.trace_id], chat, problems)) + len(one.tokens)
        for one in read_rollouts(run_dir, Path(cell.folder[-1]).name)
    )
    seconds, tokens = found["seconds"], found["tokens"]
    written, scored = tokens / seconds["write"], positions / seconds["score_short"]
    return {
        "written_per_s": written,
        "scored_per_s": scored,
        "score_over_write": scored / written,
        "answers_over_write": tokens / seconds["score_short"] / written,
    }


def base_of(run_dir: RunDir) -> str:
    """The folder of the weights that the adapters are on."""
    config = Path(run_dir.path(*cell_of(run_dir, "sft").adapter)) / "adapter_config.json"
    return str(json.loads(config.read_text())["base_model_name_or_path"])


# TRL


def asked_rows(run_dir: RunDir) -> list[dict[str, Any]]:
    """The prompts of our rounds in their order, with the right answers."""
    rl = cell_of(run_dir, "rl")
    paths = sorted(path for path in run_dir.matching(*rl.file("rounds"), "*.parquet"))
    answers = {row["prompt_id"]: row["reference"] for row in read(run_dir, ("prompts", "prompts.parquet"), Prompt)}
    examples = {row["trace_id"]: row for row in read(run_dir, ("mix", "rl.parquet"), Example)}
    rows = []
    for path in paths:
        found = read(run_dir, (*rl.file("rounds"), Path(path).name), OwnAnswer)
        for trace_id in dict.fromkeys(row["trace_id"] for row in found):
            one = examples[trace_id]
            turns = [{"role": turn["role"], "content": turn["content"]} for turn in one["messages"][:-1]]
            rows.append({"prompt": turns, "right": answers[one["prompt_id"]]})
    return rows


def read(run_dir: RunDir, parts: tuple[str, ...], row_type: type) -> list[dict[str, Any]]:
    """A table of the run as rows."""
    rows: list[dict[str, Any]] = run_dir.read_table(*parts, row_type=row_type).to_pylist()
    return rows


def last_number(text: str) -> str:
    """The last whole number of a text."""
    found = re.findall(r"-?\d+", text)
    return found[-1] if found else ""


def right_number(completions: list[Any], right: list[str], **_: Any) -> list[float]:
    """TRL's reward function."""
    return [float(last_number(one[0]["content"]) == answer) for one, answer in zip(completions, right, strict=True)]


def run_trl(run_dir: RunDir, asked: argparse.Namespace, per_pass: int, folder: Path) -> dict[str, Any]:
    """As many of TRL's steps as we had rounds, on the same adapter and prompts."""
    from datasets import Dataset
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    adapter = run_dir.path(*cell_of(run_dir, "sft").adapter)
    base = base_of(run_dir)
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), adapter, is_trainable=True)
    ends: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(time.monotonic())

    answers = asked.prompts * asked.samples
    config = GRPOConfig(
        output_dir=str(folder),
        per_device_train_batch_size=per_pass,
        gradient_accumulation_steps=answers // per_pass,
        num_generations=asked.samples,
        max_completion_length=asked.max_tokens,
        max_steps=asked.rounds,
        learning_rate=1e-4,
        beta=0.0,
        loss_type="dr_grpo",
        scale_rewards="none",
        mask_truncated_completions=True,
        shuffle_dataset=False,
        temperature=1.0,
        use_cpu=True,
        bf16=has_fast_bf16(),
        gradient_checkpointing=False,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
    )
    trainer = GRPOTrainer(
        model=model,
        args=config,
        reward_funcs=right_number,
        train_dataset=Dataset.from_list(asked_rows(run_dir)),
        processing_class=AutoTokenizer.from_pretrained(base),
        callbacks=[Clock()],
    )
    trainer.train()
    lines = [line for line in trainer.state.log_history if "completions/mean_length" in line]
    return {
        "per_pass": per_pass,
        "round_s": (ends[-1] - ends[0]) / (len(ends) - 1),
        "mean_tokens": mean(line["completions/mean_length"] for line in lines[1:]),
        "right": [round(line["reward"], 3) for line in lines],
    }


def trl_rows(run_dir: RunDir, asked: argparse.Namespace) -> list[dict[str, Any]]:
    """TRL at every size of a pass, each in a process of its own."""
    found = []
    for per_pass in sorted({min(one, asked.prompts * asked.samples) for one in PASSES}):
        with TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "tests.benchmarks.rounds", "--side", str(per_pass), "--run-dir", folder]
            sizes = [f"--{name}={getattr(asked, name.replace('-', '_'))}" for name in SIZES]
            done = subprocess.run(
                [*command, *sizes, "--of", run_dir.path()], check=True, stdout=subprocess.PIPE, text=True
            )
            found.append(json.loads(done.stdout.strip().splitlines()[-1]))
            print(found[-1], flush=True)
    return found


SIZES = ("rounds", "prompts", "samples", "max-tokens", "imitated")


def main() -> None:
    """Run both sides one after another."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rounds", type=int, default=6)
    parser.add_argument("--prompts", type=int, default=16)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--max-tokens", type=int, default=60)
    parser.add_argument("--imitated", type=int, default=40, help="steps of imitation before the first round")
    parser.add_argument("--run-dir", help="kept afterwards; a run that is there goes on")
    parser.add_argument("--side", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--of", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.side:
        print(json.dumps(run_trl(RunDir(asked.of), asked, asked.side, Path(asked.run_dir))))
        return
    with TemporaryDirectory() as temporary:
        folder = Path(asked.run_dir or temporary)
        folder.mkdir(parents=True, exist_ok=True)
        run_dir = run_ours(folder, asked)
        ours, scoring = measured_rounds(run_dir), measured_scoring(run_dir)
        print(ours, scoring, flush=True)
        theirs = trl_rows(run_dir, asked)
    best = min(theirs, key=lambda row: row["round_s"])
    found = {
        "ratio_vs_trl": round(best["round_s"] / ours["round_s"], 2),
        "score_over_write": round(scoring["score_over_write"], 2),
        "answers_over_write": round(scoring["answers_over_write"], 2),
        "round_s": round(ours["round_s"], 2),
        "round_s_trl": round(best["round_s"], 2),
        "trl_per_pass": best["per_pass"],
        "write_s": round(ours["write_s"], 2),
        "tokens_per_round": round(ours["tokens"]),
        "tokens_per_round_trl": round(best["mean_tokens"] * asked.prompts * asked.samples),
        "written_per_s": round(scoring["written_per_s"]),
        "scored_per_s": round(scoring["scored_per_s"]),
        "differing": ours["differing"],
        "right": ours["right"],
        "right_trl": best["right"],
        "cut": ours["cut"],
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
