"""Scores a student's GGUF file on the run's benchmarks: the run's requests and verifier, llama.cpp's server."""

import os

from rich.console import Console

from cluster.session import connect
from distill.core.run_dir import RunDir, log_path
from distill.core.saved_files import MODEL, trained_address
from distill.core.schema import Prompt, content_hash
from distill.core.versions import package_versions
from distill.evaluate.models import EvaluatedModel
from distill.evaluate.requests import items
from distill.evaluate.score import EndpointAddress, ScoreSink, score_answered, score_items, unscored
from distill.models.folder import content_digest
from distill.ops.publish.gguf import GgufFile
from distill.ops.publish.llama_server import llama_server
from distill.ops.publish.student import TrainedStudent
from distill.report.quantised import quantised_name
from distill.run.context import read_benchmark
from serve.dataset_client import BatchConfig


def score_quantised(student: TrainedStudent, file: GgufFile, console: Console) -> None:
    """Ask a file every benchmark of the run, in every mode; what is scored already is kept.

    Raises:
        InputError: the runtime is not installed.
        StageError: it did not start.
    """
    recipe, run_dir = student.recipe, student.run_dir
    benchmarks = benchmark_prompts(run_dir, recipe.evaluate.benchmarks)
    sink = ScoreSink(run_dir, console, recipe.verify)
    wanted = items(quantised_students(student, file), benchmarks, recipe)
    todo = score_answered(list(unscored(wanted, run_dir)), benchmarks, recipe, sink)
    if not todo:
        console.print(f"  {file.path.name}: all scores are on disk", markup=False)
        return
    console.print(f"  [dim]starting llama.cpp on {file.path.name} ...[/]")
    log = log_path(run_dir).with_name(f"llama-{student.name}-{file.kind.name}.log")
    log.parent.mkdir(parents=True, exist_ok=True)
    at_once = os.cpu_count() or 1
    longest = recipe.serve.engine.max_model_len
    with (
        connect(recipe.device),
        llama_server(file.path, context_tokens=longest, num_parallel=at_once, log=log) as url,
    ):
        address = EndpointAddress(url, BatchConfig(max_in_flight=at_once), served_as=student.name)
        score_items(todo, benchmarks, recipe, sink, address)


def quantised_students(student: TrainedStudent, file: GgufFile) -> list[EvaluatedModel]:
    """The file as models to be scored, one per mode. Their key is of the file's content and the runtime's version."""
    key = content_hash("gguf", content_digest(file.path), package_versions(("xllamacpp",)))
    address = trained_address(student.run_dir, student.cell.name, MODEL, student.manifest)
    return [
        EvaluatedModel(
            quantised_name(student.cell.name, file.kind.name, mode),
            str(file.path),
            None,
            key,
            mode=mode,
            asked_as=asked_as,
            tokenizer=address,
        )
        for mode, asked_as in student.asked_modes.items()
    ]


def benchmark_prompts(run_dir: RunDir, names: tuple[str, ...]) -> dict[str, list[Prompt]]:
    """The problems of the benchmarks, as the run keeps them."""
    return {name: list(read_benchmark(run_dir, name).values()) for name in names}
