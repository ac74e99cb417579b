"""`distill audit`: all traces of a prompt with their verdicts, and which arm took which one and why; or the traces of
an arm or a student.

Rows are found by column statistics: a prompt among a million traces is printed in under a second.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow.compute as pc
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table
from rich.text import Text

from distill.config.recipe import Recipe
from distill.core.errors import InputError
from distill.core.manifest import Manifest
from distill.core.run_dir import PROMPTS, VERDICTS, RunDir, StageName, Training, arm_examples, dropped_rows, pool_shards
from distill.core.schema import Example, IndexRow, Prompt, arrow_schema
from distill.mix.trace_fates import find_traces

SHOWN_TRACES = 10
"""Traces of an arm that are listed; the file that is named with them holds all."""


@dataclass(frozen=True)
class AuditedTrace:
    """One trace of a prompt."""

    row: Mapping[str, Any]
    """Its row in the index of verdicts."""
    fate: str
    """Whether the mix selected it, or why not."""
    taken_by: tuple[str, ...]
    """For each arm that took it, why."""
    completion: str | None
    """None where its shard no longer exists."""


@dataclass(frozen=True)
class AuditedPrompt:
    """All that a run knows of one prompt."""

    prompt: Mapping[str, Any]
    traces: tuple[AuditedTrace, ...]
    left_out: str
    """Why no arm teaches it; empty where they do."""


def audit(run_dir: RunDir, recipe: Recipe, subject: str, console: Console) -> None:
    """Print what is known of a prompt, an arm or a student or, without a subject, of the whole mix.

    Raises:
        InputError: the subject is none of these, or the mix stage is not done yet.
    """
    manifest = run_dir.read_manifest(StageName.MIX)
    arms = [mix.name for mix in recipe.mixes]
    if manifest is None:
        raise InputError(f"{run_dir.uri}: the mix stage is not done yet -> finish the run with distill run first")
    if not subject:
        show_accounting(manifest, console)
    elif subject in arms:
        show_arm(run_dir, manifest, subject, console)
    elif "@" in subject:
        show_student(run_dir, manifest, recipe, subject, console)
    else:
        show_prompt(audit_prompt(run_dir, manifest, arms, subject), console)


# Prompts


def audit_prompt(run_dir: RunDir, manifest: Manifest, arms: Sequence[str], prompt_id: str) -> AuditedPrompt:
    """Collect what the run's files hold on a prompt.

    Raises:
        InputError: the run has no such prompt.
    """
    prompts = rows_of_prompt(run_dir, PROMPTS, Prompt, prompt_id)
    if not prompts:
        raise InputError(
            f"{run_dir.uri} has no prompt and no mix {prompt_id!r} -> mixes: {', '.join(arms)}; students: NAME@MIX;"
            " prompt ids are the 16 hex digits in prompts/prompts.parquet"
        )
    rows = rows_of_prompt(run_dir, VERDICTS, IndexRow, prompt_id)
    taken = [(arm, row) for arm in arms for row in arm_rows(run_dir, arm, prompt_id)]
    fates = find_traces(run_dir, [row["trace_id"] for row in rows])
    texts = read_texts(run_dir, {name: fate["shard"] for name, fate in fates.items()})
    traces = tuple(
        AuditedTrace(
            row,
            fates[row["trace_id"]]["fate"] if row["trace_id"] in fates else "not in the mix's records",
            tuple(why(manifest, arm, example) for arm, example in taken if example["trace_id"] == row["trace_id"]),
            texts.get(row["trace_id"]),
        )
        for row in sorted(rows, key=lambda row: (row["pool"], row["sample_index"]))
    )
    return AuditedPrompt(prompts[0], traces, left_out(run_dir, prompt_id))


def left_out(run_dir: RunDir, prompt_id: str) -> str:
    """Why no arm teaches the prompt; empty where they do."""
    path, matches = run_dir.path(*dropped_rows(StageName.MIX)), [("where", "=", prompt_id)]
    rows = pq.read_table(path, filesystem=run_dir.fs, filters=matches).to_pylist()
    return "; ".join(
        row["reason"] + (f" (no usable trace of {row['detail']})" if row["detail"] else "") for row in rows
    )


def rows_of_prompt(run_dir: RunDir, parts: Sequence[str], row_type: type, prompt_id: str) -> list[dict[str, Any]]:
    """A file's rows of one prompt. Of row groups without the prompt, only the identities are read."""
    rows: list[dict[str, Any]] = []
    for shard in run_dir.shards(*parts):
        with run_dir.fs.open(shard) as source:
            file = pq.ParquetFile(source)
            for group in range(file.num_row_groups):
                matches = pc.equal(file.read_row_group(group, columns=["prompt_id"]).column(0), prompt_id)
                if pc.any(matches).as_py():
                    rows += file.read_row_group(group, columns=arrow_schema(row_type).names).filter(matches).to_pylist()
    return rows


