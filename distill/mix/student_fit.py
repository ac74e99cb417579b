"""Student-aware scores of the candidate traces: computed once per trace and student, stored, and read as columns."""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rich.console import Console

from cluster.session import Session
from distill.config.mix import StudentFitMix
from distill.core.progress_bars import bars
from distill.core.run_dir import RunDir, trace_fits
from distill.core.schema import arrow_schema, content_hash
from distill.mix.candidates import Candidates
from distill.mix.feature_store import read_problems, text_batches
from distill.mix.fit_scorer import FitJob, FitScorer, TraceFit, fit_key
from distill.mix.seeded_order import contains, identities_of, keys_of
from distill.mix.source import MixSource, longest_chat
from distill.mix.text_buckets import TextBuckets
from distill.mix.trace_index import TraceIndex
from distill.models.resolve import load_tokenizer

SCORES = ("mean_nll", "rsr", "shifted")
"""Those that a `student_fit` arm can choose by."""
REPORTED_SCORES = ("mean_nll", "rsr", "unshifted", "marginal", "shifted")
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
SCORER_ROWS = 256
"""Traces that an actor scores at once."""
PART_ROWS = 50_000
"""Traces scored by one set of actors: about the most that a crash repeats."""
NUM_TOKENS = 25
"""Tokens that are listed as the most often shifted."""


def with_fits(
    source: MixSource,
    index: TraceIndex,
    candidates: Candidates,
    connect: Callable[[], Session],
    console: Console,
) -> Candidates:
    """The candidates with the scores that `student_fit` arms need; scores the traces that have none yet."""
    students = sorted({mix.student for mix in source.recipe.mixes if isinstance(mix, StudentFitMix)})
    fits: dict[str, NDArray[np.float64]] = {}
    for student in students:
        key = student_key(source, student)
        keys = np.unique(index.trace_keys[candidates.rows])
        missing = np.setdiff1d(keys, scored_keys(source.run_dir, key))
        if len(missing):
            score_missing(source, student, key, missing, connect(), console)
        found = load_fits(source.run_dir, key, SCORES)
        rows = np.searchsorted(found.trace_keys, index.trace_keys[candidates.rows])
        fits |= {f"{student}/{score}": found.columns[score][rows] for score in SCORES}
    return dataclasses.replace(candidates, fits=fits)


def student_key(source: MixSource, student: str) -> str:
    """Identity of a student's scores."""
    return fit_key(source.student_model(student).identity, longest_chat(source.recipe))


@dataclasses.dataclass(frozen=True, eq=False)
class Fits:
    """Columns of `TraceFit`, sorted by trace."""

    trace_keys: NDArray[np.uint64]
    columns: Mapping[str, NDArray[np.float64]]


def scored_keys(run_dir: RunDir, key: str) -> NDArray[np.uint64]:
    """Traces that have scores under a key, sorted."""
    return load_fits(run_dir, key, ()).trace_keys


def load_fits(run_dir: RunDir, key: str, names: Sequence[str]) -> Fits:
    """Some scores of all traces that were scored under a key."""
    table = run_dir.read_table(*trace_fits(key), row_type=TraceFit, columns=("trace_id", *names))
    keys, first = np.unique(keys_of(table.column("trace_id"), "trace id"), return_index=True)
    return Fits(keys, {name: table.column(name).to_numpy()[first] for name in names})


def score_missing(
    source: MixSource, student: str, key: str, missing: NDArray[np.uint64], session: Session, console: Console
) -> None:
    """Score traces (sorted keys) with actors that hold the untrained student; writes a shard of scores at a time."""
    import ray.data

    recipe = source.recipe
    chat, length = longest_chat(recipe), recipe.train.max_length
    job = FitJob(source.student_model(student).address, chat, length, session.device)
    is_gpu = session.device == "gpu"
    actors = max(1, int(session.num_gpus)) if is_gpu else 1
    done = 0
    with bars(console) as shown:
        for part in text_parts(source, missing):
            scored = ray.data.from_arrow(part).map_batches(
                FitScorer,
                fn_constructor_args=(job,),
                batch_size=SCORER_ROWS,
                batch_format="numpy",
                num_cpus=1,
                num_gpus=1 if is_gpu else 0,
                compute=ray.data.ActorPoolStrategy(size=actors),
            )
            rows = [TraceFit(**row) for row in scored.iter_rows()]
            name = content_hash([row.trace_id for row in rows])
            source.run_dir.write_rows(rows, TraceFit, *trace_fits(key), f"{name}.parquet")
            done += len(rows)
            shown.update(f"traces scored by {student}", done, len(missing), "")


