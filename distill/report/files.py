"""The numbers of a report as files for programs: JSON and Parquet."""

import dataclasses
import json
import math
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from distill.core.verifier_version import VERIFIER_VERSION
from distill.core.versions import package_versions
from distill.report.data import Report
from distill.report.score_data import ModelScore
from distill.report.stored import PACKAGES


def report_json(report: Report) -> bytes:
    """The same numbers as the page, for programs."""
    return json.dumps(_finite(dataclasses.asdict(report)), indent=1, ensure_ascii=False, allow_nan=False).encode()


def scores_json(models: tuple[ModelScore, ...], settings: Mapping[str, Any]) -> bytes:
    """Scores without a run: the numbers, what was asked, and what graded it."""
    found = {"scores": [dataclasses.asdict(one) for one in models], "settings": settings, "verifier": VERIFIER_VERSION}
    return json.dumps(_finite({**found, "packages": package_versions(PACKAGES)}), indent=1, ensure_ascii=False).encode()


def _finite(value: Any) -> Any:
    # A diverged training writes NaN losses, and JSON has no word for them.
    if isinstance(value, dict):
        return {key: _finite(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


SCORE_FIELDS: dict[str, pa.DataType] = {
    "model": pa.string(),
    "student": pa.string(),
    "mix": pa.string(),
    "seed": pa.int64(),
    "benchmark": pa.string(),
    "accuracy": pa.float64(),
    "interval_low": pa.float64(),
    "interval_high": pa.float64(),
    "num_prompts": pa.int64(),
    "num_graded": pa.int64(),
    "correct": pa.int64(),
    "incorrect": pa.int64(),
    "no_answer": pa.int64(),
    "errors": pa.int64(),
    "mean_tokens": pa.float64(),
    "p95_tokens": pa.float64(),
    "truncated": pa.int64(),
    "looping": pa.int64(),
    "string_match": pa.float64(),
    "num_samples": pa.int64(),
    "pass_at": pa.list_(
        pa.struct([("k", pa.int64()), ("value", pa.float64()), ("low", pa.float64()), ("high", pa.float64())])
    ),
}


def scores_table(models: tuple[ModelScore, ...]) -> pa.Table:
    """One row per model and benchmark."""
    rows = []
    for one in models:
        row = dataclasses.asdict(one)
        interval = row.pop("interval")
        rates = [{"k": rate["k"], "value": rate["value"], **rate["interval"]} for rate in row["pass_at"]]
        rows.append(row | {"interval_low": interval["low"], "interval_high": interval["high"], "pass_at": rates})
    return pa.Table.from_pylist(rows, schema=pa.schema(list(SCORE_FIELDS.items())))
