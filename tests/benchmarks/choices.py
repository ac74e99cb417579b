"""Log-likelihoods of multiple choice, through the endpoint and by transformers on the same weights.

    python -m tests.benchmarks.choices FOLDER [--adapter FOLDER] [--items 200] [--dtype float32] [--harness lm_eval]

EleutherAI's harness scores four answers to each of a seeded set of sums twice: by `local-completions` against an
endpoint of ours (token ids, echo, log-probabilities), and by its own `hf` model. Both compute in `--dtype`. Goal: no
choice is further apart than 1e-3, in float32, since two kernels round bfloat16 differently. The harness lives in an
environment of its own (see `tests.benchmarks.harness`, whose `--choices N` runs this on a student of a run); it needs
torch there too: `uv pip install -p H 'lm-eval[api,hf]'`. The last line is a JSON object.
"""

import argparse
import json
import os
import random
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from cluster.session import connect
from distill.core.errors import InputError
from serve.config import Endpoint, ServeConfig
from serve.deploy import deploy, undeploy
from serve.proxy_settings import prepare_environment

MODEL = "student"
TASK = "sums_choices"
GOAL = 1e-3


def choice_items(number: int, seed: int = 0) -> list[dict[str, Any]]:
    """Sums with four answers each: `question`, `choices` and the index of the right one as `label`."""
    draw = random.Random(seed)
    items = []
    for _ in range(number):
        terms = [draw.randrange(2, 100) for _ in range(draw.randrange(2, 5))]
        total = sum(terms)
        wrong = draw.sample([total + step for step in range(-12, 13) if step], 3)
        answers = draw.sample([total, *wrong], 4)
        question = f"State the sum of {', '.join(map(str, terms[:-1]))} and {terms[-1]}."
        items.append({"question": question, "choices": list(map(str, answers)), "label": answers.index(total)})
    return items


def write_task(place: Path, items: Sequence[Mapping[str, Any]]) -> None:
    """The items as a task of the harness."""
    rows = place / "items.jsonl"
    rows.write_text("".join(json.dumps(item) + "\n" for item in items))
    task = {
        "task": TASK,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(rows)}},
        "test_split": "test",
        "output_type": "multiple_choice",
        "doc_to_text": "{{question}}\nAnswer:",
        "doc_to_choice": "choices",
        "doc_to_target": "label",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }
    (place / f"{TASK}.yaml").write_text(yaml.safe_dump(task))


def likelihoods(harness: str, model: str, arguments: Mapping[str, Any], place: Path, name: str) -> np.ndarray:
    """What one of the harness's models says: log-likelihoods, shape (items, choices).

    Raises:
        InputError: the harness failed.
    """
    told = ",".join(f"{key}={value}" for key, value in arguments.items())
    command = [harness, "--model", model, "--model_args", told, "--tasks", TASK, "--include_path", str(place)]
    command += ["--output_path", str(place / name), "--log_samples"]
    command += ["--device", "cpu", "--batch_size", "16"] if model == "hf" else []
    environment = os.environ | {"HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1", "HF_HOME": str(place / "cache")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise InputError(f"{harness} failed:\n{done.stderr[-2000:]}")
    lines = next((place / name).rglob(f"samples_{TASK}_*.jsonl")).read_text().splitlines()
    rows = sorted(map(json.loads, lines), key=lambda row: row["doc_id"])
    return np.array([[float(response[0][0]) for response in row["resps"]] for row in rows])


def compare(served: np.ndarray, alone: np.ndarray, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How far apart the choices are, and both accuracies."""
    labels = np.array([item["label"] for item in items])
    apart = np.abs(served - alone)
    return {
        "items": len(items),
        "choices": int(apart.size),
        "largest_difference": float(apart.max()),
        "median_difference": float(np.median(apart)),
        "mean_difference": float(apart.mean()),
        "accuracy_served": round(float((served.argmax(axis=1) == labels).mean()), 4),
        "accuracy_alone": round(float((alone.argmax(axis=1) == labels).mean()), 4),
        "same_choice": round(float((served.argmax(axis=1) == alone.argmax(axis=1)).mean()), 4),
        "agrees": bool(apart.max() <= GOAL),
    }


def check_choices(
    url: str, model: str, folder: str, adapter: str | None, *, harness: str, items: int, dtype: str
) -> dict[str, Any]:
    """A served model against the same weights in transformers.

    Args:
        url: address of the endpoint.
        model: its name there.
        folder: its full weights.
        adapter: a LoRA adapter on them.
        harness: command of the harness.
        items: how many items.
        dtype: what both compute in.

    Raises:
        InputError: the harness failed.
    """
    asked = choice_items(items)
    with tempfile.TemporaryDirectory() as temporary:
        place = Path(temporary)
        write_task(place, asked)
        address = {"model": model, "base_url": f"{url}/v1/completions", "tokenizer": folder, "num_concurrent": 4}
        served = likelihoods(harness, "local-completions", address, place, "served")
        weights = {"pretrained": folder, "dtype": dtype} | ({"peft": adapter} if adapter else {})
        alone = likelihoods(harness, "hf", weights, place, "alone")
    return {"dtype": dtype, **compare(served, alone, asked)}


@contextmanager
def served_folder(folder: str, adapter: str | None, dtype: str) -> Iterator[str]:
    """An endpoint for full weights, or for an adapter on them, that computes in `dtype`, on a Ray of its own."""
    config = ServeConfig(port=0, max_model_len=512, kv_cache_gib=0.5, engine_kwargs={"dtype": dtype})
    with connect():
        url = deploy([Endpoint(name=MODEL, source=folder, adapter=adapter)], config)
        try:
            yield url
        finally:
            undeploy()


def main() -> None:
    """Serve, score twice, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", metavar="FOLDER")
    parser.add_argument("--adapter", metavar="FOLDER")
    parser.add_argument("--items", type=int, default=200)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"))
    parser.add_argument("--harness", default="lm_eval")
    arguments = parser.parse_args()
    prepare_environment()
    with served_folder(arguments.folder, arguments.adapter, arguments.dtype) as url:
        found = check_choices(
            url,
            MODEL,
            arguments.folder,
            arguments.adapter,
            harness=arguments.harness,
            items=arguments.items,
            dtype=arguments.dtype,
        )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
