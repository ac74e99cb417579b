"""Scale, on paper and simulated: the forecast of `distill plan` against real runs, a million prompts past a stub
engine, and what both say of 1 to 1,000 GPUs.

    python -m tests.benchmarks.scale [--part runs|rows|table|driver] [--rows N] [--runs DIR] [--calibrate NAME]

* runs: quickstarts of different sizes on this machine (those that are finished in DIR are not run again; half an hour
  for all three). Rates are learnt from one, the others' stages forecast: forecast over measured; goal 0.8 to 1.2.
* rows: N (default 1,000,000) and N / 10 prompts through the generate and verify stages on three local Ray nodes with a
  stub engine of 2 ms per row (`tests.benchmarks.scale_rows`); what grows with the rows, and what a row costs.
* driver: filters of the mix and counting, N traces, beside the way of before (`tests.benchmarks.scale_driver`).
* table: hours, cost and bottleneck of `one-gpu-1.5b`, told to use what there is, on nodes of eight H100; and the limits
  of the design that come near. Forecast, not measured. Public sizes of the models, no hub needed.

The last line is a JSON object.
"""

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from distill.config.load import find_recipe, load_recipe
from distill.core.run_dir import RunDir
from distill.ops.forecast import inputs as forecast_inputs
from distill.ops.forecast.calibration import measured_nodes, run_machines
from distill.ops.forecast.inputs import forecast_recipe
from distill.ops.forecast.stage_times import Forecast
from distill.ops.forecast.tables import all_limits, format_hours, format_usd
from distill.train.machines import described_machines, machines_here
from tests.benchmarks.scale_driver import compare

RUNS = {
    "small": ("prompts.num_prompts=64", "benchmarks.small-sums.num_prompts=50"),
    "middle": ("prompts.num_prompts=128", "benchmarks.small-sums.num_prompts=150"),
    "large": (
        "prompts.num_prompts=256",
        "prompts.sources.0.size=1200",
        "benchmarks.small-sums.num_prompts=100",
        "train.num_epochs=1",
    ),
}
GPUS = (1, 8, 64, 256, 1000)
PROMPTS = (10**3, 10**4, 10**5, 10**6, 10**7)
GPUS_PER_NODE = 8
DRIVER_GIB = 32.0
"""Memory of the head node of `ray_cluster.yaml`."""


# Real runs


