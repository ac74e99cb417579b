"""Stage 4: every arm's traces chosen from the index, then their texts written in one pass.

    index -> filters -> candidates -> one choice per arm -> mix/NAME.parquet

All arms of a run teach the same prompts, those that every pool solved with a trace that passes the filters.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from distill.config.mix import HardGetsLongMix, MixConfig, PoolWeights, SingleMix
from distill.config.recipe import Recipe
from distill.config.teachers import ChatFormat
from distill.core.progress_bars import bars
from distill.core.run_dir import Manifest, RunDir
from distill.core.schema import Prompt
from distill.mix.accounting import equal_arms, lost_prompts, mix_details
from distill.mix.candidates import Candidates, Labels, build_candidates
from distill.mix.feature_store import distinct_tokenizers, features_key, load_features, missing_keys, scan
from distill.mix.filters import (
    USABLE,
    filter_counts,
    reasons_with_text,
    reasons_without_text,
    summed,
    too_long_prompts,
    with_student_tokens,
)
from distill.mix.policies import choose, choose_single, pools_of, validate_common, validate_held_out
from distill.mix.seeded_order import keys_of
from distill.mix.student_fit import fit_details, with_fits
from distill.mix.trace_fates import Whereabouts
from distill.mix.trace_index import TraceIndex, read_index
from distill.mix.write_arms import HELD_OUT, STAGE, Arms, write_arms
from distill.models.chat_template import chat_messages, render_prompt, with_mode
from distill.models.resolve import load_tokenizer
from distill.run.context import Run

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

VERDICTS = ("verify", "verdicts.parquet")


class Chosen(NamedTuple):
    """Every arm's traces, and what they were chosen from."""

    arms: Arms
    held_out: Arms
    """One for each pool, of the prompts that no arm teaches."""
    reasons: NDArray[np.int8]
    """Why each trace of the index was left out, or `USABLE`."""
    filtered: Mapping[str, Mapping[str, int]]
    """Pool -> reason -> correct traces."""

    def details(self, mixes: Sequence[MixConfig]) -> dict[str, dict[str, Any]]:
        """Every arm for the manifest."""
        arms = self.arms
        return {mix.name: mix_details(mix, arms.chosen[mix.name], arms.candidates, arms.index) for mix in mixes}


def mix_stage(current: Run) -> Manifest:
    """Choose and write every arm; the manifest says what each holds and what was left out, and why."""
    recipe, run_dir = current.recipe, current.run_dir
    arms, held_out, reasons, filtered = chosen = choose_arms(current)
    index, candidates, where = arms.index, arms.candidates, Whereabouts()
    folders = [pool.folder for pool in current.pools]
    write_arms(run_dir, folders, arms, recipe.student_chat, where, STAGE)
    run_dir.remove(HELD_OUT)
    if len(held_out.candidates):
        write_arms(run_dir, folders, held_out, recipe.student_chat, Whereabouts(), HELD_OUT)
    where.write(run_dir, index, reasons, candidates)
    details = chosen.details(recipe.mixes)
    _say(current, details, summed(filtered))
    prompt_keys = np.unique(_prompt_column(run_dir, "prompt_id"))
    lost = lost_prompts(prompt_keys, candidates, index, reasons, held_out.candidates.prompt_keys)
    run_dir.write_table(lost.table, STAGE, "dropped.parquet")
    return Manifest(
        stage=STAGE,
        key="",
        rows_in=len(prompt_keys),
        rows_out=len(candidates),
        drops=lost.counts,
        details={
            "mixes": details,
            "common_prompts": len(candidates),
            "traces": filtered,
            "arms": equal_arms(details),
            "tokens_of": recipe.students[0].name,
            "fit": fit_details(current, index, candidates),
        },
    )


def choose_arms(current: Run, verdicts: tuple[str, ...] = VERDICTS) -> Chosen:
    """Every arm's traces from an index of verdicts, the verify stage's unless another is named.

    Raises:
        StageError: no prompt is common to all pools, or an arm cannot be what its name says.
    """
    recipe = current.recipe
    index, reasons = filtered_index(current, verdicts)
    pools = pools_of(recipe.mixes)
    target = recipe.filters.too_long_takes
    routes = {target: too_long_prompts(index, reasons)} if target else None
    candidates = build_candidates(index, reasons == USABLE, pools, recipe.seed, routes)
    validate_held_out(recipe.train.held_out_prompts, len(candidates))
    candidates, held = candidates.without(recipe.train.held_out_prompts, recipe.seed)
    candidates = dataclasses.replace(candidates, labels=read_labels(current.run_dir, recipe, candidates))
    filtered = filter_counts(index, reasons, pools)
    validate_common(candidates, filtered)
    candidates = with_fits(current, index, candidates)
    chosen = choose(recipe.mixes, candidates, recipe.seed)
    arms = Arms(index, candidates, chosen, {mix.name: mix for mix in recipe.mixes})
    return Chosen(arms, _held_out(index, held, recipe.seed), reasons, filtered)


