"""An independent check: a served student scored by lm-evaluation-harness and by us, on the same problems.

    python -m tests.benchmarks.harness RUN MODEL [--gsm8k FILE] [--problems N] [--show N] [--harness lm_eval]
                                       [--choices N]

`distill serve` serves one student of a finished run. `distill eval` scores it through the endpoint on GSM8K and on the
run's first benchmark; then EleutherAI's harness (`local-chat-completions`, greedy, the same system line, GSM8K's own
`flexible-extract` filter, which takes the last number) asks the same endpoint the same problems again. The harness has
dependencies that do not go with our locks, so it lives in an environment of its own:
`uv venv H && uv pip install -p H 'lm-eval[api]'`, then `--harness H/bin/lm_eval`. `--gsm8k`: a file of the test split
where there is no hub. `--choices N`: instead, log-likelihoods of N multiple-choice items through the endpoint and by
transformers on the same weights (`tests.benchmarks.choices`, in float32). The last line is a JSON object; goal: the
harness's accuracy lies in our interval.
"""

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import yaml
from rich.console import Console

from distill.cli.evaluate import eval_config, eval_model
from distill.config.benchmarks import benchmark_config
from distill.config.recipe import Recipe
from distill.core.errors import InputError
from distill.core.run_dir import RunDir
from distill.core.schema import Prompt, Score, Verdict
from distill.evaluate.statistics import paired_difference, wilson_interval
from distill.ops.deploy.endpoint import run_endpoints
from distill.run.context import RunContext
from distill.run.run_recipe import load_run_recipe

PORT = 18447
DEADLINE_S = 600.0
LAST_NUMBER = r"(-?[$0-9.,]{2,})|(-?[0-9]+)"
"""What GSM8K's task of the harness looks for, at last place."""
IGNORED = [",", r"\$", r"(?s).*#### ", r"\.$"]
AT_ONCE = 16


class Answer(NamedTuple):
    """What one side made of one problem."""

    completion: str
    is_correct: bool


def benchmark_overrides(recipe: Recipe, name: str, gsm8k: Path | None, num_problems: int) -> list[str]:
    """A benchmark for `distill eval`: as the run had it, or GSM8K from the hub or a file; the first of the problems."""
    source = benchmark_config(recipe.benchmarks, name).source
    told = source.model_dump(mode="json", exclude_none=True)
    if name == "gsm8k" and gsm8k:
        told = {"kind": "file", "path": str(gsm8k.absolute()), "columns": told["columns"], "answer_kind": "number"}
    return [f"benchmarks.{name}.source={toml(told)}", f"benchmarks.{name}.num_prompts={num_problems}"]


def toml(value: Any) -> str:
    """A JSON value as an inline TOML value."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key} = {toml(one)}" for key, one in value.items()) + "}"
    return "[" + ", ".join(map(toml, value)) + "]" if isinstance(value, list) else json.dumps(value)


@contextmanager
def served(run: str, model: str) -> Iterator[str]:
    """The student behind an address, by the command that a user would type."""
    command = [sys.executable, "-m", "distill", "serve", run, "--models", model, "--port", str(PORT)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    url = f"http://127.0.0.1:{PORT}"
    try:
        wait_for(url, process)
        yield url
    finally:
        os.kill(process.pid, signal.SIGINT)
        process.wait(timeout=120)


def wait_for(url: str, process: "subprocess.Popen[bytes]") -> None:
    """Until the endpoint lists its models.

    Raises:
        InputError: it ended, or took too long.
    """
    started = time.monotonic()
    while time.monotonic() - started < DEADLINE_S and process.poll() is None:
        try:
            if httpx.get(f"{url}/v1/models", timeout=5).is_success:
                return
        except httpx.TransportError:
            pass  # not listening yet
        time.sleep(2)
    raise InputError(f"{url} does not answer -> look at logs/run.log of the run")


def ours(model: str, url: str, recipe: Recipe, name: str, overrides: Sequence[str], place: Path) -> dict[str, Answer]:
    """problem -> our answer and verdict, by `distill eval` through the endpoint."""
    chat = recipe.student_chat.model_dump(mode="json", exclude_none=True)
    asked = [f"student_chat.{key}={toml(value)}" for key, value in chat.items()]
    limit = f"evaluate.sampling.max_tokens={recipe.evaluate.sampling.max_tokens}"
    eval_model(eval_config(model, [name], url, [*overrides, *asked, limit]), str(place))
    run_dir = RunDir(str(place))
    problems = run_dir.read_table("prompts", "benchmarks", f"{name}.parquet", row_type=Prompt).to_pylist()
    texts = {row["prompt_id"]: row["problem"] for row in problems}
    scores = run_dir.read_table("evaluate", model, f"{name}.parquet", row_type=Score).to_pylist()
    return {texts[row["prompt_id"]]: Answer(row["completion"], row["verdict"] == Verdict.CORRECT) for row in scores}


def write_task(place: Path, problems: Sequence[Mapping[str, str]], recipe: Recipe) -> None:
    """The problems as a task of the harness: GSM8K's filter and metric, our system line and token limit."""
    rows = place / "problems.jsonl"
    rows.write_text("".join(json.dumps(problem) + "\n" for problem in problems))
    last = {"function": "regex", "group_select": -1, "regex_pattern": LAST_NUMBER}
    exact = {"metric": "exact_match", "aggregation": "mean", "higher_is_better": True, "ignore_case": True}
    sampling = {"until": [], "do_sample": False, "temperature": 0.0}
    task = {
        "task": "checked",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(rows)}},
        "test_split": "test",
        "output_type": "generate_until",
        "doc_to_text": "{{problem}}",
        "doc_to_target": "{{answer}}",
        "generation_kwargs": sampling | {"max_gen_toks": recipe.evaluate.sampling.max_tokens},
        "filter_list": [{"name": "flexible-extract", "filter": [last, {"function": "take_first"}]}],
        "metric_list": [exact | {"regexes_to_ignore": IGNORED}],
    }
    (place / "checked.yaml").write_text(yaml.safe_dump(task))


