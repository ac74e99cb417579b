"""Computes and stores features of the traces' texts; the filters need them before any trace is chosen.

Features depend on the text, the students' tokenizers and their chat format, never on weights, filters or the seed: when
those change, or traces are added, no text is read a second time.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from distill.config.teachers import ChatFormat
from distill.core.run_dir import PROMPTS, RunDir, pool_shards
from distill.core.run_dir import trace_features as features_folder
from distill.core.schema import Prompt, content_hash
from distill.mix.filters import Features, features_columns
from distill.mix.prompt_facts import read_prompt_facts
from distill.mix.seeded_order import contains, keys_of
from distill.mix.trace_features import FEATURES_VERSION, TraceFeatures, tokenizer_identity, trace_features
from distill.models.token_counts import TokenCounter

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

FLUSH_ROWS = 20_000
"""Traces per file of features: the most that a crash repeats."""
GATHERED_ROWS = 4096
GATHERED_BYTES = 16 << 20
"""Rows and texts that are worked on at once."""
TOKENIZER_FILES = ("tokenizer", "special_tokens", "chat_template", "vocab", "merges", "added_tokens", "spiece")
"""Prefixes of the names of a tokenizer's files."""


def features_key(model_folders: Sequence[str], chat: ChatFormat) -> str:
    """Identity of everything that features depend on besides the text."""
    return content_hash("features", FEATURES_VERSION, [_identity(path) for path in model_folders], chat.model_dump())


def _identity(folder: str) -> str:
    files = [path for path in sorted(Path(folder).iterdir()) if path.name.startswith(TOKENIZER_FILES)]
    return tokenizer_identity({path.name: path.read_bytes() for path in files if path.is_file()})


def distinct_tokenizers(model_folders: Sequence[str]) -> list[str]:
    """One model folder per distinct tokenizer, in the given order."""
    found: dict[str, str] = {}
    for folder in model_folders:
        found.setdefault(_identity(folder), folder)
    return list(found.values())


def missing_keys(run_dir: RunDir, key: str, wanted: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The wanted traces that have no features yet, sorted."""
    done = [
        keys_of(pq.read_table(shard, filesystem=run_dir.fs, columns=["trace_id"]).column("trace_id"), "trace id")
        for shard in run_dir.shards(*features_folder(key))
    ]
    return np.setdiff1d(wanted, np.concatenate(done)) if done else np.unique(wanted)


def load_features(run_dir: RunDir, key: str) -> Features:
    """All features that were computed under a key."""
    return features_columns(run_dir.read_table(*features_folder(key), row_type=TraceFeatures))


def compute_features(
    run_dir: RunDir,
    key: str,
    missing: NDArray[np.uint64],
    prompts: NDArray[np.uint64],
    *,
    folders: Sequence[str],
    chat: ChatFormat,
    tokenizers: Sequence["PreTrainedTokenizerBase"],
) -> Iterator[int]:
    """Compute and store features of the missing traces; yields the number done after every file.

    Args:
        run_dir: where texts are read and features are written.
        key: of `features_key`.
        missing: sorted keys of the traces.
        prompts: sorted keys of their prompts.
        folders: of all pools, below `generate/`.
        chat: how students are asked.
        tokenizers: of the students, the first student's first.
    """
    counters = [TokenCounter(tokenizer) for tokenizer in tokenizers]
    facts = read_prompt_facts(run_dir, prompts, chat, counters)
    tables: list[pa.Table] = []
    done = 0
    for batch in gathered(text_batches(run_dir, folders, missing)):
        tables.append(trace_features(batch, facts, counters))
        if sum(table.num_rows for table in tables) >= FLUSH_ROWS:
            done += _store(run_dir, key, tables)
            tables = []
            yield done
    yield done + (_store(run_dir, key, tables) if tables else 0)


def gathered(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Batches laid together: a shard may hold as few rows as a chunk of prompts, and each batch has a price."""
    fresh: list[pa.RecordBatch] = []
    for batch in batches:
        fresh.append(batch)
        if sum(one.num_rows for one in fresh) >= GATHERED_ROWS or sum(one.nbytes for one in fresh) >= GATHERED_BYTES:
            yield pa.concat_batches(fresh)
            fresh = []
    if fresh:
        yield pa.concat_batches(fresh)


def _store(run_dir: RunDir, key: str, tables: Sequence[pa.Table]) -> int:
    table = pa.concat_tables(tables)
    name = content_hash(table.column("trace_id").to_pylist())
    return run_dir.write_table(table, *features_folder(key), f"{name}.parquet")


def read_problems(run_dir: RunDir) -> Mapping[str, str]:
    """Prompt id -> problem."""
    table = run_dir.read_table(*PROMPTS, row_type=Prompt, columns=("prompt_id", "problem"))
    return dict(zip(table.column(0).to_pylist(), table.column(1).to_pylist(), strict=True))


def text_batches(
    run_dir: RunDir,
    folders: Sequence[str],
    wanted: NDArray[np.uint64],
    on_batch: Callable[[str, NDArray[np.uint64]], None] = lambda shard, keys: None,
) -> Iterator[pa.RecordBatch]:
    """trace_id, prompt_id and completion of the wanted traces (sorted keys), 1,024 rows of a shard at a time.

    `on_batch` is called with the shard and the keys of all traces that were read, wanted or not.
    """
    columns: list[Any] = ["trace_id", "prompt_id", "completion"]
    for folder in folders if len(wanted) else ():
        for shard in run_dir.shards(*pool_shards(folder)):
            with run_dir.fs.open(shard) as source:
                for batch in pq.ParquetFile(source).iter_batches(batch_size=1024, columns=columns):
                    keys = keys_of(batch.column("trace_id"), "trace id")
                    on_batch(f"{folder}/{shard.rsplit('/', 1)[1]}", keys)
                    is_wanted = contains(wanted, keys)
                    if is_wanted.any():
                        yield batch.filter(pa.array(is_wanted))
