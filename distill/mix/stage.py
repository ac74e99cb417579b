"""Stage 5, mix: chooses every arm's traces from the index, then writes their texts in one pass.

    index -> filters -> candidates -> one choice per arm -> mix/NAME.parquet

All arms of a run teach the same prompts: those for which every pool has a correct trace that passes the filters, or as
many of them as an arm asks for. Arms with `sources` of their own form groups, each of which does so by itself.
"""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from rich.console import Console

from cluster.session import Session
from distill.config.mix import HardGetsLongMix, MixConfig, PairsMix, PoolWeights, SingleMix
from distill.config.prompt_sets import ArmGroup
from distill.config.recipe import Recipe
from distill.config.teachers import AskedTeacher, ChatFormat
from distill.core.manifest import Manifest
from distill.core.progress_bars import bars
from distill.core.run_dir import HELD_OUT, PROMPTS, VERDICTS, RunDir, StageName, dropped_rows
from distill.core.schema import Prompt
from distill.mix.accounting import LostPrompts, equal_arms, joined, lost_prompts, mix_details, unasked_prompts
from distill.mix.auto_weights import with_found_weights
from distill.mix.candidates import Candidates, Labels, Routes, build_candidates
from distill.mix.feature_store import compute_features, distinct_tokenizers, features_key, load_features, missing_keys
from distill.mix.filters import (
    USABLE,
    filter_counts,
    is_too_long,
    reasons_with_text,
    reasons_without_text,
    totals,
    with_student_tokens,
)
from distill.mix.pairs import Sides, find_pairs, pair_details
from distill.mix.policies import choose, choose_single, pools_of, validate_common, validate_held_out, validate_sizes
from distill.mix.reasoning_marks import REASONING_ROWS, check_marks
from distill.mix.seeded_order import contains, keys_of
from distill.mix.source import MixSource, closed_styles, longest_chat
from distill.mix.student_fit import fit_details, with_fits
from distill.mix.trace_fates import TraceFates
from distill.mix.trace_index import TraceIndex, read_index
from distill.mix.write_arms import Arms, write_arms
from distill.models.chat_template import chat_messages, encode, render_prompt, with_mode
from distill.models.resolve import load_tokenizer
from distill.run.context import RunContext

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclasses.dataclass(frozen=True, eq=False)
class Filtered:
    """The traces of a run with what keeps each of them out."""

    index: TraceIndex
    """With lengths in the first student's tokens."""
    reasons: NDArray[np.int8]
    """Why a trace may not be taught, or `USABLE`."""
    wrong: NDArray[np.int8]
    """Why a wrong trace may not be the rejected side of a pair, or `USABLE`."""


class Table(NamedTuple):
    """What the arms of one group choose from."""

    source: MixSource
    """Its recipe has the mixes of the group only."""
    prompts: NDArray[np.uint64]
    """All prompts of the group's sources, sorted keys."""
    candidates: Candidates
    held: Candidates
    """The common prompts that are held out."""
    number: int
    """Of the pass."""


class Chosen(NamedTuple):
    """Every arm's traces of one group, and the table that they were chosen from."""

    table: Table
    arms: Arms
    held_out: Arms
    """Every pool's traces of the prompts that are held out, one arm per pool."""

    @property
    def taught(self) -> NDArray[np.uint64]:
        """Prompts that any arm teaches, sorted keys."""
        prompts = np.unique(np.concatenate([choice.prompts for choice in self.arms.chosen.values()]))
        keys: NDArray[np.uint64] = self.arms.candidates.prompt_keys[prompts]
        return keys

    @property
    def number(self) -> int:
        """Of the group's pass."""
        return self.table.number

    @property
    def mixes(self) -> tuple[MixConfig, ...]:
        """The arms of the group."""
        return self.table.source.recipe.mixes

    def details(self) -> dict[str, dict[str, Any]]:
        """The manifest's entry of every arm."""
        is_own = bool(self.mixes[0].sources) or self.number > 1
        arms, own = self.arms, {"common_prompts": len(self.arms.candidates)} if is_own else {}
        return {
            mix.name: mix_details(mix, arms.chosen[mix.name], arms.candidates, arms.index) | self._pairs(mix) | own
            for mix in self.mixes
        }

    def _pairs(self, mix: MixConfig) -> dict[str, Any]:
        """What the entry of an arm with pairs says of them."""
        if not isinstance(mix, PairsMix):
            return {}
        candidates = self.arms.candidates
        taught = candidates.take(candidates.sized(mix.num_prompts, self.table.source.recipe.seed))
        return pair_details(mix, taught.pairs[mix.name], self.arms.index)