def theirs(harness: str, model: str, url: str, recipe: Recipe, place: Path) -> dict[str, Answer]:
    """problem -> the harness's answer and score."""
    address = f"model={model},base_url={url}/v1/chat/completions,num_concurrent={AT_ONCE},tokenized_requests=False"
    command = [harness, "--model", "local-chat-completions", "--model_args", address, "--tasks", "checked"]
    command += ["--include_path", str(place), "--output_path", str(place / "results"), "--log_samples"]
    command += ["--apply_chat_template"]
    if recipe.student_chat.system:
        command += ["--system_instruction", recipe.student_chat.system]
    environment = os.environ | {"HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(place / "cache")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"{harness} failed:\n{done.stderr[-2000:]}")
    samples = next((place / "results").rglob("samples_checked_*.jsonl"))
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    return {row["doc"]["problem"]: Answer(row["resps"][0][0], row["exact_match"] == 1.0) for row in rows}


def compare(first: Mapping[str, Answer], second: Mapping[str, Answer]) -> dict[str, Any]:
    """Both accuracies on the same problems, our interval, their difference, and where they disagree."""
    assert first.keys() == second.keys(), "the harness was asked other problems"
    mine, other = (np.array([[float(side[key].is_correct) for key in first]]) for side in (first, second))
    interval = wilson_interval(mine.sum(), mine.shape[1])
    difference = paired_difference(mine, other, np.random.default_rng(0))
    same = [key for key in first if first[key].completion == second[key].completion]
    return {
        "problems": len(first),
        "ours": round(float(mine.mean()), 4),
        "interval": [round(interval.low, 4), round(interval.high, 4)],
        "harness": round(float(other.mean()), 4),
        "agrees": interval.covers(float(other.mean())),
        "difference": round(difference.estimate, 4),
        "p_value": round(difference.p_value, 4),
        "same_text": round(len(same) / len(first), 4),
        "same_score": round(float((mine == other).mean()), 4),
        "same_text_other_score": sum(first[key].is_correct != second[key].is_correct for key in same),
    }


def check(url: str, arguments: argparse.Namespace, recipe: Recipe, name: str) -> dict[str, Any]:
    """One benchmark both ways."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        overrides = benchmark_overrides(recipe, name, arguments.gsm8k, arguments.problems)
        first = ours(arguments.model, url, recipe, name, overrides, place / "ours")
        rows = RunDir(str(place / "ours")).read_table("prompts", "benchmarks", f"{name}.parquet", row_type=Prompt)
        problems = [{"problem": row["problem"], "answer": number(row["reference"])} for row in rows.to_pylist()]
        write_task(place, problems, recipe)
        second = theirs(arguments.harness, arguments.model, url, recipe, place)
    found = compare(first, second)
    show(first, second, arguments.show)
    print(
        f"{name}: ours {found['ours']:.1%} [{found['interval'][0]:.1%}, {found['interval'][1]:.1%}], harness "
        f"{found['harness']:.1%}; {found['problems']} problems, same text {found['same_text']:.0%}, same score "
        f"{found['same_score']:.1%}, p = {found['p_value']}"
    )
    return found


def show(first: Mapping[str, Answer], second: Mapping[str, Answer], most: int) -> None:
    """Answers that differ, both as they are."""
    differ = [key for key in first if first[key] != second[key]]
    for key in differ[:most]:
        print(f"{key}\n  ours    {first[key]}\n  harness {second[key]}")


def number(reference: str) -> str:
    """A reference as the harness compares it: without the marks that it ignores in answers."""
    return re.sub(r"[,$]", "", reference)


def compare_choices(arguments: argparse.Namespace) -> None:
    """Log-likelihoods of a run's student, through an endpoint of its own and by transformers."""
    run_dir = RunDir(arguments.run)
    with ExitStack() as resources:
        run = RunContext(load_run_recipe(run_dir), Path.cwd(), run_dir, Console(), resources)
        _, (endpoint,) = run_endpoints(run, [arguments.model])
    command = [sys.executable, "-m", "tests.benchmarks.choices", endpoint.source, "--harness", arguments.harness]
    command += ["--items", str(arguments.choices), *(["--adapter", endpoint.adapter] if endpoint.adapter else [])]
    raise SystemExit(subprocess.run(command).returncode)


def main() -> None:
    """Serve, score twice, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN")
    parser.add_argument("model", metavar="MODEL")
    parser.add_argument("--gsm8k", type=Path, metavar="FILE")
    parser.add_argument("--problems", type=int, default=100)
    parser.add_argument("--show", type=int, default=0, metavar="N", help="print N answers that differ")
    parser.add_argument("--choices", type=int, default=0, metavar="N", help="compare log-likelihoods of N items")
    parser.add_argument("--harness", default="lm_eval")
    arguments = parser.parse_args()
    recipe = load_run_recipe(RunDir(arguments.run))
    if arguments.choices:
        compare_choices(arguments)
        return
    with served(arguments.run, arguments.model) as url:
        found = {name: check(url, arguments, recipe, name) for name in ("gsm8k", recipe.evaluate.benchmarks[0])}
    print(json.dumps({"agrees": all(one["agrees"] for one in found.values()), **found}))


if __name__ == "__main__":
    main()
