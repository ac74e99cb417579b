"""Student-aware selection on a real (tiny) model through Ray Data: right numbers, once per trace and student."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from distill.core.schema import Example
from distill.mix.fit_scorer import FitJob, FitScorer, TraceFit
from distill.mix.stage import mix_stage
from distill.models.chat_template import IGNORED, chat_messages, render_example
from distill.models.resolve import ResolvedModel, load_tokenizer
from distill.run.context import RunContext
from tests.fixtures.mix_run import make_run, prompt, trace

TRACES = [trace(number, pool) for number in range(12) for pool in ("long", "short")]


def with_fit(raw: dict[str, Any]) -> dict[str, Any]:
    arm = {"name": "fit", "policy": "student_fit", "pools": ["long", "short"], "student": "s", "score": "mean_nll"}
    return raw | {"mixes": [*raw["mixes"], arm], "device": "cpu"}


@pytest.fixture(scope="module")
def run(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    run = make_run(tmp_path_factory.mktemp("fit"), TRACES, num_prompts=12, change=with_fit)
    run.__dict__["models"] = {"m": ResolvedModel("m", str(model), "s", "identity", 1, 2048)}
    with run.resources:
        yield run


def reference(model_path: Path, run: RunContext, number: int, pool: str) -> tuple[float, list[int]]:
    """Mean surprisal and ranks of a trace by the plainest code: one row, the full distribution, a sort."""
    tokenizer = load_tokenizer(str(model_path))
    model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32).eval()
    turns = chat_messages(prompt(number).problem, run.recipe.student_chat)
    turns = [*turns, {"role": "assistant", "content": trace(number, pool).completion.strip()}]
    row = render_example(tokenizer, turns, 10_000)
    assert not isinstance(row, str)
    with torch.no_grad():
        logits = model(torch.tensor([row.input_ids])).logits[0, :-1]
    learnt = [place for place, label in enumerate(row.labels[1:]) if label != IGNORED]
    chances = logits.log_softmax(dim=1)
    order = logits.argsort(dim=1, descending=True)
    ranks = [order[place].tolist().index(row.labels[place + 1]) + 1 for place in learnt]
    return -sum(float(chances[place, row.labels[place + 1]]) for place in learnt) / len(learnt), ranks


@pytest.mark.parametrize("shares", [True, False])
def test_a_batch_of_unequal_lengths_scores_as_each_trace_alone(model: Path, run: RunContext, shares: bool) -> None:
    scorer = FitScorer(FitJob(str(model), run.recipe.student_chat, 400, "cpu"))
    assert scorer.shares
    scorer.shares = shares
    wanted = [(3, "long"), (3, "short"), (7, "short"), (10, "long"), (10, "short")]
    columns = {
        "trace_id": [f"{number}{pool}" for number, pool in wanted],
        "problem": [prompt(number).problem for number, _ in wanted],
        "completion": [trace(number, pool).completion for number, pool in wanted],
    }
    scored = scorer(columns)
    for place, name in enumerate(scored["trace_id"]):
        number, pool = dict(zip(columns["trace_id"], wanted, strict=True))[name]
        nll, ranks = reference(model, run, number, pool)
        assert scored["mean_nll"][place] == pytest.approx(nll, rel=1e-3)
        assert scored["unshifted"][place] == pytest.approx(sum(rank == 1 for rank in ranks) / len(ranks), abs=0.02)
        assert scored["num_tokens"][place] == len(ranks)


@pytest.mark.parametrize("is_quick", [False, True])
def test_log_probabilities_are_those_of_each_row_alone_whatever_fits_a_pass(
    model: Path, run: RunContext, monkeypatch: pytest.MonkeyPatch, is_quick: bool
) -> None:
    monkeypatch.setattr("distill.mix.fit_scorer.has_fast_bf16", lambda: True)
    scorer = FitScorer(FitJob(str(model), run.recipe.student_chat, 400, "cpu", is_quick=is_quick))
    assert (scorer.model.dtype == torch.bfloat16) == is_quick
    relative, apart = (1e-2, 5e-2) if is_quick else (1e-3, 1e-4)
    wanted = [(3, "short"), (10, "long"), (7, "short"), (3, "long")]
    rows = [scorer.render(prompt(number).problem, trace(number, pool).completion) for number, pool in wanted]
    found = scorer.log_probabilities(rows)
    for (number, pool), values in zip(wanted, found, strict=True):
        nll, ranks = reference(model, run, number, pool)
        assert len(values) == len(ranks) and -float(values.mean()) == pytest.approx(nll, rel=relative)
    monkeypatch.setattr("distill.mix.fit_scorer.SCORE_LOGIT_BYTES", 1)  # a row at a time
    for one, other in zip(scorer.log_probabilities(rows), found, strict=True):
        assert one.tolist() == pytest.approx(other.tolist(), abs=apart)


def test_the_arm_and_the_report_follow_the_scores_and_nothing_is_scored_twice(run: RunContext) -> None:
    manifest = mix_stage(run)
    (folder,) = run.run_dir.fs.glob(run.run_dir.path("mix", "fit", "*"))
    key = str(folder).rsplit("/", 1)[1]
    scores = run.run_dir.read_table("mix", "fit", key, row_type=TraceFit).to_pylist()
    assert len(scores) == 24
    nll = {row["trace_id"]: row["mean_nll"] for row in scores}
    ids = {one.trace_id: (one.prompt_id, one.pool) for one in TRACES}
    best: dict[str, tuple[float, str]] = {}
    for name, value in nll.items():
        best[ids[name][0]] = min(best.get(ids[name][0], (9e9, "")), (value, ids[name][1]))
    rows = run.run_dir.read_table("mix", "fit.parquet", row_type=Example).to_pylist()
    assert {row["prompt_id"]: row["pool"] for row in rows} == {name: pool for name, (_, pool) in best.items()}
    told = manifest.details["fit"]["s"]["long"]
    assert told["traces"] == 12
    assert told["quantiles"]["unshifted"] == sorted(told["quantiles"]["unshifted"])
    assert all(count > 0 and rank > 3 for _, count, rank in told["tokens"])
    run.__dict__["session"] = None  # scoring again would need it
    assert mix_stage(run).details == manifest.details
