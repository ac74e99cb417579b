"""The report as tables for a terminal."""

from collections.abc import Sequence

from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from distill.core.whole_table import print_whole
from distill.report.data import EditRow, FitRow, MixRow, PoolRow, Report, StageRow
from distill.report.formats import (
    MISSING,
    bounds,
    duration,
    gap_name,
    number,
    p_value,
    percent,
    points,
    share_of,
    shown,
    usd,
)
from distill.report.level_table import choice_words, level_table
from distill.report.score_data import (
    AnsweringCurve,
    ArmScore,
    GapChange,
    LanguageScore,
    LevelScore,
    ModeChoice,
    ModelScore,
    QuantisedScore,
    QuestionResult,
    Regression,
    StepsChange,
    TraceCost,
)
from distill.report.searches import search_words


def print_report(report: Report, console: Console) -> None:
    """The question and its answer, the headline, accuracies with gains, pools, mixes, wall time and caveats; parts
    without rows are left out. Tables are as wide as they are."""
    question = [(report.question.candidates, candidate_table(report.question))] if report.question else []
    tables: list[tuple[Sequence[object], Table]] = [
        *question,
        (report.arms, arm_table(report)),
        (report.regressions, regression_table(report.regressions)),
        (report.answering, answering_table(report.answering)),
        (report.languages, language_table(report.languages)),
        (report.levels, levels_table(report.levels)),
        (report.mode_choices, choice_table(report.mode_choices)),
        (report.quantised, quantised_table(report.quantised)),
        (report.gap_changes, gap_change_table(report.gap_changes)),
        (report.steps_changes, steps_table(report.steps_changes)),
        (report.pools, pool_table(report.pools)),
        (report.edits, edit_table(report.edits)),
        (report.trace_costs, cost_table(report.trace_costs)),
        (report.mix_rows, mix_table(report.mix_rows)),
        (report.fits, fit_table(report.fits)),
        (report.stages, stage_table(report.stages)),
    ]
    notes = [Text(f"- {line}".replace("`", ""), style="dim") for line in report.caveats]
    searched = [Text(search_words(one).replace("`", "")) for one in report.searches]
    asked = [report.question.question, report.question.answer, ""] if report.question else []
    head = [Text(line.replace("`", ""), style="bold") for line in (*asked, report.headline)]
    console.print(Group(*head, *searched))
    for rows, table in tables:
        if rows:
            console.print()
            print_whole(table, console)
    console.print(Group(Text(), *notes))


def arm_table(report: Report) -> Table:
    """Models x benchmarks: accuracy with interval, and the paired gain over the untouched student."""
    table = _table("Accuracy [95 % interval]; gain over the untouched student, points", ["student", "mix"])
    for benchmark in report.benchmarks:
        table.add_column(benchmark, justify="right", no_wrap=True)
        table.add_column("gain", justify="right", no_wrap=True)
    by_themselves = [arm for arm in report.arms if arm.mix not in report.made_to_answer]
    arms = {(arm.student, arm.mix, arm.benchmark): arm for arm in by_themselves}
    for student, mix in dict.fromkeys((student, mix) for student, mix, _ in arms):
        line = [_score_and_gain(arms.get((student, mix, benchmark))) for benchmark in report.benchmarks]
        table.add_row(Text(student), Text(mix or "untouched"), *(text for pair in line for text in pair))
    return table


def answering_table(curves: Sequence[AnsweringCurve]) -> Table:
    """Students that are made to answer in other ways: accuracy and tokens, and what is shown against themselves."""
    right = ["points [95 %]", "against itself", "tokens", "truncated", "looping"]
    table = _table("Made to answer", ["student", "benchmark", "answers"], right)
    table.add_column("")
    for curve in curves:
        for one in curve.points:
            change = f"{points(one.change.difference, 1)} {bounds(one.change.interval, 1)}" if one.change else ""
            values = [
                f"{percent(one.accuracy, 1)} {bounds(one.interval, 1)}",
                change,
                number(one.mean_tokens),
                percent(one.truncated_share, 1),
                percent(one.looping_share, 1),
                one.verdict,
            ]
            way = f"{one.way} against {one.against}" if one.against else one.way
            table.add_row(*map(Text, (curve.label, curve.benchmark, way, *values)))
    return table