def mix_stage(run: RunContext) -> Manifest:
    """Choose and write every arm; the manifest records what each holds, what was left out, and why."""
    run_dir, console = run.run_dir, run.console
    recipe = with_found_weights(run.recipe, run_dir.read_manifest(StageName.SEARCH))
    source = MixSource(recipe, run_dir, tuple(pool.folder for pool in run.pools), run.models)
    traces = filtered_index(source, console)
    index, reasons = traces.index, traces.reasons
    tables = group_tables(source, index, reasons)
    chosen = [choose_arms(table, traces, lambda: run.session, console) for table in tables]
    reasoning = write_chosen(source, chosen, reasons)
    filtered = filter_counts(index, reasons, pools_of(recipe.mixes))
    paired = pools_of([mix for mix in recipe.mixes if isinstance(mix, PairsMix)])
    details = {
        name: entry | {REASONING_ROWS: reasoning[name]} for one in chosen for name, entry in one.details().items()
    }
    check_marks(recipe, details, run.models)
    sentences = [_equal_arms(one, details, len(chosen)) for one in chosen]
    _print_arms(console, details, totals(filtered), sentences)
    prompt_keys = np.unique(_prompt_column(run_dir, "prompt_id"))
    taught = np.unique(np.concatenate([one.taught for one in chosen]))
    lost = all_lost(prompt_keys, chosen, reasons, taught)
    run_dir.write_table(lost.table, *dropped_rows(StageName.MIX))
    fits: dict[str, dict[str, Any]] = {}
    for one in chosen:
        for student, pools in fit_details(one.table.source, index, one.arms.candidates).items():
            fits.setdefault(student, {}).update(pools)
    return Manifest(
        stage=StageName.MIX,
        key="",
        rows_in=len(prompt_keys),
        rows_out=len(taught),
        drops=lost.counts,
        details={
            "mixes": {mix.name: details[mix.name] for mix in recipe.mixes},
            "common_prompts": len(np.unique(np.concatenate([one.arms.candidates.prompt_keys for one in chosen]))),
            "traces": filtered,
            **({"wrong_traces": filter_counts(index, traces.wrong, paired, index.is_wrong())} if paired else {}),
            "arms": "; ".join(sentences),
            "tokens_of": recipe.students[0].name,
            "fit": fits,
        },
    )


def _equal_arms(chosen: Chosen, details: Mapping[str, Mapping[str, Any]], num_groups: int) -> str:
    """What the arms of a group have in common; the sources are named where there are several groups."""
    said = equal_arms({mix.name: details[mix.name] for mix in chosen.mixes})
    if num_groups == 1:
        return said
    of_pass = f", pass {chosen.number}" if chosen.number > 1 else ""
    return f"of {' and '.join(chosen.mixes[0].sources) or 'all sources'}{of_pass}: {said}"


def all_lost(
    prompt_keys: NDArray[np.uint64], chosen: Sequence[Chosen], reasons: NDArray[np.int8], taught: NDArray[np.uint64]
) -> LostPrompts:
    """The prompts that no arm teaches; where several groups might, with the reason of the first."""
    found: list[LostPrompts] = []
    left = prompt_keys
    held_out = np.unique(np.concatenate([one.held_out.candidates.prompt_keys for one in chosen]))
    for one in chosen:
        mine = np.intersect1d(left, one.table.prompts)
        left = np.setdiff1d(left, mine)
        candidates, index = one.arms.candidates, one.arms.index
        found.append(lost_prompts(mine, candidates, index, reasons, taught=taught, held_out=held_out))
    return joined([*found, unasked_prompts(left)])


def write_chosen(source: MixSource, chosen: Sequence[Chosen], reasons: NDArray[np.int8]) -> dict[str, int]:
    """Write the arms, the held-out traces, and the fate of every trace; arm -> rows that reason between delimiters."""
    run_dir, chat, fates = source.run_dir, source.recipe.student_chat, TraceFates()
    write = partial(write_arms, run_dir, source.folders, reasoning_end=source.recipe.evaluate.reasoning_end)
    run_dir.remove(*HELD_OUT)
    reasoning: dict[str, int] = {}
    for one in chosen:
        reasoning |= write(one.arms, chat, fates)
        if len(one.held_out.candidates):
            write(one.held_out, longest_chat(source.recipe), TraceFates(), folder=HELD_OUT)
    taught, held_out = [one.arms.candidates for one in chosen], [one.held_out.candidates for one in chosen]
    fates.write(run_dir, chosen[0].arms.index, reasons, taught, held_out)
    return reasoning


def group_tables(source: MixSource, index: TraceIndex, reasons: NDArray[np.int8]) -> list[Table]:
    """The common prompts of every group of arms; none of those that any group holds out is taught by another.

    Raises:
        StageError: no more prompts are common than are to be held out.
    """
    found = [_table(source, group, index, reasons) for group in source.recipe.arm_groups]
    held = np.unique(np.concatenate([table.held.prompt_keys for table in found]))

    def taught(candidates: Candidates) -> Candidates:
        return candidates.take(np.flatnonzero(~contains(held, candidates.prompt_keys)))

    return [table._replace(candidates=taught(table.candidates)) for table in found]


