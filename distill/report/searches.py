"""How weights were searched: every mix that was tried, from the search stage's manifest."""

from collections.abc import Iterator, Mapping
from typing import Any

from distill.core.manifest import Manifest
from distill.core.run_dir import StageName
from distill.evaluate.interval import Interval
from distill.report.data import Search, Trial
from distill.report.formats import percent


def search_rows(manifests: Mapping[str, Manifest]) -> list[Search]:
    """One per arm whose weights were left open; none where the recipe names all."""
    recorded = manifests[StageName.SEARCH].details["arms"] if StageName.SEARCH in manifests else {}
    return [
        Search(
            mix=mix,
            student=entry["student"],
            benchmark=entry["benchmark"],
            num_problems=entry["rounds"][0]["problems"],
            weights=entry["weights"],
            trials=tuple(one for number, found in enumerate(entry["rounds"], 1) for one in _trials(number, found)),
        )
        for mix, entry in recorded.items()
    ]


def _trials(number: int, found: Mapping[str, Any]) -> Iterator[Trial]:
    for rank, weights in enumerate(found["weights"]):
        yield Trial(
            round=number,
            weights=weights,
            num_steps=found["num_steps"],
            num_seeds=len(found["seeds"]),
            accuracy=found["accuracies"][rank],
            interval=Interval(*found["intervals"][rank]),
            is_kept=rank in found["kept"],
            kept_share=found["kept_share"][rank],
        )


def search_words(one: Search) -> str:
    """`auto` for `smol`: 5 mixes in 10 short trainings on 100 problems of `dev`; chosen ..., in 61 % of resamples."""
    trainings = sum(trial.num_seeds for trial in one.trials)
    mixes = sum(trial.round == 1 for trial in one.trials)
    shares = ", ".join(f"{pool} {percent(share)}" for pool, share in one.weights.items())
    return (
        f"`{one.mix}` for `{one.student}`: {mixes} mixes in {trainings} short trainings, scored on {one.num_problems} "
        f"problems of `{one.benchmark}`. Chosen: {shares}; the last round would choose it again in "
        f"{percent(one.certainty)} of 4,000 bootstrap resamples of the problems."
    )