def regression_table(rows: Sequence[Regression]) -> Table:
    """What training broke: every arm less its untouched student, red where the interval lies below 0."""
    right = ["untouched", "trained", "difference [95 %]", "p, Holm"]
    table = _table("What training broke, points", ["student", "mix", "benchmark", "reading"], right)
    table.add_column("")
    for one in rows:
        change = f"{points(one.change.difference, 1)} {bounds(one.change.interval, 1)}"
        values = [percent(one.untouched, 1), percent(one.accuracy, 1)]
        table.add_row(
            *map(Text, (one.student, one.mix, one.benchmark, one.reading, *values)),
            Text(change, style="red" if one.is_below else ""),
            Text(p_value(one.change.p_adjusted)),
            Text(shown(one.change)),
        )
    return table


def language_table(scores: Sequence[LanguageScore]) -> Table:
    """Students by the language of the prompts: accuracy, and which share of the reasoning is in that language."""
    right = ["accuracy [95 %]", "reasoning in it [95 %]", "told", "answers in it", "reasoning mostly in"]
    table = _table("By the language of the prompts", ["student", "benchmark", "language"], right)
    for one in scores:
        own = "" if one.in_own is None else f"{percent(one.in_own)} {bounds(one.in_own_interval)}"
        values = [
            "" if one.accuracy is None else f"{percent(one.accuracy)} {bounds(one.interval)}",
            own or MISSING,
            f"{one.told} of {one.completions}",
            percent(one.answers_in_own),
            ", ".join(f"{name} {percent(share)}" for name, share in one.reasoning.items()) or MISSING,
        ]
        table.add_row(*map(Text, (one.label, one.benchmark, one.language, *values)))
    return table


def levels_table(scores: Sequence[LevelScore]) -> Table:
    """Level x language: students and levels down, benchmarks with their languages across."""
    found = level_table(scores)
    table = _table("Accuracy by level [95 %]; correct of completions", ["student", "mix", "level"], found.columns)
    for (student, mix, level), cells in found.rows:
        texts = [_level_cell(one) if one else MISSING for one in cells]
        table.add_row(*map(Text, (student, mix or "untouched", level or "all", *texts)))
    return table


def choice_table(choices: Sequence[ModeChoice]) -> Table:
    """Which modes a student chose that was left to choose, by level."""
    table = _table("Modes that students chose", ["student", "mix", "benchmark", "level", "chosen"], ["completions"])
    for one in choices:
        named = (one.student, one.mix, one.benchmark, one.level or "all", choice_words(one))
        table.add_row(*map(Text, (*named, number(one.completions))))
    return table


def _level_cell(one: LevelScore) -> str:
    unanswered = f", {one.no_answer} without answer" if one.no_answer else ""
    return f"{percent(one.accuracy)} {bounds(one.interval)}\n{one.correct} of {one.completions}{unanswered}"


def quantised_table(scores: Sequence[QuantisedScore]) -> Table:
    """Published GGUF files, each against the student's full weights."""
    right = ["points [95 %]", "full", "against full", "tokens"]
    table = _table("Quantised", ["model", "benchmark"], right)
    table.add_column("")
    for one in scores:
        values = [
            f"{percent(one.accuracy, 1)} {bounds(one.interval, 1)}",
            percent(one.full_accuracy, 1),
            f"{points(one.difference, 1)} {bounds(one.difference_interval, 1)}",
            number(one.mean_tokens),
            ("loss shown" if one.difference < 0 else "gain shown") if one.is_shown else "no loss shown",
        ]
        table.add_row(*map(Text, (one.model, one.benchmark, *values)))
    return table