def _table(source: MixSource, group: ArmGroup, index: TraceIndex, reasons: NDArray[np.int8]) -> Table:
    recipe = source.recipe.model_copy(update={"mixes": group.mixes})
    prompts = _prompts_of(source.run_dir, group)
    target = recipe.filters.too_long_takes
    routes = Routes(target, is_too_long(reasons)) if target and target in group.pools else None
    is_usable = reasons == USABLE
    if group.sources:
        is_usable &= contains(prompts, index.prompt_keys)
    candidates = build_candidates(index, is_usable, group.pools, recipe.seed, routes)
    number = group.key.number
    num_held = recipe.train.held_out_prompts if number == 1 else None  # later students may have seen the rest
    validate_held_out(num_held, len(candidates))
    candidates, held = candidates.split_held_out(num_held, recipe.seed)
    return Table(dataclasses.replace(source, recipe=recipe), prompts, candidates, held, number)


def _prompts_of(run_dir: RunDir, group: ArmGroup) -> NDArray[np.uint64]:
    """All prompts of a group's sources, sorted keys."""
    table = run_dir.read_table(*PROMPTS, row_type=Prompt, columns=("prompt_id", "source"))
    if group.sources:
        table = table.filter(pc.is_in(table.column("source"), pa.array(group.sources)))
    return np.unique(keys_of(table.column("prompt_id"), "prompt id"))


def choose_arms(
    table: Table,
    traces: Filtered,
    connect: Callable[[], Session],
    console: Console,
) -> Chosen:
    """Every arm's traces of a group from the index of verdicts.

    Args:
        table: of the group.
        traces: all of the run.
        connect: joins the cluster; called only if a `student_fit` arm needs scores.
        console: for progress.

    Raises:
        StageError: no prompt is common to all pools, or an arm cannot meet its weights or its number of prompts.
    """
    source, recipe, candidates = table.source, table.source.recipe, table.candidates
    index, reasons = traces.index, traces.reasons
    candidates = dataclasses.replace(candidates, labels=read_labels(source.run_dir, recipe, candidates))
    validate_common(candidates, filter_counts(index, reasons, pools_of(recipe.mixes)))
    validate_sizes(recipe.mixes, len(candidates))
    candidates = with_fits(source, index, candidates, connect, console)
    sides = Sides(traces.reasons == USABLE, traces.wrong == USABLE)
    paired = [mix for mix in recipe.mixes if isinstance(mix, PairsMix)]
    pairs = {mix.name: find_pairs(mix, index, sides, candidates, recipe.seed) for mix in paired}
    candidates = dataclasses.replace(candidates, pairs=pairs)
    chosen = choose(recipe.mixes, candidates, recipe.seed)
    arms = Arms(index, candidates, chosen, {mix.name: mix for mix in recipe.mixes})
    return Chosen(table, arms, _held_out(index, table.held, recipe.seed, recipe.mixes[0].sources))


def _held_out(index: TraceIndex, held: Candidates, seed: int, sources: Sequence[str]) -> Arms:
    """Every pool's traces of the held-out prompts, one arm per pool, without modes: nobody is trained on them."""
    named = {pool: ".".join([pool, *sources]) for pool in held.pools}  # groups may draw from the same pools
    arms = {name: SingleMix.model_construct(name=name, pool=pool) for pool, name in named.items()}
    return Arms(index, held, {name: choose_single(mix, held, seed) for name, mix in arms.items()}, arms)


def _print_arms(
    console: Console, details: Mapping[str, Mapping[str, Any]], traces: Mapping[str, int], sentences: Sequence[str]
) -> None:
    left_out = {reason: count for reason, count in traces.items() if reason != "usable"}
    console.print(f"  {traces.get('usable', 0)} correct traces pass the filters; left out: {_listed(left_out)}")
    for name, entry in details.items():
        shares = ", ".join(f"{pool} {share:.0%}" for pool, share in entry["realised_tokens"].items())
        routed = f"; {entry['routed']} routed" if entry["routed"] else ""
        console.print(f"  {name}: {entry['rows']} rows, {entry['tokens']} tokens (share of tokens: {shares}){routed}")
    for sentence in sentences:
        console.print(f"  {sentence}")


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.items()) or "none"


