"""What of a student is trained."""

from distill.config.students import LoraTune
from distill.models.shape import shape_of
from distill.train.worker.student import add_adapter, freeze_other_parts
from tests.fixtures.tiny_architectures import tiny


def test_an_adapter_leaves_the_vision_tower_alone() -> None:
    for targets in ("all-linear", ("q_proj", "v_proj")):
        adapted = add_adapter(tiny("gemma3 with vision"), LoraTune(rank=2, targets=targets))
        names = [name for name, weight in adapted.named_parameters() if weight.requires_grad]
        assert names and all("language_model.layers" in name for name in names)


def test_the_planned_size_of_an_adapter_is_its_size() -> None:
    for name in ("llama", "gemma3 with vision"):
        model, tune = tiny(name), LoraTune(rank=2)
        shape = shape_of(model.config.to_dict())
        adapted = add_adapter(model, tune)
        assert shape.lora_parameters(tune) == sum(one.numel() for one in adapted.parameters() if one.requires_grad)


def test_only_the_language_part_of_a_fully_tuned_student_is_trained() -> None:
    model = tiny("gemma3 with vision")
    freeze_other_parts(model)
    frozen = {name.split(".")[1] for name, weight in model.named_parameters() if not weight.requires_grad}
    assert frozen == {"vision_tower", "multi_modal_projector"}
    whole = tiny("llama")
    freeze_other_parts(whole)
    assert all(weight.requires_grad for weight in whole.parameters())
