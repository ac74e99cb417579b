"""The layout of a cell: chosen so that it fits, taken from the recipe where it sets it, refused with what would fit."""

from dataclasses import replace
from typing import Any

import pytest

from cluster.units import GIB
from distill.config.students import FullTune, LoraTune, StudentConfig
from distill.config.train import TrainConfig
from distill.models.shape import ModelShape
from distill.train.layout import USABLE, Layout, choose_layout, memory_needed, resolve_layout, suggest_changes
from tests.fixtures.model_shapes import LARGE, SMALL

TRAIN = TrainConfig(batch_size=16, max_length=4096)


def student(**changes: Any) -> StudentConfig:
    return StudentConfig(name="s", model="m", **changes)


def chosen(shape: ModelShape, memory_gib: float, **changes: Any) -> Layout | None:
    return choose_layout(shape, student(**changes), TRAIN, memory_gib=memory_gib, device="gpu")


def test_a_small_student_shares_nothing_and_computes_nothing_twice() -> None:
    layout = chosen(SMALL, 80.0)
    assert layout is not None
    assert (layout.zero_stage, layout.checkpoint_activations) == (0, False)
    assert layout.micro_batch_size > 1


def test_less_memory_takes_slower_layouts_and_at_last_none() -> None:
    found = [chosen(LARGE, memory, num_workers=4) for memory in (300.0, *range(60, 8, -1))]
    stages = [(layout.checkpoint_activations, layout.zero_stage) if layout else None for layout in found]
    assert stages[0] == (False, 1)
    assert stages[-1] is None
    passed = [stage for stage in dict.fromkeys(stages) if stage]
    assert passed == [(False, 1), (False, 2), (True, 1), (True, 2), (True, 3)]
    assert all(layout.memory_gib <= 300.0 * USABLE["gpu"] for layout in found if layout)


@pytest.mark.parametrize("tune", [FullTune(), LoraTune()])
@pytest.mark.parametrize("workers", [1, 2, 4])
@pytest.mark.parametrize("memory", [6.0, 16.0, 40.0, 80.0])
def test_what_is_chosen_fits_and_divides_the_batch(tune: FullTune | LoraTune, workers: int, memory: float) -> None:
    for shape in (SMALL, LARGE):
        one = student(tune=tune, num_workers=workers)
        layout = choose_layout(shape, one, TRAIN, memory_gib=memory, device="gpu")
        if layout is not None:
            needed = memory_needed(shape, one, layout, length=4096, num_workers=workers, device="gpu").total
            assert needed <= memory * GIB * USABLE["gpu"]
            assert TRAIN.batch_size % (workers * layout.micro_batch_size) == 0


def test_zero_shares_the_optimiser_then_gradients_then_weights() -> None:
    needs = [
        memory_needed(LARGE, student(num_workers=8), Layout(stage, 1), length=512, num_workers=8, device="gpu")
        for stage in (0, 1, 2, 3)
    ]
    assert needs[1].optimizer == needs[0].optimizer / 8
    assert needs[2].gradients < needs[1].gradients / 8
    assert needs[3].weights == needs[2].weights / 8
    assert [need.total for need in needs] == sorted((need.total for need in needs), reverse=True)


def test_an_adapter_needs_states_for_its_own_weights_only() -> None:
    tune = LoraTune(rank=8)
    need = memory_needed(LARGE, student(tune=tune), Layout(), length=512, num_workers=1, device="gpu")
    assert need.optimizer == 12 * 8 * (147_456 + 470_016)


def test_a_layout_in_the_recipe_is_taken_even_where_it_is_estimated_not_to_fit() -> None:
    fixed = student(zero_stage=0, micro_batch_size=8, checkpoint_activations=False)
    layout = choose_layout(LARGE, fixed, TRAIN, memory_gib=8.0, device="gpu")
    assert layout is not None
    assert (layout.zero_stage, layout.micro_batch_size) == (0, 8)
    assert layout.memory_gib > 8.0


def test_a_given_micro_batch_is_kept_while_the_rest_is_chosen() -> None:
    layout = chosen(LARGE, 60.0, num_workers=4, micro_batch_size=1)
    assert layout is not None
    assert layout.micro_batch_size == 1
    assert layout.zero_stage >= 2


def test_without_a_model_shape_the_recipe_or_defaults_for_small_models_count() -> None:
    assert resolve_layout(student()) == Layout(zero_stage=0, micro_batch_size=4)
    assert resolve_layout(student(num_workers=2, micro_batch_size=2)) == Layout(zero_stage=1, micro_batch_size=2)


def test_every_remedy_for_a_student_that_does_not_fit_makes_it_fit() -> None:
    short = TRAIN.model_copy(update={"max_length": 512})
    one = student()
    assert choose_layout(LARGE, one, short, memory_gib=40.0, device="gpu") is None
    remedy = suggest_changes(LARGE, one, short, memory_gib=40.0, device="gpu", max_workers=8)
    workers = int(remedy.split("num_workers = ")[1].split()[0])
    wider = one.model_copy(update={"num_workers": workers})
    assert choose_layout(LARGE, wider, short, memory_gib=40.0, device="gpu") is not None
    assert 'tune = { kind = "lora" }' in remedy
    lora = one.model_copy(update={"tune": LoraTune()})
    assert choose_layout(LARGE, lora, short, memory_gib=40.0, device="gpu") is not None


def test_a_student_that_no_remedy_makes_fit_is_refused_so() -> None:
    assert "smaller model" in suggest_changes(LARGE, student(), TRAIN, memory_gib=3.0, device="gpu", max_workers=1)


def test_activations_are_those_that_were_measured_where_they_were() -> None:
    known = memory_needed(LARGE, student(), Layout(), length=512, num_workers=1, device="gpu").activations
    measured = replace(LARGE, kept_bytes_per_token=3 * 2 * LARGE.layers * 1000)
    for recompute in (False, True):
        layout = Layout(micro_batch_size=1, checkpoint_activations=recompute)
        found = memory_needed(measured, student(), layout, length=512, num_workers=1, device="gpu").activations
        assert found == 512 * 2 * (LARGE.layers * LARGE.hidden + 3000 if recompute else LARGE.layers * 3000)
        assert found < known