def text_parts(source: MixSource, wanted: NDArray[np.uint64]) -> Iterator[pa.Table]:
    """trace_id, problem and completion of the wanted traces (sorted keys), each once, about PART_ROWS at a time.

    Traces of one prompt are neighbours, whatever their pool, so that a student reads the prompt once.
    """
    problems = read_problems(source.run_dir)
    prompt_keys = np.sort(keys_of(pa.array(list(problems), pa.string()), "prompt id"))
    prompt_of = np.zeros(len(wanted), dtype=np.int64)
    parts: list[pa.Table] = []
    with TextBuckets(len(prompt_keys)) as texts:
        for batch in text_batches(source.run_dir, source.folders, wanted):
            rows = np.searchsorted(wanted, keys_of(batch.column("trace_id"), "trace id"))
            prompts = np.searchsorted(prompt_keys, keys_of(batch.column("prompt_id"), "prompt id"))
            prompt_of[rows] = prompts
            texts.add(prompts, rows, batch.column("completion"))
        for start, _ in texts.spans():
            table = texts.read(start)
            rows = table.column("row").to_numpy()
            by_prompt = np.argsort(prompt_of[rows], kind="stable")
            asked = [problems[name] for name in identities_of(prompt_keys[prompt_of[rows[by_prompt]]])]
            columns = [identities_of(wanted[rows[by_prompt]]), asked, table.column("text").take(pa.array(by_prompt))]
            parts.append(pa.table(columns, names=["trace_id", "problem", "completion"]))
            if sum(part.num_rows for part in parts) >= PART_ROWS:
                yield pa.concat_tables(parts)
                parts = []
    if any(part.num_rows for part in parts):
        yield pa.concat_tables(parts)


def fit_details(source: MixSource, index: TraceIndex, candidates: Candidates) -> dict[str, Any]:
    """For the report: student -> pool with a trace -> quantiles of every score, and the tokens most often shifted."""
    details: dict[str, Any] = {}
    for student in sorted({name.split("/")[0] for name in candidates.fits}):
        key = student_key(source, student)
        fits = load_fits(source.run_dir, key, REPORTED_SCORES)
        details[student] = {}
        for code, pool in enumerate(candidates.pools):
            rows = candidates.rows[candidates.sources[:, code] == code, code]
            if not len(rows):  # every prompt was routed away from it
                continue
            found = np.searchsorted(fits.trace_keys, index.trace_keys[rows])
            columns = {name: np.quantile(column[found], QUANTILES).tolist() for name, column in fits.columns.items()}
            tokens = most_shifted(source, student, key, np.unique(index.trace_keys[rows]))
            details[student][pool] = {"traces": len(rows), "quantiles": columns, "tokens": tokens}
    return details


def most_shifted(
    source: MixSource, student: str, key: str, trace_keys: NDArray[np.uint64]
) -> list[tuple[str, int, float]]:
    """(token, shifted positions, median rank there) of the tokens that are most often at shifted positions."""
    names = ["trace_id", "shifted_tokens", "shifted_ranks"]
    parts: list[tuple[Any, Any]] = []
    for shard in source.run_dir.shards(*trace_fits(key)):
        table = pq.read_table(shard, filesystem=source.run_dir.fs, columns=names)
        wanted = table.filter(pa.array(contains(trace_keys, keys_of(table.column("trace_id"), "trace id"))))
        parts.append(tuple(wanted.column(name).combine_chunks().flatten().to_numpy() for name in names[1:]))
    tokens, ranks = (np.concatenate(column) for column in zip(*parts, strict=True))
    found, counts = np.unique(tokens, return_counts=True)
    most = found[np.argsort(-counts, kind="stable")][:NUM_TOKENS].tolist()
    tokenizer = load_tokenizer(str(source.student_model(student).folder))
    return [
        (tokenizer.decode([token]), int((tokens == token).sum()), float(np.median(ranks[tokens == token])))
        for token in most
    ]


assert set(REPORTED_SCORES) <= set(arrow_schema(TraceFit).names)
