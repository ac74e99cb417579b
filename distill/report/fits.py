"""How the pools' traces fit the untouched students: the paper's speaking-style analysis, from the mix's manifest."""

from collections.abc import Mapping

from distill.report.numbers import FitRow, ShiftedToken, Spread
from distill.run_dir import Manifest


def fit_rows(manifests: Mapping[str, Manifest]) -> list[FitRow]:
    """One row per student and pool that were scored; none where no arm asked for it."""
    recorded = manifests["mix"].details.get("fit", {}) if "mix" in manifests else {}
    return [
        FitRow(
            student=student,
            pool=pool,
            traces=entry["traces"],
            scores={name: Spread(*values) for name, values in entry["quantiles"].items()},
            tokens=tuple(ShiftedToken(*token) for token in entry["tokens"]),
        )
        for student, pools in recorded.items()
        for pool, entry in pools.items()
    ]