def filtered_index(source: MixSource, console: Console) -> Filtered:
    """All traces of the run with what keeps each of them out. Reads texts of new ones."""
    recipe, run_dir = source.recipe, source.run_dir
    index = with_teaching(read_index(run_dir, *VERDICTS), recipe)
    paired = pools_of([mix for mix in recipe.mixes if isinstance(mix, PairsMix)])
    reasons = reasons_without_text(index, pools_of(recipe.mixes))
    wrong = reasons_without_text(index, paired, index.is_wrong())
    is_read = (reasons == USABLE) | (wrong == USABLE)
    wanted = index.trace_keys[is_read]
    if not len(wanted):
        return Filtered(index, reasons, wrong)
    folders = distinct_tokenizers([str(source.models[student.model].folder) for student in recipe.students])
    key = features_key(folders, longest_chat(recipe))
    missing = missing_keys(run_dir, key, wanted)
    if len(missing):
        prompts = np.unique(index.prompt_keys[contains(missing, index.trace_keys)])
        _compute_missing(source, key, missing, prompts, folders, console)
    features = load_features(run_dir, key)
    tokenizer_of = cache(load_tokenizer)  # both below load one only where there are modes
    max_length = recipe.train.max_length - mode_tokens(recipe, map(tokenizer_of, folders))
    closed = closed_styles(recipe, map(tokenizer_of, folders))
    reasons, wrong = (
        reasons_with_text(index, one, features, recipe.filters, max_length=max_length, closed=closed, seed=recipe.seed)
        for one in (reasons, wrong)
    )
    is_used = (reasons == USABLE) | (wrong == USABLE)
    return Filtered(dataclasses.replace(index, tokens=with_student_tokens(index, is_used, features)), reasons, wrong)


def with_teaching(index: TraceIndex, recipe: Recipe) -> TraceIndex:
    """The index where only traces of teachers with `teach = "suffix"` have a beginning that is not learnt."""
    suffix = tuple(one.name for one in recipe.teachers if isinstance(one, AskedTeacher) and one.teach == "suffix")
    return dataclasses.replace(index, given=np.where(index.pool_codes(suffix) >= 0, index.given, 0).astype(np.int32))


def mode_tokens(recipe: Recipe, tokenizers: Iterable["PreTrainedTokenizerBase"]) -> int:
    """Most tokens that a mode's line adds to a row; 0 without modes, and then no tokenizer is loaded.

    All arms teach the same prompts, so every row must fit with the longest line.
    """
    lines = [
        (with_mode(recipe.student_chat, mode), mix.openings.get(style, ""))
        for mix in recipe.mixes
        for style, mode in mix.prompt_modes.items()
    ]
    if not lines:
        return 0

    def length(tokenizer: "PreTrainedTokenizerBase", chat: ChatFormat) -> int:
        return len(render_prompt(tokenizer, chat_messages("", chat), chat.template_options))

    return max(
        length(tokenizer, chat) - length(tokenizer, longest_chat(recipe)) + len(encode(tokenizer, opening))
        for tokenizer in tokenizers
        for chat, opening in lines
    )


def _compute_missing(
    source: MixSource,
    key: str,
    missing: NDArray[np.uint64],
    prompts: NDArray[np.uint64],
    tokenizers: list[str],
    console: Console,
) -> None:
    work = compute_features(
        source.run_dir,
        key,
        missing,
        prompts,
        folders=source.folders,
        chat=longest_chat(source.recipe),
        tokenizers=[load_tokenizer(folder) for folder in tokenizers],
    )
    with bars(console) as shown:
        for done in work:
            shown.update("traces read for the filters", done, len(missing), "")


def read_labels(run_dir: RunDir, recipe: Recipe, candidates: Candidates) -> dict[str, Labels]:
    """Level and subject of the common prompts, where a policy needs them."""
    wanted = {name for mix in recipe.mixes if isinstance(mix, PoolWeights) for name in mix.stratify}
    wanted |= {"level" for mix in recipe.mixes if isinstance(mix, HardGetsLongMix) and mix.hardness == "level"}
    if not wanted:
        return {}
    keys = _prompt_column(run_dir, "prompt_id")
    by_key = np.argsort(keys)
    rows = by_key[np.searchsorted(keys[by_key], candidates.prompt_keys)]
    return {name: _labels(run_dir, name, rows) for name in sorted(wanted)}


def _labels(run_dir: RunDir, name: str, rows: NDArray[np.int64]) -> Labels:
    column = run_dir.read_table(*PROMPTS, row_type=Prompt, columns=(name,)).column(0)
    encoded = column.combine_chunks().take(rows).dictionary_encode()
    names = sorted(encoded.dictionary.to_pylist())
    codes = np.array([names.index(value) for value in encoded.dictionary.to_pylist()], dtype=np.int32)
    return Labels(codes[encoded.indices.to_numpy()], tuple(names))


def _prompt_column(run_dir: RunDir, name: str) -> NDArray[np.uint64]:
    table = run_dir.read_table(*PROMPTS, row_type=Prompt, columns=(name,))
    return keys_of(table.column(0), "prompt id")
