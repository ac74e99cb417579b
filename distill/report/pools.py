"""Traces per pool, rows per mix and how traces fit the students, counted from the rows themselves."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from distill.config.mix import MixConfig
from distill.config.passes import base_model
from distill.config.recipe import Recipe
from distill.config.teachers import DatasetTeacher, EndpointTeacher, RuleTeacher, TeacherConfig, VllmTeacher
from distill.core.manifest import Manifest
from distill.core.run_dir import VERDICTS, RunDir, arm_examples, model_record
from distill.core.schema import Example, IndexRow, Verdict
from distill.evaluate.statistics import wilson_interval
from distill.prompts.load import source_name
from distill.report.data import FitRow, Histogram, MixRow, MixShare, PoolRow, ShiftedToken, Spread

NUM_BINS = 28
COLUMNS = ("trace_id", "prompt_id", "pool", "verdict", "completion_tokens", "finish_reason", "drop")


@dataclass(frozen=True)
class Traces:
    """Columns of `verify/verdicts.parquet`, one entry per trace."""

    trace_ids: NDArray[np.str_]
    prompt_ids: NDArray[np.str_]
    pools: NDArray[np.str_]
    verdicts: NDArray[np.str_]
    tokens: NDArray[np.int64]
    is_truncated: NDArray[np.bool_]
    is_dropped: NDArray[np.bool_]
    """Edits that are not used, whatever their verdict."""

    def is_correct(self, pool: str) -> NDArray[np.bool_]:
        """The pool's correct traces, without edits that are not used."""
        found: NDArray[np.bool_] = (self.pools == pool) & (self.verdicts == Verdict.CORRECT.value) & ~self.is_dropped
        return found

    def solved(self, pool: str) -> set[str]:
        """Prompts with at least one correct trace in the pool."""
        return set(self.prompt_ids[self.is_correct(pool)].tolist())

    def usable(self, pool: str) -> set[str]:
        """Prompts that a mix can draw from the pool: solved by a trace that was not cut off."""
        return set(self.prompt_ids[self.is_correct(pool) & ~self.is_truncated].tolist())


def common_prompts(recipe: Recipe, traces: Traces) -> set[str]:
    """Prompts that arms can teach: solved by every pool of those that teach the same ones, also at weight 0."""
    groups = recipe.arm_groups
    return set[str]().union(*(set.intersection(*map(traces.usable, group.pools)) for group in groups))


def read_traces(run_dir: RunDir) -> Traces:
    """Every verified trace; empty where the stage did not run."""
    table = run_dir.read_table(*VERDICTS, row_type=IndexRow, columns=COLUMNS)
    return Traces(
        trace_ids=_strings(table, "trace_id"),
        prompt_ids=_strings(table, "prompt_id"),
        pools=_strings(table, "pool"),
        verdicts=_strings(table, "verdict"),
        tokens=table["completion_tokens"].to_numpy(),
        is_truncated=_strings(table, "finish_reason") == "length",
        is_dropped=_strings(table, "drop") != "",
    )


def pool_rows(recipe: Recipe, traces: Traces) -> list[PoolRow]:
    """One row per teacher with at least one trace."""
    edges = _length_edges(traces)
    return [_pool_row(teacher, traces, edges) for teacher in recipe.teachers if (traces.pools == teacher.name).any()]


def teacher_source(teacher: TeacherConfig) -> str:
    """What a pool's traces come from: a model of the recipe, a model behind an address, or a data set."""
    match teacher:
        case VllmTeacher():
            return teacher.model
        case EndpointTeacher():
            return teacher.remote_model
        case DatasetTeacher():
            return source_name(teacher.source)
        case RuleTeacher():
            return "rules"


def teacher_sizes(recipe: Recipe, run_dir: RunDir) -> dict[str, int]:
    """Teacher -> parameters of its model, where the run resolved the model; endpoints and data sets have none."""
    sizes = {}
    for teacher in recipe.teachers:
        if isinstance(teacher, VllmTeacher):
            record = json.loads(run_dir.read_bytes(*model_record(base_model(recipe, teacher.model))) or b"{}")
            if num_parameters := record.get("model", {}).get("num_parameters"):
                sizes[teacher.name] = int(num_parameters)
    return sizes