def real_runs(folder: Path) -> None:
    """Run what is not finished yet; output goes to a log beside the runs."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, overrides in RUNS.items():
        if RunDir(str(folder / name)).read_manifest("report") is None:
            command = [
                sys.executable,
                "-m",
                "distill",
                "run",
                "quickstart",
                "--run-dir",
                str(folder / name),
                *overrides,
            ]
            with (folder / f"{name}.log").open("w") as log:
                subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=True)


def forecast_runs(folder: Path, calibrate: str) -> dict[str, dict[str, float]]:
    """Run -> stage -> forecast over measured, with the rates of one of them."""
    source = RunDir(str(folder / calibrate))
    path = find_recipe("quickstart")
    machine = run_machines(source)
    assert machine is not None, f"{source.uri} says of no stage what it ran on"
    found = {}
    for name, overrides in RUNS.items():
        recipe, run_dir = load_recipe(path, overrides), RunDir(str(folder / name))
        machines = measured_nodes(machine, machines_here(recipe))
        forecast = forecast_recipe(recipe, RunDir(str(folder / "none")), machines, measured=source)
        assert forecast is not None
        found[name] = compared(forecast, run_dir)
    return found


def compared(forecast: Forecast, run_dir: RunDir) -> dict[str, float]:
    """Forecast over measured for every stage of more than 10 seconds, and for the whole run."""
    walls = {
        stage.stage: manifest.wall_s for stage in forecast.stages if (manifest := run_dir.read_manifest(stage.stage))
    }
    told = {stage.stage: stage.seconds or 0.0 for stage in forecast.stages}
    ratios = {stage: told[stage] / wall for stage, wall in walls.items() if wall > 10}
    return ratios | {"together": sum(told.values()) / sum(walls.values())}


def show_runs(found: dict[str, dict[str, float]], calibrate: str) -> dict[str, Any]:
    """A line per run; the JSON part."""
    print(f"forecast / measured, rates of {calibrate}")
    for name, ratios in found.items():
        print(f"  {name:8} " + "  ".join(f"{stage} {ratio:.3f}" for stage, ratio in ratios.items()))
    others = [ratios["together"] for name, ratios in found.items() if name != calibrate]
    return {"forecast_over_measured": {name: rounded(ratios) for name, ratios in found.items()}, "worst": worst(others)}


def worst(ratios: list[float]) -> float:
    """The ratio that is furthest from one."""
    return round(max(ratios, key=lambda ratio: abs(ratio - 1.0)), 3)


def rounded(ratios: dict[str, float]) -> dict[str, float]:
    """For JSON."""
    return {name: round(ratio, 3) for name, ratio in ratios.items()}


# A million rows


def rows_at(num_rows: int, row_ms: float) -> dict[str, Any]:
    """One size, in a process of its own: what it used before is no part of what it uses."""
    command = [sys.executable, "-m", "tests.benchmarks.scale_rows", "--rows", str(num_rows), "--row-ms", str(row_ms)]
    result = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(result.stdout.splitlines()[-1]))


def show_rows(few: dict[str, Any], many: dict[str, Any]) -> dict[str, Any]:
    """What grows from a tenth of the rows to all; the JSON part."""
    more = many["rows"] - few["rows"]
    streaming = many["driver_mb"]["written"] - many["driver_mb"]["quarter"]
    growth = {
        # While rows are asked and written, from the first quarter of that time to its end; then all in all.
        "driver_streaming": 1e6 * streaming / (0.75 * many["rows"]),
        "driver": 1e6 * (many["driver_mb"]["peak"] - few["driver_mb"]["peak"]) / more,
        "driver_verify": 1e6 * (many["verify_driver_mb"] - few["verify_driver_mb"]) / more,
        "store": 1e6 * (many["store_mb"]["peak"] - few["store_mb"]["peak"]) / more,
        "gcs": 1e6 * (many["gcs_mb"] - few["gcs_mb"]) / more,
    }
    speed = many["rows_per_s"] / few["rows_per_s"]
    sizes = f"{many['rows']:,} rows over those of {few['rows']:,}"
    print(f"{speed:6.3f}  rows/s of {sizes} ({many['rows_per_s']:,.0f} rows/s)")
    for one in (few, many):
        print(f"  {one}")
    print("  growth, bytes per row: " + ", ".join(f"{name} {value:.0f}" for name, value in growth.items()))
    return {"rows_speed_ratio": round(speed, 3), "bytes_per_row": rounded(growth), "few": few, "many": many}


# On paper


def overrides(gpus: int, prompts: int) -> list[str]:
    """`one-gpu-1.5b`, told to use what there is: more engines, wider cells."""
    engines = min(gpus, 10)
    workers = next(count for count in (16, 8, 4, 2, 1) if count * 9 <= max(9, gpus))
    return [
        f"prompts.num_prompts={prompts}",
        f"forecast.num_prompts={prompts}",
        f"teachers.long.replicas=[1,{gpus}]",
        f"teachers.short.replicas=[1,{gpus}]",
        f"students.qwen2-5-1-5b.num_workers={workers}",
        "students.qwen2-5-1-5b.zero_stage=1" if workers > 1 else "students.qwen2-5-1-5b.zero_stage=0",
        f"serve.max_engines={engines}",
    ]


def on_paper(gpus: int, prompts: int) -> Forecast:
    """The forecast on nodes of eight."""
    recipe = load_recipe(find_recipe("one-gpu-1.5b"), overrides(gpus, prompts))
    nodes, each = (gpus // GPUS_PER_NODE, GPUS_PER_NODE) if gpus >= GPUS_PER_NODE else (1, gpus)
    found = forecast_recipe(recipe, RunDir("/nowhere"), described_machines(f"{nodes}x{each}xh100"))
    assert found is not None
    return found


def show_table() -> dict[str, Any]:
    """The table and the limits; the JSON part."""
    from tests.fixtures.model_shapes import shape

    forecast_inputs.planned_shape = shape
    table: dict[str, Any] = {}
    for prompts in PROMPTS:
        for gpus in GPUS:
            found = on_paper(gpus, prompts)
            used = sum(stage.device_s for stage in found.stages) / max(1e-9, (found.seconds or 0.0) * gpus)
            cost = format_usd(found.usd(found.seconds))
            told = f"{format_hours(found.seconds):>9} h {cost:>10} USD  busy {used:4.0%}"
            print(f"{prompts:>10,} prompts {gpus:>5} GPUs {told}  {found.bottleneck}")
            table[f"{prompts}x{gpus}"] = round((found.seconds or 0.0) / 3600, 3)
        show_limits(on_paper(GPUS[-1], prompts))
    return {"hours": table}


def show_limits(found: Forecast) -> None:
    """How near the design comes to what stops it, on most GPUs."""
    print(
        "           limits on most GPUs: "
        + ", ".join(f"{limit.name} {limit.share:.0%}" for limit in all_limits(found, DRIVER_GIB))
    )


def main() -> None:
    """Measure, show, and print one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", choices=("runs", "rows", "table", "driver"), help="only this part (default: all)")
    parser.add_argument("--rows", type=int, default=1_000_000, metavar="N")
    parser.add_argument("--row-ms", type=float, default=2.0, help="what the stub engine takes for a row")
    parser.add_argument("--runs", type=Path, default=Path("runs/scale"), metavar="DIR")
    parser.add_argument("--calibrate", choices=tuple(RUNS), default="middle", help="the run that rates are learnt from")
    arguments = parser.parse_args()
    told: dict[str, Any] = {}
    if arguments.part in (None, "runs"):
        real_runs(arguments.runs)
        told |= show_runs(forecast_runs(arguments.runs, arguments.calibrate), arguments.calibrate)
    if arguments.part in (None, "rows"):
        few = rows_at(max(1000, arguments.rows // 10), arguments.row_ms)
        told |= show_rows(few, rows_at(arguments.rows, arguments.row_ms))
    if arguments.part in (None, "driver"):
        told |= compare(arguments.rows)
    if arguments.part in (None, "table"):
        told |= show_table()
    print(json.dumps(told))


if __name__ == "__main__":
    main()
