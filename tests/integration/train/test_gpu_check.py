"""The script for GPUs runs to its end on a CPU, with a model of two layers."""

import json
import subprocess
import sys

from tests.fixtures.paths import ROOT
from tests.gpu.check import measure, ratios, summary


def test_the_script_for_gpus_measures_everything_and_ends_with_its_figures() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.gpu.check", "--toy"], cwd=ROOT, capture_output=True, text=True, timeout=400
    )
    assert done.returncode == 0, done.stderr[-2000:]
    figures = json.loads(done.stdout.splitlines()[-1])
    assert figures["errors"] == {} and figures["skipped"] == []
    found = figures["found"]
    packing = {name: value for name, value in found.items() if name.startswith("packing/")}
    assert len(packing) == 4
    assert all(value["attention"] and value["gradient"] < 1e-4 for value in packing.values())
    assert found["resume"] == 0.0
    assert found["merge"]["fp32"] < 1e-5
    rates = [value for name, value in found.items() if name.startswith("ours/")]
    assert len(rates) == 2 and all(value["tokens_per_s"] > 0 for value in rates)


def test_ours_is_compared_with_the_quickest_settings_of_trl_at_the_same_case() -> None:
    found = {
        "packing/qwen3": {"loss": 0.0},
        "resume": 0.0,
        "ours/1.5B/full/4096": {"tokens_per_s": 300.0, "mfu": 0.5},
        "ours/1.5B/lora/4096": {"error": "RuntimeError: out of memory"},
        "trl/1.5B/full/4096/one": {"tokens_per_s": 200.0},
        "trl/1.5B/full/4096/padded": {"tokens_per_s": 150.0},
        "trl/1.5B/lora/4096/one": {"tokens_per_s": 200.0},
    }
    assert ratios(found) == {"1.5B/full/4096": 1.5}
    told = summary(found, ["kernels/compile"], 1.0)
    assert next(iter(told)) == "ratio_vs_trl"
    assert told["mfu"] == {"ours/1.5B/full/4096": 0.5}
    assert told["errors"] == {"ours/1.5B/lora/4096": "RuntimeError: out of memory"}


def test_a_measurement_that_fails_leaves_its_error_and_the_others_go_on() -> None:
    def failing() -> None:
        raise RuntimeError("CUDA out of memory\nTried to allocate")

    assert measure(failing) == {"error": "RuntimeError: CUDA out of memory"}
