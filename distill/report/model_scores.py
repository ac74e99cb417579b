"""Scores of a run as outcomes per prompt: which models were scored, and the numbers of one model on one benchmark."""

from collections.abc import Iterator

import numpy as np

from distill.core.schema import Verdict
from distill.evaluate.read_scores import Scored, outcome_shares
from distill.evaluate.statistics import accuracy, accuracy_interval, pass_at, wilson_interval
from distill.report.score_data import ModelScore, PassRate

LOOPING = 0.5
"""Share of repeated 8-word runs above which a completion is a loop: the default of `filters.max_repetition`."""


def model_score(scored: Scored) -> ModelScore:
    """The numbers of one model on one benchmark."""
    counts = {verdict: int((scored.verdicts == verdict.value).sum()) for verdict in Verdict}
    shares = outcome_shares([scored], np.unique(scored.prompt_ids))
    num_graded = len(scored.verdicts) - counts[Verdict.ERROR]
    return ModelScore(
        model=scored.model,
        student=scored.student,
        mix=scored.mix,
        seed=scored.seed,
        benchmark=scored.benchmark,
        accuracy=accuracy(shares) if num_graded else None,
        interval=accuracy_interval(shares) if num_graded else wilson_interval(0, 0),
        num_prompts=len(np.unique(scored.prompt_ids)),
        num_graded=num_graded,
        correct=counts[Verdict.CORRECT],
        incorrect=counts[Verdict.INCORRECT],
        no_answer=counts[Verdict.NO_ANSWER],
        errors=counts[Verdict.ERROR],
        mean_tokens=float(scored.tokens.mean()),
        p95_tokens=float(np.quantile(scored.tokens, 0.95)),
        truncated=int(scored.is_truncated.sum()),
        looping=looping(scored),
        string_match=string_match_share(scored),
        num_samples=int(np.unique(scored.prompt_ids, return_counts=True)[1].max()),
        pass_at=tuple(pass_rates(scored)),
    )


def looping(scored: Scored) -> int:
    """Completions that repeat themselves."""
    return int((scored.repetition > LOOPING).sum())


def string_match_share(scored: Scored) -> float | None:
    """Accuracy by the string comparison of older work, over the completions that the verifier graded; None where that
    comparison has no rule for the kind of answer."""
    graded = scored.verdicts != Verdict.ERROR.value
    compared = scored.string_matches[graded]
    return float((compared == Verdict.CORRECT.value).mean()) if len(compared) and (compared != "").all() else None


def pass_rates(scored: Scored) -> Iterator[PassRate]:
    """pass@k for k = 1, 2, 4, ... completions per problem; none where there is one completion."""
    graded = scored.verdicts != Verdict.ERROR.value
    _, problems = np.unique(scored.prompt_ids[graded], return_inverse=True)
    num = np.bincount(problems)
    correct = np.bincount(problems, weights=scored.verdicts[graded] == Verdict.CORRECT.value).astype(np.int64)
    most = int(num.max(initial=0))
    for k in [2**power for power in range(most.bit_length())] if most > 1 else []:
        rates = pass_at(k, num, correct)[None, :]
        yield PassRate(k, accuracy(rates), accuracy_interval(rates), int((num >= k).sum()))
