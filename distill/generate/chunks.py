"""The prompts that an engine takes together: they travel as bounds of rows, with what is on disk of them."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from distill.config.teachers import AskedTeacher
from distill.core.schema import content_hash
from distill.run.pools import Pool

CHUNK_ROWS = 32
"""Prompts that an engine takes, and writes to a shard, together."""
PAGE_ROWS = 32 * CHUNK_ROWS
"""Prompts that an engine reads from the file at once; no chunk spans two pages."""


@dataclass(frozen=True)
class PromptRow:
    """A prompt as an engine needs it, with the state of every pool for it (`encode_states`)."""

    prompt_id: str
    problem: str
    reference: str
    answer_kind: str
    entry: str
    states: str
    source: str = ""
    language: str = ""


COLUMNS = tuple(field.name for field in dataclasses.fields(PromptRow) if field.name != "states")


# Producer: the driver's survey. Consumer: every engine in turn, which passes it on with new states.
@dataclass(frozen=True)
class Chunk:
    """Rows [start, stop) of the prompts, to be asked together; one block of the Ray Data job.

    The prompts themselves are not sent: the engine's actor reads them from disk, so the driver holds none of them.
    """

    start: int
    stop: int
    states: tuple[str, ...] = ()
    """The pools' states for each prompt (`encode_states`); empty where no pool has any trace of these prompts."""
    sources: tuple[str, ...] = ()
    """The shards (`FOLDER/FILE`) that hold traces of these prompts which a teacher may read."""


def chunk_table(chunks: Sequence[Chunk]) -> pa.Table:
    """Chunks as a table, one row each."""
    columns = {
        "start": pa.array([chunk.start for chunk in chunks], pa.int64()),
        "stop": pa.array([chunk.stop for chunk in chunks], pa.int64()),
        "states": pa.array([chunk.states for chunk in chunks], pa.list_(pa.string())),
        "sources": pa.array([chunk.sources for chunk in chunks], pa.list_(pa.string())),
    }
    return pa.table(columns)


def batch_key(prompts: Sequence[PromptRow], pools: Sequence[Pool]) -> str:
    """Identity of a batch: its prompts, their states, the pools that are asked, and which traces these take: edits of
    others are in no state, and no batch may write over the shard that they are in."""
    asked = [
        [pool.folder, teacher.takes if isinstance(teacher := pool.teacher, AskedTeacher) else ""] for pool in pools
    ]
    return content_hash([[prompt.prompt_id, prompt.states] for prompt in prompts], asked)
