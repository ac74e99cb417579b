"""Writes the chosen traces to the arms' files: one streaming pass over the shards, whatever the number of arms."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from distill.config.mix import MixConfig
from distill.config.teachers import ChatFormat
from distill.core.errors import StageError
from distill.core.run_dir import ARMS, PROMPTS, Parts, RunDir, arm_examples
from distill.mix.candidates import Candidates
from distill.mix.choice import SIDES, Choice
from distill.mix.examples import SCHEMA, decode_names, message_column
from distill.mix.feature_store import text_batches
from distill.mix.reasoning_marks import count_reasoning
from distill.mix.seeded_order import contains, identities_of, keys_of
from distill.mix.text_buckets import TextBuckets
from distill.mix.trace_fates import TraceFates
from distill.mix.trace_index import TraceIndex
from distill.models.chat_template import with_mode
from distill.models.template_options import options_text


@dataclass(frozen=True)
class Arms:
    """The arms to be written, and the tables that their indices refer to."""

    index: TraceIndex
    candidates: Candidates
    chosen: Mapping[str, Choice]
    mixes: Mapping[str, MixConfig]

    def chats(self, name: str, chat: ChatFormat) -> list[ChatFormat]:
        """The chat format of each pool of `candidates` in an arm: that of its mode where the arm has modes.

        A style without a mode gets the first one: it belongs to a pool that has no row in the arm.
        """
        modes = {str(style): mode for style, mode in self.mixes[name].prompt_modes.items()}
        default = next(iter(modes.values()), None)
        return [with_mode(chat, modes.get(self.index.styles.get(pool, ""), default)) for pool in self.candidates.pools]

    def openings(self, name: str) -> list[str]:
        """What begins the completions of each pool of `candidates` in an arm: the mode of its style, where the student
        writes it."""
        found = {str(style): opening for style, opening in self.mixes[name].openings.items()}
        return [found.get(self.index.styles.get(pool, ""), "") for pool in self.candidates.pools]


def write_arms(
    run_dir: RunDir,
    folders: Sequence[str],
    arms: Arms,
    chat: ChatFormat,
    fates: TraceFates,
    *,
    reasoning_end: str,
    folder: Parts = ARMS,
) -> dict[str, int]:
    """Write `NAME.parquet` for every arm, rows by prompt, then pool or side. The same choice gives the same bytes.

    Args:
        run_dir: of the run.
        folders: of all pools, below `generate/`.
        arms: what to write.
        chat: how students are asked.
        fates: records which shard each trace is in.
        reasoning_end: what ends the reasoning of a trace.
        folder: where the files are written.

    Returns:
        Arm -> rows that reason between delimiters.

    Raises:
        StageError: the text of a chosen trace is in no shard.
    """
    candidates, reasoning = arms.candidates, dict.fromkeys(arms.chosen, 0)
    with ExitStack() as files:
        problems = files.enter_context(TextBuckets(len(candidates)))
        texts = files.enter_context(TextBuckets(len(candidates)))
        _spread_problems(run_dir, candidates, problems)
        _spread_completions(run_dir, folders, arms, texts, fates)
        writers = {
            name: files.enter_context(run_dir.table_writer(SCHEMA, *arm_examples(name, folder))) for name in arms.chosen
        }
        for start, stop in texts.spans():
            asked = problems.read(start).column("text").to_pylist()
            table = texts.read(start)
            for name, writer in writers.items():
                part = _arm_part(arms, name, (start, stop), asked, table, chat)
                writer.write_table(part)
                reasoning[name] += count_reasoning(_completions(part), reasoning_end)
    return reasoning


def _spread_problems(run_dir: RunDir, candidates: Candidates, problems: TextBuckets) -> None:
    for shard in run_dir.shards(*PROMPTS):
        with run_dir.fs.open(shard) as source:
            for batch in pq.ParquetFile(source).iter_batches(columns=["prompt_id", "problem"]):
                keys = keys_of(batch.column("prompt_id"), "prompt id")
                common = np.flatnonzero(contains(candidates.prompt_keys, keys))
                prompts = np.searchsorted(candidates.prompt_keys, keys[common])
                problems.add(prompts, prompts, batch.column("problem").take(pa.array(common)))


def _spread_completions(
    run_dir: RunDir, folders: Sequence[str], arms: Arms, texts: TextBuckets, fates: TraceFates
) -> None:
    """Store every chosen trace's text once, numbered by its row of the index."""
    taken = [(choice.prompts, choice.rows(arms.candidates)) for choice in arms.chosen.values()]
    rows, first = np.unique(np.concatenate([rows for _, rows in taken]), return_index=True)
    prompts = np.concatenate([prompts for prompts, _ in taken])[first]
    keys = arms.index.trace_keys[rows]
    by_key = np.argsort(keys)
    keys, rows, prompts = keys[by_key], rows[by_key], prompts[by_key]
    is_found = np.zeros(len(keys), dtype=np.bool_)
    for batch in text_batches(run_dir, folders, keys, fates.add):
        found = np.searchsorted(keys, keys_of(batch.column("trace_id"), "trace id"))
        texts.add(prompts[found], rows[found], batch.column("completion"))
        is_found[found] = True
    if not is_found.all():
        missing = identities_of(keys[~is_found])
        raise StageError(
            f"mix: the texts of {len(missing)} of {len(keys)} chosen traces are in no shard (first: {missing[0]})\n"
            "  -> the index does not match the traces: delete RUN/verify and run the same command"
        )


def _arm_part(
    arms: Arms, name: str, span: tuple[int, int], asked: Sequence[str], texts: pa.Table, chat: ChatFormat
) -> pa.Table:
    """An arm's rows of the prompts of one bucket."""
    candidates, choice = arms.candidates, arms.chosen[name]
    part = slice(*np.searchsorted(choice.prompts, span))
    prompts, rows = choice.prompts[part], choice.rows(candidates)[part]
    positions = np.searchsorted(texts.column("row").to_numpy(), rows)
    completions = texts.column("text").combine_chunks().take(pa.array(positions))
    sources = choice.sources(candidates)[part]
    styles = [arms.index.styles[pool] for pool in candidates.pools]
    chats, openings = arms.chats(name, chat), arms.openings(name)
    columns = {
        "trace_id": _identities(arms.index.trace_keys[rows]),
        "prompt_id": _identities(candidates.prompt_keys[prompts]),
        "mix": pa.array([name] * len(rows), pa.string()),
        "pool": decode_names(sources, candidates.pools),
        "style": decode_names(sources, styles),
        "messages": message_column(
            [asked[prompt - span[0]] for prompt in prompts.tolist()], completions, chats, sources, openings
        ),
        "template_options": decode_names(sources, [options_text(chat.template_options) for chat in chats]),
        "phase": pa.array(choice.phases[part]),
        "place": pa.array(choice.ranks[part]),
        "given": pa.array(arms.index.given[rows].astype(np.int64)),
        "opening": pa.array(np.array([len(opening) for opening in openings], np.int64)[sources]),
        "side": decode_names(choice.sides[part], SIDES),
    }
    return pa.table(columns, schema=SCHEMA)


def _completions(part: pa.Table) -> pa.Array:
    """The last turn of every row."""
    turns = part.column("messages").combine_chunks()
    return turns.values.take(pc.subtract(turns.offsets[1:], 1)).field("content")


def _identities(keys: NDArray[np.uint64]) -> pa.Array:
    return pa.array(identities_of(keys), pa.string())