def candidate_table(question: QuestionResult) -> Table:
    """Every arm of the question against each of those that it must beat."""
    asked = f"less than {question.margin_points:g} points below all" if question.margin_points else "better than all"
    right = ["minus", "points [95 %]", f"p, {asked}", "p, Holm"]
    table = _table(f"The question's arms on {question.benchmark}", ["student", "mix"], right)
    table.add_column("")
    for one in question.candidates:
        made = one.comparisons
        others = "\n".join(each.second.removeprefix(f"{one.student}@") for each in made)
        found = "\n".join(f"{points(each.difference, 1)} {bounds(each.interval, 1)}" for each in made)
        values = [one.student, one.arm, others, found, p_value(one.p_value), p_value(one.p_adjusted), one.verdict]
        table.add_row(*map(Text, values))
    return table


def model_table(scores: Sequence[ModelScore]) -> Table:
    """Every number of a model's scores, a line per benchmark."""
    right = ["accuracy [95 %]", "problems x each", "string match", "no answer", "truncated", "looping", "errors"]
    table = _table("Scores", ["model", "benchmark"], [*right, "tokens, mean / p95", "pass@k"])
    for one in scores:
        written = max(1, one.num_graded + one.errors)  # as in the run report: cut ones may be ungraded
        shares = [percent(count / written, 1) for count in (one.no_answer, one.truncated, one.looping)]
        values = [
            f"{percent(one.accuracy, 1)} {bounds(one.interval, 1)}",
            f"{one.num_prompts} x {one.num_samples}",
            percent(one.string_match, 1),
            *shares,
            number(one.errors),
            f"{number(one.mean_tokens)} / {number(one.p95_tokens)}",
            ", ".join(f"{rate.k}: {percent(rate.value, 1)}" for rate in one.pass_at),
        ]
        table.add_row(Text(one.model), Text(one.benchmark), *map(Text, values))
    return table


def _score_and_gain(arm: ArmScore | None) -> tuple[Text, Text]:
    if arm is None:
        return Text(MISSING, style="dim"), Text("")
    score = Text(f"{percent(arm.accuracy)} {bounds(arm.interval)}")
    if arm.gain is None:
        return score, Text("")
    gain = f"{points(arm.gain.difference)} {bounds(arm.gain.interval)}"
    colour = "green" if arm.gain.difference > 0 else "red"
    return score, Text(gain, style=colour if arm.gain.is_shown else "dim")


def gap_change_table(changes: Sequence[GapChange]) -> Table:
    """A gap before and after instruction tuning."""
    right = ["base's gap", "instruct's gap", "base - instruct"]
    table = _table("Base against instruct, points [95 %]", ["base", "instruct", "gap", "benchmark"], right)
    table.add_column("")
    for one in changes:
        names = (one.base.student, one.instruct.student, gap_name(one), one.base.benchmark)
        gaps = (f"{points(gap.difference)} {bounds(gap.interval)}" for gap in (one.base, one.instruct, one))
        table.add_row(*map(Text, (*names, *gaps, shown(one))))
    return table


def steps_table(changes: Sequence[StepsChange]) -> Table:
    """A blend minus a pure arm with unequal and with matched steps."""
    right = ["unequal", "matched", "unequal - matched"]
    table = _table("Unequal against matched steps, points [95 %]", ["student", "gap", "benchmark"], right)
    table.add_column("")
    for one in changes:
        pair = " - ".join(name.removeprefix(f"{one.student}@") for name in (one.unequal.first, one.unequal.second))
        values = (f"{points(each.difference)} {bounds(each.interval)}" for each in (one.unequal, one.matched, one))
        table.add_row(*map(Text, (one.student, pair, one.benchmark, *values, shown(one))))
    return table


def pool_table(pools: Sequence[PoolRow]) -> Table:
    """Traces of each teacher and how many are correct."""
    table = _table("Pools", ["pool", "style"], ["traces", "correct", "prompts solved", "tokens, mean", "truncated"])
    for row in pools:
        solved = f"{row.prompts_solved} of {row.prompts}"
        rate = f"{percent(row.solve_rate)} {bounds(row.interval)}"
        values = [number(row.traces), rate, solved, number(row.mean_tokens), number(row.truncated)]
        table.add_row(Text(row.pool), row.style, *map(Text, values))
    return table