def arm_rows(run_dir: RunDir, arm: str, prompt_id: str) -> list[dict[str, Any]]:
    """The rows of an arm for a prompt, without the texts."""
    columns = [name for name in arrow_schema(Example).names if name != "messages"]
    table = run_dir.read_table(*arm_examples(arm), row_type=Example, columns=columns)
    return list(table.filter(pc.field("prompt_id") == prompt_id).to_pylist())


def read_texts(run_dir: RunDir, shard_of: Mapping[str, str]) -> dict[str, str]:
    """Trace id -> completion; opens each shard once."""
    texts: dict[str, str] = {}
    for shard in sorted(set(shard_of.values()) - {""}):
        names = [name for name, found_in in shard_of.items() if found_in == shard]
        path = run_dir.path(*pool_shards(shard))
        if run_dir.fs.exists(path):
            columns = ["trace_id", "completion"]
            table = pq.read_table(path, filesystem=run_dir.fs, columns=columns, filters=[("trace_id", "in", names)])
            texts |= dict(zip(table.column(0).to_pylist(), table.column(1).to_pylist(), strict=True))
    return texts


def why(manifest: Manifest, arm: str, row: Mapping[str, Any]) -> str:
    """Why an arm took this trace for its prompt: policy, counts, and the prompt's rank in the order that was cut."""
    entry = manifest.details["mixes"][arm]
    policy, rank = entry["policy"], row["place"] + 1
    if policy in ("single", "both"):
        reason = "all prompts take" if policy == "single" else "takes a trace of every pool, so also one of"
        return f"{arm}: {reason} {row['pool']}"
    if policy == "pairs":
        of = f"{entry['pairs']} of {entry['pairs'] + sum(entry['without_pair'].values())} prompts have a pair"
        return f"{arm}: {row['side']} side of the prompt's pair, written by {row['pool']} ({of})"
    if policy == "student_fit":
        return f"{arm}: {row['pool']}'s trace has the best score of this prompt's traces"
    counts = ", ".join(f"{pool} {count}" for pool, count in entry["counts"].items())
    order = "hardest first" if policy == "hard_gets_long" else "in the seeded order"
    phase = f", taught in phase {row['phase'] + 1}" if policy == "curriculum" else ""
    return f"{arm}: {policy}, prompt {rank} of {entry['prompts']} {order} (realised: {counts}), so {row['pool']}{phase}"


def show_prompt(found: AuditedPrompt, console: Console) -> None:
    """Print all that is known of a prompt. Texts from models are never interpreted as markup."""
    prompt = found.prompt
    console.print(f"prompt {prompt['prompt_id']} from {prompt['source']}, answer {prompt['reference']}", markup=False)
    console.print(Text(prompt["problem"], style="bold"))
    if found.left_out:
        console.print(f"in no arm: {found.left_out}", markup=False)
    for trace in found.traces:
        row = trace.row
        console.print()
        console.print(
            Text(f"{row['pool']} #{row['sample_index']}  {row['verdict']} by {row['rule']}", style="bold cyan")
        )
        lines = [
            f"trace {row['trace_id']}, {row['completion_tokens']} tokens, ended by {row['finish_reason']}",
            f"in the mix: {trace.fate}",
            *trace.taken_by,
        ]
        console.print(Text("\n".join(f"  {line}" for line in lines)))
        console.print(Text(trace.completion if trace.completion is not None else "(its text no longer exists)"))


