"""Values for Prometheus, and the dashboard that shows them."""

import json
import re

from distill.core.metrics import METRICS, Value
from distill.generate.progress_actor import Snapshot, generate_values
from distill.train.cell_queue import Progress, train_values
from tests.fixtures.paths import ROOT

DASHBOARD = ROOT / "cluster" / "grafana.json"
OF_OTHERS = re.compile(r"ray_(vllm|serve|node)_\w+")


def test_every_value_has_the_labels_that_its_metric_declares() -> None:
    counts = {"prompts": 30, "traces": 9, "correct": 5, "tokens": 800, "solved long": 4, "solved short": 5}
    snapshot = Snapshot(engines=2, counts=counts, complete=3, is_full=False, busy_s=4.0)
    progress = Progress("s@mix", "training", step=3, num_steps=9, loss=1.5, tokens_per_s=70.0)
    values = [*generate_values(snapshot, 40, 2), *train_values(progress)]
    assert {one.metric for one in values} == set(METRICS)
    assert all(set(one.labels) == set(METRICS[one.metric][1]) for one in values)
    assert Value("distill_open_prompts", 25.0) in values
    assert Value("distill_solved_prompts", 4, {"pool": "long"}) in values


def test_a_cell_that_has_no_loss_yet_shows_none() -> None:
    assert {one.metric for one in train_values(Progress("c", "starting"))} == {
        "distill_cell_step",
        "distill_cell_num_steps",
    }


def test_the_dashboard_shows_every_metric_and_none_that_does_not_exist() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    asked = " ".join(target["expr"] for panel in dashboard["panels"] for target in panel["targets"])
    named = {name.removeprefix("ray_") for name in re.findall(r"ray_\w+", asked) if not OF_OTHERS.fullmatch(name)}
    assert named <= set(METRICS)
    assert set(METRICS) - named == {"distill_traces", "distill_generate_busy_seconds"}


def test_panels_do_not_cover_each_other() -> None:
    places = [panel["gridPos"] for panel in json.loads(DASHBOARD.read_text())["panels"]]
    assert len({(place["x"], place["y"]) for place in places}) == len(places)
    assert all(place["w"] == 12 and place["h"] == 8 for place in places)
