"""The pass over the texts before the choice: features of traces that have none yet, kept for the next time.

Features depend on the text, the students' tokenizers and how students are asked, never on weights or filters: another
weight, another seed or more traces re-read nothing that was read before.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from distill.config.teachers import ChatFormat
from distill.core.run_dir import RunDir
from distill.core.schema import Prompt, content_hash
from distill.mix.filters import Features, features_columns
from distill.mix.seeded_order import contains, keys_of
from distill.mix.trace_features import FEATURES_VERSION, TraceFeatures, tokenizer_identity, trace_features
from distill.models.chat_template import chat_messages

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FOLDER = ("mix", "features")
FLUSH_ROWS = 20_000
"""Traces per file of features: what a kill repeats at most."""
TOKENIZER_FILES = ("tokenizer", "special_tokens", "chat_template", "vocab", "merges", "added_tokens", "spiece")
"""What the names of a tokenizer's files begin with."""


def features_key(model_folders: Sequence[str], chat: ChatFormat) -> str:
    """Everything that features depend on besides the text."""
    return content_hash("features", FEATURES_VERSION, [_identity(path) for path in model_folders], chat.model_dump())


def _identity(folder: str) -> str:
    files = [path for path in sorted(Path(folder).iterdir()) if path.name.startswith(TOKENIZER_FILES)]
    return tokenizer_identity({path.name: path.read_bytes() for path in files if path.is_file()})


def distinct_tokenizers(model_folders: Sequence[str]) -> list[str]:
    """One folder per tokenizer, the first student's first."""
    found: dict[str, str] = {}
    for folder in model_folders:
        found.setdefault(_identity(folder), folder)
    return list(found.values())


def missing_keys(run_dir: RunDir, key: str, wanted: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Sorted keys of the wanted traces that have no features yet."""
    done = [
        keys_of(pq.read_table(shard, filesystem=run_dir.fs, columns=["trace_id"]).column("trace_id"), "trace id")
        for shard in run_dir.shards(*FOLDER, key)
    ]
    return np.setdiff1d(wanted, np.concatenate(done)) if done else np.unique(wanted)


def load_features(run_dir: RunDir, key: str) -> Features:
    """All features of the key."""
    return features_columns(run_dir.read_table(*FOLDER, key, row_type=TraceFeatures))


def scan(
    run_dir: RunDir,
    key: str,
    missing: NDArray[np.uint64],
    *,
    folders: Sequence[str],
    chat: ChatFormat,
    tokenizers: Sequence["PreTrainedTokenizerBase"],
) -> Iterator[int]:
    """Compute and keep features of the missing traces; yields how many are done after every file."""
    problems = read_problems(run_dir)
    rows: list[TraceFeatures] = []
    done = 0
    for batch in text_batches(run_dir, folders, missing):
        for trace in batch.to_pylist():
            problem = problems[trace["prompt_id"]]
            rows.append(trace_features(trace, problem, chat_messages(problem, chat), tokenizers))
        if len(rows) >= FLUSH_ROWS:
            done += _keep(run_dir, key, rows)
            rows = []
            yield done
    yield done + (_keep(run_dir, key, rows) if rows else 0)


def _keep(run_dir: RunDir, key: str, rows: Sequence[TraceFeatures]) -> int:
    name = content_hash([row.trace_id for row in rows])
    return run_dir.write_rows(rows, TraceFeatures, *FOLDER, key, f"{name}.parquet")


def read_problems(run_dir: RunDir) -> Mapping[str, str]:
    """Prompt id -> problem."""
    table = run_dir.read_table("prompts", "prompts.parquet", row_type=Prompt, columns=("prompt_id", "problem"))
    return dict(zip(table.column(0).to_pylist(), table.column(1).to_pylist(), strict=True))


def text_batches(
    run_dir: RunDir,
    folders: Sequence[str],
    wanted: NDArray[np.uint64],
    seen: Callable[[str, NDArray[np.uint64]], None] = lambda shard, keys: None,
) -> Iterator[pa.RecordBatch]:
    """trace_id, prompt_id and completion of the wanted traces (sorted keys), 1,024 rows of a shard at a time.

    `seen` hears of every trace that was passed, wanted or not, with its shard.
    """
    columns: list[Any] = ["trace_id", "prompt_id", "completion"]
    for folder in folders if len(wanted) else ():
        for shard in run_dir.shards("generate", folder):
            with run_dir.fs.open(shard) as source:
                for batch in pq.ParquetFile(source).iter_batches(batch_size=1024, columns=columns):
                    keys = keys_of(batch.column("trace_id"), "trace id")
                    seen(f"{folder}/{shard.rsplit('/', 1)[1]}", keys)
                    is_wanted = contains(wanted, keys)
                    if is_wanted.any():
                        yield batch.filter(pa.array(is_wanted))
