"""The forecast as tables: stages on the given machines, totals on other kinds of GPU, and the assumptions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rich.console import Console
from rich.table import Table

from cluster.gpus import GPU_KINDS, GpuKind
from cluster.limits import usable_memory_bytes
from cluster.placement import Resources
from cluster.units import GIB
from distill.config.objectives import IMITATE
from distill.config.recipe import Recipe
from distill.config.teachers import AskedTeacher
from distill.core.errors import ConfigError
from distill.core.run_dir import RunDir
from distill.core.whole_table import print_whole
from distill.ops.forecast.inputs import forecast_recipe
from distill.ops.forecast.scaling_limits import NEAR_SHARE, ScalingLimit, scaling_limits
from distill.ops.forecast.stage_times import Forecast
from distill.ops.forecast.workload import Assumption, PoolWork
from distill.train.machines import Machines

NOT_KNOWN = "?"
NEEDS_PROMPTS = "the number of prompts is unknown until they are read: set forecast.num_prompts"
NEEDS_KIND = "hours are unknown: name the kind of GPU, for example --cluster {nodes}x{gpus}xh100"
NEEDS_RUN = "hours are unknown: no run was measured on a CPU like this; --measured RUN takes the rates of a run"
ALL_SEEDS = "arms: tokens and hours of all seeds; own answers as long as forecast.answer_tokens, engine starts included"
NO_SEARCH = "the weight search is not part of the forecast"


def show_forecast(
    recipe: Recipe, run_dir: RunDir, machines: Machines, console: Console, *, measured: RunDir | None = None
) -> None:
    """Print the forecast.

    Raises:
        ConfigError: engines that can never be placed.
    """
    found = forecast_recipe(recipe, run_dir, machines, measured=measured)
    console.print()
    if found is None:
        console.print(f"forecast: {NEEDS_PROMPTS}")
        return
    print_whole(_stage_table(found), console)
    for line in notes(found):
        console.print(line, markup=False)
    if any(one.objective != IMITATE.kind for one in found.arms):
        console.print()
        print_whole(_arm_table(found), console)
        console.print(ALL_SEEDS)
    if recipe.search:
        console.print(NO_SEARCH)
    if machines.device == "gpu":
        console.print()
        print_whole(_kind_table(by_kind(recipe, run_dir, machines, measured=measured)), console)
    for limit in near_limits(found):
        console.print(
            f"near its limit: {limit.name}, {limit.used:,.1f} of {limit.most:,.0f} -> {limit.remedy}", markup=False
        )


def _stage_table(found: Forecast) -> Table:
    table = _table(
        "forecast", "hours", "GPU hours" if found.num_gpus else "core hours", "tokens", "cost, USD", "bottleneck"
    )
    for stage in found.stages:
        table.add_row(
            stage.stage,
            format_hours(stage.seconds),
            format_hours(stage.device_s if stage.seconds is not None else None),
            f"{stage.tokens:.2e}" if stage.tokens else "",
            format_usd(found.usd(stage.seconds)),
            stage.note,
        )
    hours, device_hours = format_hours(found.seconds), format_hours(found.device_s)
    table.add_row("total", hours, device_hours, "", format_usd(found.usd(found.seconds)), "")
    return table


def _arm_table(found: Forecast) -> Table:
    hours = "GPU hours" if found.num_gpus else "core hours"
    table = _table("arm", "steps", "tokens trained", "written by itself", "scored", hours, "objective")
    for one in found.arms:
        table.add_row(
            f"{one.student}@{one.arm}",
            NOT_KNOWN if one.steps is None else f"{one.steps:,}",
            *(f"{count:.2e}" if count else "" for count in (one.trained, one.written, one.scored)),
            format_hours(one.device_s),
            one.objective,
        )
    return table


def _kind_table(rows: Mapping[str, Forecast | str]) -> Table:
    table = _table("on", "hours", "GPU hours", "cost, USD", "price of a GPU hour, USD")
    for name, found in rows.items():
        if isinstance(found, str):
            table.add_row(name, NOT_KNOWN, NOT_KNOWN, NOT_KNOWN, found)
            continue
        kind = GPU_KINDS[name]
        is_own = found.usd_per_gpu_hour is not None and found.usd_per_gpu_hour != kind.usd_per_hour
        price = f"{found.usd_per_gpu_hour}" if found.usd_per_gpu_hour else "unknown"
        source = "(recipe)" if is_own else f"({kind.price_source})" if kind.price_source else ""
        table.add_row(
            name,
            format_hours(found.seconds),
            format_hours(found.device_s),
            format_usd(found.usd(found.seconds)),
            f"{price} {source}",
        )
    return table


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, name in enumerate(columns):
        is_text = number in (0, len(columns) - 1)
        table.add_column(name, justify="left" if is_text else "right", no_wrap=True)
    return table


def by_kind(
    recipe: Recipe, run_dir: RunDir, machines: Machines, *, measured: RunDir | None = None
) -> dict[str, Forecast | str]:
    """The forecast on as many GPUs of every kind; for a kind that the recipe does not fit, why."""
    found: dict[str, Forecast | str] = {}
    for name, kind in GPU_KINDS.items():
        try:
            one = forecast_recipe(recipe, run_dir, of_kind(machines, kind), measured=measured)
        except ConfigError as error:
            found[name] = f"does not fit: {error.problems[0].what}"
            continue
        if one is not None:
            found[name] = one
    return found


def of_kind(machines: Machines, kind: GpuKind) -> Machines:
    """The same nodes with GPUs of another kind."""
    return Machines(machines.nodes, "gpu", kind.memory_gib, kind)


def notes(found: Forecast) -> Iterator[str]:
    """The bottleneck, and the assumptions."""
    yield f"bottleneck: {found.bottleneck}"
    if found.seconds is None and found.machines.device == "cpu":
        yield NEEDS_RUN
    elif found.seconds is None and found.machines.gpu is None:
        nodes = found.machines.nodes
        yield NEEDS_KIND.format(nodes=len(nodes), gpus=f"{nodes[0].gpus:g}")
    if found.api_usd:
        yield f"endpoints cost another {found.api_usd:,.2f} USD"
    if requests := [words for pool in found.work.pools if (words := asked_of(pool))]:
        yield f"requests: {'; '.join(requests)}"
    if costs := [words for pool in found.work.pools if (words := verified_cost(pool, found.assumptions))]:
        yield f"per verified trace: {'; '.join(costs)}"
    if found.usd_per_gpu_hour is not None:
        yield f"cost: all {found.num_gpus:g} GPUs for all hours, at {found.usd_per_gpu_hour} USD per GPU hour"
    for source, label in (("recipe", "set in the recipe"), ("measured", "measured"), ("assumed", "assumed")):
        listed = ", ".join(f"{one.name} {one.value:,.6g}" for one in found.assumptions if one.source == source)
        if listed:
            yield f"{label}: {listed}"
    if found.calibration.source:
        yield f"times are calibrated on {found.calibration.source}"
    elif found.seconds is not None:
        yield "times are from data sheets and assumed utilisations; --measured RUN calibrates them"


def asked_of(pool: PoolWork) -> str:
    """Requests of a teacher and the tokens that it writes and reads; empty where nothing is asked."""
    if not isinstance(pool.teacher, AskedTeacher):
        return ""
    reads = f", reads {pool.read_tokens:,.0f} tokens of {pool.teacher.reads} in each" if pool.teacher.reads else ""
    written = pool.traces * pool.tokens
    return f"{pool.teacher.name} {pool.traces:,.0f} with {written:,.0f} tokens{reads}"


def verified_cost(pool: PoolWork, assumptions: Sequence[Assumption]) -> str:
    """Tokens, and USD where a price is set, of a teacher's correct trace with the wrong ones that it takes; empty where
    its solve rate is only assumed, or nothing is asked."""
    known = {one.name: one.value for one in assumptions if one.source != "assumed"}
    rate = known.get(f"solve_rate.{pool.teacher.name}")
    if not rate or not isinstance(pool.teacher, AskedTeacher):
        return ""
    tokens = pool.tokens / rate
    price = pool.teacher.usd_per_million_tokens
    usd = f", {tokens / 1e6 * price:.2g} USD" if price else ""
    return f"{pool.teacher.name} {tokens:,.0f} tokens{usd}"


def all_limits(found: Forecast, driver_gib: float | None = None) -> list[ScalingLimit]:
    """All scaling limits with a run's use of them, the nearest first."""
    generate = next(stage for stage in found.stages if stage.stage == "generate")
    work, memory = found.work, driver_gib or _driver_gib(found.machines.nodes)
    return scaling_limits(
        prompts=work.prompts,
        traces=work.traces,
        engines=generate.engines,
        write_s=generate.seconds,
        driver_gib=memory,
    )


def near_limits(found: Forecast, driver_gib: float | None = None) -> list[ScalingLimit]:
    """The scaling limits that a run comes near to."""
    return [limit for limit in all_limits(found, driver_gib) if limit.share > NEAR_SHARE]


def _driver_gib(nodes: tuple[Resources, ...]) -> float:
    """Memory of the first node, or of this machine where that is unknown."""
    return nodes[0].memory_gib if nodes and nodes[0].memory_gib else usable_memory_bytes() / GIB


def format_hours(seconds: float | None) -> str:
    """Seconds as hours, with two to four digits after the point where they are few."""
    if seconds is None:
        return NOT_KNOWN
    value = seconds / 3600
    return f"{value:,.0f}" if value >= 100 else f"{value:.2f}" if value >= 0.1 else f"{value:.4f}"


def format_usd(usd: float | None) -> str:
    """Whole dollars, or cents below a hundred."""
    return NOT_KNOWN if usd is None else f"{usd:,.0f}" if usd >= 100 else f"{usd:.2f}"
