"""The model card of a published student: the hub's front matter with scores, then everything in words."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from distill.config.benchmarks import benchmark_config
from distill.config.recipe import Recipe
from distill.config.teachers import ChatFormat, GreedySampling
from distill.mix.export.dataset_card import licence_notes, licence_table, teacher_line
from distill.mix.export.licence_ids import front_matter_fields
from distill.mix.export.licences import is_hub_id
from distill.mix.export.terms import shared_licence
from distill.models.chat_template import chat_messages
from distill.ops.publish.gguf import GgufFile, calibration_words, kept_words
from distill.ops.publish.student import TrainedStudent
from distill.report.formats import bounds, number, percent
from distill.report.quantised_words import quantised_words
from distill.report.score_data import ModelScore
from distill.train.model_card import describe_arm, describe_lineage, describe_prompt, describe_training, fenced
from serve.api.modes import AUTO

MODELFILE = "Modelfile"


def publish_card(
    student: TrainedStudent, files: Mapping[str, int], ggufs: Sequence[GgufFile], lost: Mapping[str, Sequence[str]]
) -> str:
    """Markdown with the front matter that the hub reads.

    Args:
        student: what is published.
        files: name -> size in bytes of every other file of the folder.
        ggufs: its GGUF files.
        lost: Modelfile -> what it cannot say of the student's prompts.
    """
    recipe, cell, scores = student.recipe, student.cell, student.scores()
    quantised = [f"* {line}" for line in quantised_words(student.quantised())]
    parts = [
        f"---\n{front_matter(student, scores, bool(ggufs)).to_yaml()}\n---",
        f"# {student.name}",
        recipe.description,
        f"A student of mix distillation ([arXiv 2502.12143](https://arxiv.org/abs/2502.12143)): the arm `{cell.mix}` of"
        f" the recipe `{recipe.name}`, trained from {student.sources[0].name} with seed {cell.seed}.",
        "## Scores\n\n" + score_table(scores),
        *(["## What quantisation cost\n\n" + "\n".join(quantised)] if quantised else []),
        "## How to run it\n\n" + "\n\n".join(usage(student, files, ggufs, lost)),
        "## How to prompt it\n\n" + "\n".join([describe_prompt(recipe) + "\n", *mode_lines(student)]),
        "## How it was made\n\n" + describe_training(student.manifest.details),
        *describe_lineage(cell),
        "\n".join(teacher_line(recipe, teacher) for teacher in recipe.teachers),
        *(f"### The arm {arm}\n\n{describe_arm(entry)}" for arm, entry in student.arms.items()),
        "The manifest of the mix is in `mix.json`.",
        "## Files\n\n" + file_table(files, ggufs),
        "## Sources and licences\n\n" + licence_table(student.sources),
        licence_notes(student.sources),
        "The terms of every source above apply to the use and redistribution of this model.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def front_matter(student: TrainedStudent, scores: Sequence[ModelScore], has_gguf: bool) -> ModelCardData:
    """What the hub reads: licence, base model, data sets, scores."""
    recipe, base = student.recipe, student.sources[0]
    datasets = [one.name.split(" ")[0] for one in student.sources[1:] if "/datasets/" in one.terms]
    own = [score for score in scores if score.mix and score.accuracy is not None]
    return ModelCardData(
        base_model=base.name if is_hub_id(base.name) else None,
        datasets=list(dict.fromkeys(datasets)) or None,
        **front_matter_fields(shared_licence(student.sources)),
        library_name="transformers",
        pipeline_tag="text-generation",
        tags=["reasoning", "distillation", *(["gguf"] if has_gguf else [])],
        model_name=student.name if own else None,
        eval_results=[eval_result(recipe, score) for score in own] or None,
    )


def eval_result(recipe: Recipe, score: ModelScore) -> EvalResult:
    """A score in the hub's own format: percent, with its interval in words."""
    source = benchmark_config(recipe.benchmarks, score.benchmark).source
    mode, is_free = score.model.partition(":")[2], "+" in score.model
    asked = f", asked in the mode {mode}" if mode else ", left to choose its mode" if is_free else ""
    assert score.accuracy is not None
    return EvalResult(
        task_type="text-generation",
        dataset_type=getattr(source, "dataset", score.benchmark),
        dataset_name=score.benchmark,
        dataset_split=getattr(source, "split", None),
        dataset_revision=getattr(source, "revision", None),
        metric_type="accuracy",
        metric_name=f"accuracy, 95 % interval {bounds(score.interval, 1)}, {score.num_prompts} problems{asked}",
        metric_value=round(100 * score.accuracy, 2),
        metric_config=mode or (AUTO if is_free else None),
    )