def _held_out(index: TraceIndex, held: Candidates, seed: int) -> Arms:
    """Every pool's traces of the prompts that are held out. Asked without a mode's line: they are taught to nobody."""
    alone = {pool: SingleMix(name=pool, pool=pool) for pool in held.pools}
    return Arms(index, held, {name: choose_single(mix, held, seed) for name, mix in alone.items()}, alone)


def _say(current: Run, details: Mapping[str, Mapping[str, Any]], traces: Mapping[str, int]) -> None:
    left_out = {reason: count for reason, count in traces.items() if reason != "usable"}
    current.console.print(f"  {traces.get('usable', 0)} correct traces may be mixed, left out: {left_out or 'none'}")
    for name, entry in details.items():
        shares = ", ".join(f"{pool} {share:.0%}" for pool, share in entry["realised_tokens"].items())
        routed = f"; {entry['routed']} routed" if entry["routed"] else ""
        current.console.print(f"  {name}: {entry['rows']} rows, {entry['tokens']} tokens (by tokens: {shares}){routed}")
    current.console.print(f"  {equal_arms(details)}")


def filtered_index(current: Run, verdicts: tuple[str, ...] = VERDICTS) -> tuple[TraceIndex, NDArray[np.int8]]:
    """The index with lengths as students count them, and a reason code per trace; reads texts that are new."""
    recipe, run_dir = current.recipe, current.run_dir
    index = read_index(run_dir, *verdicts)
    reasons = reasons_without_text(index, pools_of(recipe.mixes))
    wanted = index.trace_keys[reasons == USABLE]
    if not len(wanted):
        return index, reasons
    folders = distinct_tokenizers([str(current.models[student.model].folder) for student in recipe.students])
    key = features_key(folders, recipe.student_chat)
    _scan_missing(current, key, missing_keys(run_dir, key, wanted), folders)
    features = load_features(run_dir, key)
    reasons = reasons_with_text(
        index,
        reasons,
        features,
        recipe.filters,
        max_length=recipe.train.max_length - mode_tokens(recipe, map(load_tokenizer, folders)),
        seed=recipe.seed,
    )
    return dataclasses.replace(index, tokens=with_student_tokens(index, reasons, features)), reasons


def mode_tokens(recipe: Recipe, tokenizers: Iterable["PreTrainedTokenizerBase"]) -> int:
    """Tokens that the longest line of any arm's modes adds to a row; 0 without modes, and then no tokenizer is loaded.

    All arms teach the same prompts, so every row must fit with the longest.
    """
    chats = [with_mode(recipe.student_chat, line) for mix in recipe.mixes for line in mix.modes.values()]
    if not chats:
        return 0

    def length(tokenizer: "PreTrainedTokenizerBase", chat: ChatFormat) -> int:
        return len(render_prompt(tokenizer, chat_messages("", chat)))

    return max(
        length(tokenizer, chat) - length(tokenizer, recipe.student_chat) for tokenizer in tokenizers for chat in chats
    )


def _scan_missing(current: Run, key: str, missing: NDArray[np.uint64], folders: list[str]) -> None:
    if not len(missing):
        return
    work = scan(
        current.run_dir,
        key,
        missing,
        folders=[pool.folder for pool in current.pools],
        chat=current.recipe.student_chat,
        tokenizers=[load_tokenizer(folder) for folder in folders],
    )
    with bars(current.console) as shown:
        for done in work:
            shown.update("traces read for the filters", done, len(missing), "")


def read_labels(run_dir: RunDir, recipe: Recipe, candidates: Candidates) -> dict[str, Labels]:
    """Level and subject of the common prompts, those that a policy asks for."""
    wanted = {name for mix in recipe.mixes if isinstance(mix, PoolWeights) for name in mix.stratify}
    wanted |= {"level" for mix in recipe.mixes if isinstance(mix, HardGetsLongMix) and mix.hardness == "level"}
    if not wanted:
        return {}
    keys = _prompt_column(run_dir, "prompt_id")
    by_key = np.argsort(keys)
    rows = by_key[np.searchsorted(keys[by_key], candidates.prompt_keys)]
    return {name: _labels(run_dir, name, rows) for name in sorted(wanted)}


def _labels(run_dir: RunDir, name: str, rows: NDArray[np.int64]) -> Labels:
    column = run_dir.read_table("prompts", "prompts.parquet", row_type=Prompt, columns=(name,)).column(0)
    encoded = column.combine_chunks().take(rows).dictionary_encode()
    names = sorted(encoded.dictionary.to_pylist())
    places = np.array([names.index(value) for value in encoded.dictionary.to_pylist()], dtype=np.int32)
    return Labels(places[encoded.indices.to_numpy()], tuple(names))


def _prompt_column(run_dir: RunDir, name: str) -> NDArray[np.uint64]:
    table = run_dir.read_table("prompts", "prompts.parquet", row_type=Prompt, columns=(name,))
    return keys_of(table.column(0), "prompt id")
