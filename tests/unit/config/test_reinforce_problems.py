"""Arms that are rewarded for their own answers: what of them does not go together."""

from typing import Any

import pytest

from distill.config.load import parse_recipe
from distill.config.objectives import Reinforce
from distill.core.errors import ConfigError
from tests.fixtures.mix_run import RECIPE

LORA = [{"name": "s", "model": "m", "tune": {"kind": "lora"}}]


def raw(train: dict[str, Any] | None = None, students: Any = LORA, mix: dict[str, Any] | None = None, **objective: Any
        ) -> dict[str, Any]:  # fmt: skip
    *others, last = RECIPE["mixes"]
    own = last | {"objective": {"kind": "reinforce", "max_tokens": 64, **objective}} | (mix or {})
    steps = {"budget": "steps", "num_steps": 12} if train is None else train
    return RECIPE | {"mixes": [*others, own], "train": RECIPE.get("train", {}) | steps, "students": students}


def test_rounds_are_made_of_the_arms_steps() -> None:
    objective = parse_recipe(raw(steps_per_round=4, length_levels=[20, 40], length_cost=0.5)).mixes[-1].objective
    assert isinstance(objective, Reinforce) and objective.samples == 8


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"steps_per_round": 5}, "5 does not divide the arm's 12 steps"),
        ({"steps_per_round": 2, "train": {}}, 'train.budget is "epochs"'),
        (
            {"steps_per_round": 8, "mix": {"after": "long", "num_steps": 8, "total_steps": "with_parent"}},
            "8 does not divide the arm's 20 steps",
        ),
        ({"train": {"budget": "tokens", "num_steps": 12, "num_tokens": 100}}, "how many tokens the student writes"),
        ({"students": [{"name": "s", "model": "m", "tune": {"kind": "full"}}]}, "s trains all weights"),
        ({"students": [LORA[0] | {"zero_stage": 3}]}, "zero_stage 3 of s spreads it over workers"),
        ({"length_levels": [20]}, "have no effect by themselves"),
        ({"length_levels": [40, 20], "length_cost": 0.5}, "do not rise"),
        ({"length_levels": [20, 64], "length_cost": 0.5}, "below max_tokens = 64"),
        ({"max_tokens": 100_000}, "leaves no room for a prompt in serve.engine.max_model_len"),
        (
            {"max_tokens": 256, "train": {"budget": "steps", "num_steps": 12, "max_length": 256}},
            "256 leaves no room for a prompt in train.max_length 256",
        ),
        ({"mix": {"policy": "both", "pools": ["long", "short"], "weights": None}}, "answers each prompt by itself"),
    ],
)
def test_what_comes_to_nothing_is_refused(changes: dict[str, Any], words: str) -> None:
    made = raw(**changes)
    made["mixes"] = [{name: value for name, value in mix.items() if value is not None} for mix in made["mixes"]]
    with pytest.raises(ConfigError, match=words):
        parse_recipe(made)
