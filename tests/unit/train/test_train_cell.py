"""What a cell is trained from, in a bucket: its parents' weights as they are now, not those of an earlier attempt."""

from dataclasses import replace

import pytest

from distill.config.students import StudentConfig
from distill.config.teachers import EngineConfig
from distill.core.manifest import Manifest
from distill.core.run_dir import RunDir, Training
from distill.core.saved_files import ADAPTER, FILES, MODEL
from distill.evaluate import models as evaluated
from distill.evaluate.models import EvaluatedModel
from distill.models.resolve import ResolvedModel
from distill.train.cells import Cell, CellWork
from distill.train.rollouts.plan import RolloutPlan
from distill.train.train_cell import _log_path, with_present_parents

STUDENT = StudentConfig(name="s", model="m")
PARENT = Cell("parent", STUDENT, "first", 0)
CHILD = Cell("child", STUDENT, "second", 0, parents=(PARENT,))


@pytest.fixture
def bucket(request: pytest.FixtureRequest) -> RunDir:
    return RunDir(f"memory://{request.node.name}")


def trained(run_dir: RunDir, digest: str) -> None:
    saved = {kind: {"model.safetensors": {"bytes": 1, "sha256": digest}} for kind in (MODEL, ADAPTER)}
    run_dir.write_manifest(Manifest("train", "key", details={FILES: saved}), *Training("parent").folder)


def planned(run_dir: RunDir) -> CellWork:
    """As it is before its parent is trained: by the parent's key."""
    model, adapter = (
        run_dir.address_of(*folder, version="key") for folder in (Training("parent").model, Training("parent").adapter)
    )
    rollouts = RolloutPlan(model, EngineConfig(), (), scores_all=True)
    return CellWork(CHILD, model, (), "child", adapter_path=adapter, rollouts=rollouts)


def test_a_child_starts_from_the_weights_that_its_parent_has_now(bucket: RunDir) -> None:
    trained(bucket, "a")
    first = with_present_parents(planned(bucket), bucket)
    trained(bucket, "b")
    again = with_present_parents(planned(bucket), bucket)
    for one in (first, again):
        assert one.rollouts is not None and one.rollouts.student == one.model_path
        assert one.model_path.partition("#")[0] == bucket.address_of(*Training("parent").model)
    assert len({first.model_path, again.model_path, first.adapter_path, again.adapter_path}) == 4


def test_what_is_no_parents_stays(bucket: RunDir) -> None:
    work = replace(planned(bucket), model_path="hub/m", adapter_path="", rollouts=None)
    trained(bucket, "a")
    assert with_present_parents(work, bucket) == work


def test_a_student_that_was_trained_again_under_its_key_is_served_from_its_new_files(bucket: RunDir) -> None:
    base = {"m": ResolvedModel("m", "base", "hub/m", "identity", 1, 1)}

    def served() -> EvaluatedModel:
        return evaluated._trained(replace(PARENT, merge=None), base, bucket)

    trained(bucket, "a")
    first = served()
    trained(bucket, "b")
    assert served().source != first.source
    trained(bucket, "a")
    assert served().source == first.source


def test_a_failure_names_a_log_that_is_there(bucket: RunDir, run_dir: RunDir) -> None:
    assert _log_path(run_dir, "a") == run_dir.path(*Training("a").log(0))
    assert "Ray's session folder" in _log_path(bucket, "a") and "train/a" not in _log_path(bucket, "a")