def edit_table(edits: Sequence[EditRow]) -> Table:
    """What teachers that read made of what they read, and why edits are not used."""
    right = ["asked", "kept", "tokens, before", "after", "length", "wrong that end right", "right that end right"]
    table = _table("Edits", ["pool", "reads"], right)
    table.add_column("not used")
    for row in edits:
        values = [
            number(row.asked),
            number(row.kept),
            number(row.source_tokens),
            number(row.tokens),
            number(row.growth, 2),
            share_of(row.wrong_end_right, row.of_wrong, row.wrong_interval),
            share_of(row.correct_end_right, row.of_correct, row.correct_interval),
            ", ".join(f"{count:,} {reason}" for reason, count in row.drops.items()),
        ]
        table.add_row(Text(row.pool), Text(row.reads), *map(Text, values))
    return table


def cost_table(costs: Sequence[TraceCost]) -> Table:
    """What verified traces and common prompts cost, by teacher and level."""
    right = ["verified", "tokens each", "engine time", "USD", "common prompts", "tokens each", "USD"]
    table = _table("Cost of verified traces", ["pool", "level"], right)
    for one in costs:
        values = [
            number(one.verified),
            number(one.tokens_per_verified),
            duration(one.engine_s_per_verified),
            usd(one.usd_per_verified),
            number(one.common_prompts),
            number(one.tokens_per_common),
            usd(one.usd_per_common),
        ]
        table.add_row(Text(one.pool or "all"), Text(one.level or "all"), *map(Text, values))
    return table


def mix_table(mixes: Sequence[MixRow]) -> Table:
    """Requested and realised shares."""
    share = "pool: share requested / of rows / of tokens"
    table = _table("Mixes", ["mix"], ["rows", "tokens", "mean", "long, rows / tokens", share])
    for row in mixes:
        shares = [
            f"{one.pool}: {percent(one.requested)} / {percent(one.rows)} / {percent(one.tokens)}" for one in row.shares
        ]
        long = f"{percent(row.long_rows)} / {percent(row.long_tokens)}"
        values = [number(row.rows), number(row.tokens), number(row.mean_tokens), long, "\n".join(shares)]
        table.add_row(Text(row.mix), *map(Text, values))
    return table


def fit_table(fits: Sequence[FitRow]) -> Table:
    """How well every pool's traces fit the untouched students; medians over traces."""
    right = ["traces", "surprisal, nats", "rank / surprisal", "rank 1", "rank 2-3", "rank > 3"]
    table = _table("Fit of the traces to the untouched students", ["student", "pool"], right)
    for row in fits:
        middle = {name: spread.median for name, spread in row.scores.items()}
        shares = [percent(middle[name], 1) for name in ("unshifted", "marginal", "shifted")]
        values = [number(row.traces), number(middle["mean_nll"], 3), number(middle["rsr"], 2), *shares]
        table.add_row(Text(row.student), Text(row.pool), *map(Text, values))
    return table


def stage_table(stages: Sequence[StageRow]) -> Table:
    """Wall time per stage."""
    table = _table("Stages", ["stage"], ["rows in", "rows out", "dropped", "wall time"])
    for row in stages:
        lost = sum(row.drops.values())
        values = [number(row.rows_in), number(row.rows_out), number(lost), duration(row.wall_s)]
        table.add_row(row.stage, *map(Text, values))
    table.add_row("total", "", "", "", duration(sum(row.wall_s for row in stages)), style="bold")
    return table


def _table(title: str, left: Sequence[str], right: Sequence[str] = ()) -> Table:
    table = Table(title=title, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    for name in left:
        table.add_column(name, no_wrap=True)
    for name in right:
        table.add_column(name, justify="right")
    return table
