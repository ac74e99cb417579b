"""What quantisation cost, in words. Apart from `quantised`: a stored report is shown without statistics."""

from collections.abc import Iterator, Sequence

from distill.core.run_dir import QUANTISED_MANIFESTS, RunDir, score_item
from distill.report.formats import bounds, p_value, percent, points
from distill.report.score_data import QuantisedScore


def quantised_words(scores: Sequence[QuantisedScore]) -> Iterator[str]:
    """A sentence per file and benchmark: whether a loss is shown, and what loss is excluded where none is."""
    for one in scores:
        by = f"{points(one.difference, 1)} points {bounds(one.difference_interval, 1)}"
        beside = f"`{one.model}` on `{one.benchmark}` against its full weights, {one.num_prompts} problems"
        if one.is_shown and one.difference < 0:
            yield f"Quantisation cost accuracy: {beside}: {by}."
        elif one.is_shown:
            yield f"Quantised it solves more: {beside}: {by}."
        else:
            excluded = percent(max(0.0, -one.difference_interval.low), 1)
            why = "" if one.difference_interval.covers(0.0) else f" (Holm-corrected p = {p_value(one.p_adjusted)})"
            yield f"No loss shown: {beside}: {by}{why}; a loss of more than {excluded} of all problems is excluded."


def newest_quantised(run_dir: RunDir) -> str:
    """When the newest score of a quantised file was written, as manifests write it; empty where there is none."""
    manifests = run_dir.matching(*QUANTISED_MANIFESTS)
    folders = [path.rsplit("/", 4)[1:4] for path in manifests]
    read = [run_dir.read_manifest(*score_item(f"{model}/{kind}", benchmark)) for model, kind, benchmark in folders]
    return max((one.finished_at for one in read if one), default="")