def _pool_row(teacher: TeacherConfig, traces: Traces, edges: NDArray[np.float64]) -> PoolRow:
    mine = traces.pools == teacher.name
    counts = {verdict: int((traces.verdicts[mine] == verdict.value).sum()) for verdict in Verdict}
    decided = int(mine.sum()) - counts[Verdict.ERROR]
    tokens = traces.tokens[mine & (traces.verdicts == Verdict.CORRECT.value)]
    return PoolRow(
        pool=teacher.name,
        style=teacher.style.value,
        model=teacher_source(teacher),
        traces=int(mine.sum()),
        correct=counts[Verdict.CORRECT],
        incorrect=counts[Verdict.INCORRECT],
        no_answer=counts[Verdict.NO_ANSWER],
        errors=counts[Verdict.ERROR],
        solve_rate=counts[Verdict.CORRECT] / decided if decided else None,
        interval=wilson_interval(counts[Verdict.CORRECT], decided),
        prompts=len(np.unique(traces.prompt_ids[mine])),
        prompts_solved=len(traces.solved(teacher.name)),
        mean_tokens=float(tokens.mean()) if len(tokens) else None,
        median_tokens=float(np.median(tokens)) if len(tokens) else None,
        p95_tokens=float(np.quantile(tokens, 0.95)) if len(tokens) else None,
        truncated=int((mine & traces.is_truncated).sum()),
        lengths=_histogram(tokens, edges),
    )


def _length_edges(traces: Traces) -> NDArray[np.float64]:
    tokens = traces.tokens[traces.verdicts == Verdict.CORRECT.value]
    if not len(tokens):
        return np.array([0.0, 1.0])
    low, high = max(1.0, float(tokens.min())), float(tokens.max()) + 1
    # Long reasoning can be a hundred times as long as short reasoning: only a logarithmic axis shows both.
    even = np.geomspace(low, high, NUM_BINS + 1) if high / low > 12 else np.linspace(low, high, NUM_BINS + 1)
    # Token counts are integers: bins of less than one token would make short traces look like a comb.
    return np.unique(np.round(even)) - 0.5


def _histogram(tokens: NDArray[np.int64], edges: NDArray[np.float64]) -> Histogram:
    counts, _ = np.histogram(tokens, bins=edges)
    return Histogram(tuple(float(edge) for edge in edges), tuple(int(count) for count in counts))


def mix_rows(recipe: Recipe, run_dir: RunDir, traces: Traces) -> list[MixRow]:
    """One row per mix that was drawn. Token counts are the manifest's; until it is written, those of the traces."""
    recorded = run_dir.arm_entries()
    lengths = dict(zip(traces.trace_ids.tolist(), traces.tokens.tolist(), strict=True))
    tables = {mix.name: read_examples(run_dir, mix.name, ("trace_id", "pool")) for mix in recipe.mixes}
    return [
        _mix_row(mix, tables[mix.name], lengths, recorded.get(mix.name, {}))
        for mix in recipe.mixes
        if tables[mix.name].num_rows
    ]


def read_examples(run_dir: RunDir, mix: str, columns: tuple[str, ...]) -> pa.Table:
    """Rows of one mix; empty where it was not drawn."""
    return run_dir.read_table(*arm_examples(mix), row_type=Example, columns=columns)


def _mix_row(mix: MixConfig, table: pa.Table, lengths: Mapping[str, int], recorded: Mapping[str, Any]) -> MixRow:
    pools = _strings(table, "pool")
    known = [lengths.get(trace) for trace in table["trace_id"].to_pylist()]
    tokens = None if None in known else np.array(known, dtype=np.int64)
    total = recorded.get("tokens", None if tokens is None else int(tokens.sum()))
    return MixRow(
        mix=mix.name,
        rows=table.num_rows,
        tokens=total,
        mean_tokens=None if total is None else total / table.num_rows,
        long_rows=recorded.get("long_rows"),
        long_tokens=recorded.get("long_tokens"),
        shares=tuple(
            _mix_share(pool, share, pools, tokens, recorded) for pool, share in mix.shares.items() if share != 0
        ),
    )


def _mix_share(
    pool: str,
    requested: float | None,
    pools: NDArray[np.str_],
    tokens: NDArray[np.int64] | None,
    recorded: Mapping[str, Any],
) -> MixShare:
    mine = pools == pool
    counted = None if tokens is None or not tokens.sum() else float(tokens[mine].sum() / tokens.sum())
    token_share = recorded.get("realised_tokens", {}).get(pool, counted)
    return MixShare(pool=pool, requested=requested, rows=float(mine.mean()), tokens=token_share)


def _strings(table: pa.Table, column: str) -> NDArray[np.str_]:
    return np.asarray(table[column].to_pylist(), dtype=np.str_)


def fit_rows(manifests: Mapping[str, Manifest]) -> list[FitRow]:
    """One row per student and pool whose traces were scored; none where no arm has the policy `student_fit`."""
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
