"""Arms that learn from pairs: which combinations are refused while the recipe is read."""

from typing import Any

import pytest

from distill.config.identity import stage_parts
from distill.config.load import parse_recipe
from distill.config.objectives import Prefer
from distill.core.errors import ConfigError
from distill.core.stage_names import StageName

SFT = {"name": "sft", "weights": {"long": 1.0}}
DPO = {"name": "dpo", "policy": "pairs", "pools": ["long"], "after": "sft", "objective": {"kind": "prefer"}}
STEPS = {"budget": "steps", "num_steps": 10}


def raw(*mixes: dict[str, Any], samples: int = 4, train: dict[str, Any] = STEPS) -> dict[str, Any]:
    return {
        "name": "pairs",
        "models": {"m": {"sources": ["somewhere/model"]}},
        "prompts": {"sources": [{"kind": "file", "path": "p.jsonl"}]},
        "teachers": [{"name": "long", "model": "m", "style": "long", "num_samples": samples}],
        "mixes": list(mixes),
        "students": [{"name": "s", "model": "m"}],
        "train": train,
        "evaluate": {"benchmarks": ["gsm8k"]},
    }


def problem_of(*mixes: dict[str, Any], **options: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_recipe(raw(*mixes, **options))
    return str(caught.value)


def without(mix: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in mix.items() if key != name}


def test_a_ladder_of_objectives_is_read() -> None:
    cdpo = DPO | {"name": "joint", "objective": {"kind": "prefer", "eps": 0.1, "alpha": 1.0, "learning_rate": 1e-6}}
    made = parse_recipe(raw(SFT | {"objective": {"kind": "imitate"}}, DPO, cdpo))
    assert made.mixes[2].objective == Prefer(eps=0.1, alpha=1.0, learning_rate=1e-6)


@pytest.mark.parametrize(
    ("mix", "said"),
    [
        (without(DPO, "objective"), 'mixes[dpo].objective is not set, and a rejected trace must not be imitated'),
        (DPO | {"objective": {"kind": "imitate"}}, 'add objective = { kind = "prefer" }'),
        (SFT | {"name": "dpo", "objective": {"kind": "prefer"}}, "learns from pairs, and the policy is 'weighted'"),
        (DPO | {"modes": {"long": "Think."}}, "mixes[dpo].modes both traces of a pair answer one prompt"),
        (DPO | {"by": ["verdict", "verdict"]}, "names a criterion twice"),
        (DPO | {"pools": ["long", "long"]}, "names a pool twice"),
        (DPO | {"pools": ["lang"]}, "no teacher is called 'lang'"),
        (DPO | {"objective": {"kind": "prefer", "eps": 0.5}}, "mixes[dpo].objective.eps"),
        (DPO | {"objective": {"kind": "prefer", "bta": 1}}, "did you mean 'beta'"),
        (DPO | {"objective": {"kind": "preffer"}}, "there is no kind 'preffer'"),
    ],
)  # fmt: skip
def test_what_does_not_go_together_is_refused(mix: dict[str, Any], said: str) -> None:
    assert said in problem_of(SFT, mix).replace(": ", " "), problem_of(SFT, mix)


def test_pools_in_which_there_can_be_no_pair_are_refused() -> None:
    assert "has one trace per prompt, and a pair is of two" in problem_of(SFT, DPO, samples=1)


def test_passes_are_no_budget_for_pairs_beside_rows() -> None:
    alone = without(DPO, "after")
    assert "train.budget" in problem_of(SFT, alone, train={})
    parse_recipe(raw(SFT, DPO, train={}))  # the stage after is compared with its like only
    parse_recipe(raw(SFT, alone, train={"unmatched": True}))


def test_an_objective_makes_training_stale_and_not_the_mix() -> None:
    parts = [stage_parts(parse_recipe(raw(SFT, DPO | {"objective": {"kind": "prefer", "beta": beta}})))
             for beta in (0.1, 0.2)]  # fmt: skip
    changed = [stage for stage in StageName if parts[0][stage] != parts[1][stage]]
    assert changed == [StageName.TRAIN]