def score_table(scores: Sequence[ModelScore]) -> str:
    """Every score with its interval."""
    if not scores:
        return "It was not scored."
    head = "| model | benchmark | accuracy [95 %] | problems | tokens | truncated |\n|---|---|---|---|---|---|\n"
    lines = [
        f"| {one.model}{'' if one.mix else ' (untouched)'} | {one.benchmark} |"
        f" {percent(one.accuracy, 1)} {bounds(one.interval, 1)} | {one.num_prompts} | {number(one.mean_tokens)} |"
        f" {one.truncated} |"
        for one in scores
    ]
    return head + "\n".join(lines)


def usage(
    student: TrainedStudent, files: Mapping[str, int], ggufs: Sequence[GgufFile], lost: Mapping[str, Sequence[str]]
) -> Iterator[str]:
    """How each program runs it."""
    if "config.json" in files:
        yield fenced(python_lines(next(iter(student.modes.values())), student.recipe.evaluate.sampling), "python")
        yield "vLLM: `vllm serve . --generation-config vllm`; without it the base model's sampling applies."
    if ggufs:
        yield f"llama.cpp: `llama-server -m {ggufs[0].path.name} --jinja`; LM Studio opens the file."
    for name, missing in lost.items():
        own = student.name.lower() + name.removeprefix(MODELFILE).replace(".", "-")
        yield f"Ollama: `ollama create {own} -f {name}`." + (
            f" The file says nothing of: {'; '.join(missing)}." if missing else ""
        )


def python_lines(chat: ChatFormat, sampling: GreedySampling) -> str:
    """Python that asks it in a format, as it was scored. Three dots stand for the problem."""
    turns = "".join(f"    {json.dumps(turn, ensure_ascii=False)},\n" for turn in chat_messages("...", chat))
    settings: dict[str, Any] = {"max_new_tokens": sampling.max_tokens, "do_sample": sampling.temperature > 0}
    if sampling.temperature > 0:  # top_k: transformers would cut to the 50 likeliest tokens
        settings |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "top_k": 0}
    if chat.template_options:
        settings["tokenizer_encode_kwargs"] = dict(chat.template_options)
    return (
        'from transformers import pipeline\n\nwrite = pipeline("text-generation", model=".")\n'
        f"turns = [\n{turns}]\nwrite(turns, {', '.join(f'{name}={value!r}' for name, value in settings.items())})"
    )


def mode_lines(student: TrainedStudent) -> Iterator[str]:
    """How each mode is asked for, or that the student writes its mode itself."""
    if openings := student.openings:
        listed = ", ".join(f"`{opening.strip()}` ({style})" for style, opening in openings.items())
        yield f"* It writes its mode itself, first in an answer: {listed}. Begin the answer to ask for one."
    for mode, chat in student.modes.items():
        if mode:
            options = f", template variables `{json.dumps(chat.template_options)}`" if chat.template_options else ""
            line = f"system prompt `{chat.system}`" if chat.system else "no system prompt"
            yield f"* Mode `{mode}`: {line}{options}."


def file_table(files: Mapping[str, int], ggufs: Sequence[GgufFile]) -> str:
    """The files with their sizes; of GGUF files how their tensors are stored, what they keep of the training, and what
    they were calibrated on."""
    types = {one.path.name: one.tensors for one in ggufs}
    lines = [f"| {name} | {megabytes(size)} | {types.get(name, '')} |" for name, size in sorted(files.items())]
    told = [
        f"\n* `{one.path.name}` {words}."
        for one in ggufs
        for words in (kept_words(one), calibration_words(one))
        if words
    ]
    return "| file | size | tensors |\n|---|---|---|\n" + "\n".join(lines) + ("\n" + "".join(told) if told else "")


def megabytes(size: float) -> str:
    """`105.5 MB`, or kB below one."""
    return f"{size / 1e6:,.1f} MB" if size >= 1e6 else f"{size / 1e3:,.1f} kB"


def mix_json(arms: Mapping[str, Any]) -> str:
    """The mix manifest's entries as a file."""
    return json.dumps(arms, indent=1, ensure_ascii=False)


def sizes(folder: Path) -> dict[str, int]:
    """Name -> bytes of the files of a folder."""
    return {file.name: file.stat().st_size for file in sorted(folder.iterdir()) if file.is_file()}