# Arms and students


def show_accounting(manifest: Manifest, console: Console) -> None:
    """Print the whole mix: traces by reason, arms, prompts that are left out."""
    traces = manifest.details["traces"]
    table = Table("correct traces", *traces, box=None, padding=(0, 2, 0, 0))
    for reason in dict.fromkeys(reason for counts in traces.values() for reason in counts):
        table.add_row(reason, *(f"{counts.get(reason, 0):,}" for counts in traces.values()))
    console.print(table)
    lost = ", ".join(f"{count:,} {reason}" for reason, count in manifest.drops.items())
    console.print(f"\nprompts: {manifest.rows_in:,}, taught {manifest.rows_out:,}; left out: {lost or 'none'}")
    console.print(f"{manifest.details['arms']}\n")
    for name in manifest.details["mixes"]:
        console.print(Text(arm_line(manifest, name)))


def arm_line(manifest: Manifest, name: str) -> str:
    """An arm in a line: policy, rows, tokens, requested and realised shares."""
    entry = manifest.details["mixes"][name]
    shares = ", ".join(
        f"{pool} {_percent(entry['requested'].get(pool))} requested, {share:.1%} of rows,"
        f" {entry['realised_tokens'][pool]:.1%} of tokens"
        for pool, share in entry["realised_rows"].items()
    )
    return f"{name}: {entry['policy']}, {entry['rows']:,} rows, {entry['tokens']:,} tokens; {shares}"


def _percent(share: float | None) -> str:
    return "no share" if share is None else f"{share:.1%}"


def show_arm(run_dir: RunDir, manifest: Manifest, arm: str, console: Console) -> None:
    """Print an arm and its first traces."""
    console.print(Text(arm_line(manifest, arm)))
    console.print(f"digest {manifest.details['mixes'][arm]['digest']}")
    path = run_dir.address_of(*arm_examples(arm))
    console.print(f"all traces: {path} (columns trace_id, prompt_id, pool, place)\n", markup=False, soft_wrap=True)
    table = Table("trace", "prompt", "pool", "style", "phase", "rank", box=None, padding=(0, 2, 0, 0))
    for row in first_rows(run_dir, arm):
        table.add_row(*(str(row[name]) for name in ("trace_id", "prompt_id", "pool", "style", "phase", "place")))
    console.print(table)


def first_rows(run_dir: RunDir, arm: str) -> Iterator[dict[str, Any]]:
    """The first rows of an arm's file, without the texts."""
    columns = [name for name in arrow_schema(Example).names if name != "messages"]
    for shard in run_dir.shards(*arm_examples(arm)):
        with run_dir.fs.open(shard) as source:
            batches = pq.ParquetFile(source).iter_batches(batch_size=SHOWN_TRACES, columns=columns)
            yield from next(batches).to_pylist()


def show_student(run_dir: RunDir, manifest: Manifest, recipe: Recipe, cell: str, console: Console) -> None:
    """Print a trained student: its arm, and the rows that training dropped.

    Raises:
        InputError: the run has trained no such student.
    """
    trained = run_dir.read_manifest(*Training(cell).folder)
    arm = cell.split("@")[1]
    if trained is None or arm not in {mix.name for mix in recipe.mixes}:
        names = sorted(path.rsplit("/", 1)[1] for path in run_dir.matching(*Training("*@*").folder))
        raise InputError(f"{run_dir.uri} has no trained student {cell!r} -> it has: {', '.join(names) or 'none yet'}")
    dropped = ", ".join(f"{count} {reason}" for reason, count in trained.drops.items())
    console.print(
        Text(f"{cell} was trained on {trained.rows_out:,} rows of {arm}; dropped in training: {dropped or 'none'}")
    )
    show_arm(run_dir, manifest, arm, console)
