"""The fleet's cells and its refusals, without Ray."""

from distill.config.recipe import Recipe
from distill.train.cells import cells


def recipe(seeds: tuple[int, ...]) -> Recipe:
    return Recipe.model_validate(
        {
            "name": "r",
            "models": {"m": {"sources": ["m"]}},
            "prompts": {"sources": [{"kind": "file", "path": "p.jsonl"}]},
            "teachers": [{"name": "long", "model": "m", "style": "long"}],
            "mixes": [{"name": "a", "weights": {"long": 1.0}}, {"name": "b", "weights": {"long": 1.0}}],
            "students": [{"name": "s", "model": "m"}],
            "train": {"seeds": seeds},
            "evaluate": {"benchmarks": ["gsm8k"]},
        }
    )


def test_a_cell_is_named_by_student_and_mix_and_by_its_seed_only_where_there_are_several() -> None:
    assert [cell.name for cell in cells(recipe((7,)))] == ["s@a", "s@b"]
    assert [cell.name for cell in cells(recipe((7, 8)))] == ["s@a@7", "s@a@8", "s@b@7", "s@b@8"]
