"""A recipe is refused with every problem at once, each with where, what and remedy."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from distill.config.load import apply_override, find_recipe, load_recipe, parse_recipe, read_recipe
from distill.config.recipe import Recipe
from distill.config.shipped import RECIPES_DIR, shipped_recipes
from distill.config.sources import FileSource
from distill.core.errors import ConfigError
from distill.run.source_files import source_files
from tests.fixtures.recipes import GOOD, problems_of, recipe_with


def test_a_good_recipe_is_frozen() -> None:
    recipe = parse_recipe(GOOD)
    with pytest.raises(ValueError, match="frozen"):
        recipe.name = "other"


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_parses(name: str) -> None:
    assert load_recipe(find_recipe(name)).name == name


def test_shipped_recipes_are_found_by_name() -> None:
    assert find_recipe("quickstart") == RECIPES_DIR / "quickstart.toml"


def test_an_unknown_recipe_names_the_shipped_ones() -> None:
    with pytest.raises(ConfigError, match="quickstart"):
        find_recipe("no-such-recipe")


@pytest.mark.parametrize(
    ("change", "where", "what"),
    [
        ({"trian": {}}, "trian", "did you mean 'train'"),
        ({"train": {"max_lenght": 3}}, "train.max_lenght", "did you mean 'max_length'"),
        ({"train": {"num_epochs": 0}}, "train.num_epochs", "0 is refused"),
        ({"train": {"max_length": 1024}}, "students[s]", "longer than the context of 'm', 512"),
        (
            {"train": {"batch_size": 6}, "students": [{"name": "s", "model": "m", "micro_batch_size": 4}]},
            "students[s]",
            "not a multiple",
        ),
        ({"train": {"budget": "steps"}}, "train.num_steps", "is missing"),
        ({"train": {"num_tokens": 5}}, "train.num_tokens", "has no effect: train.budget is 'epochs'"),
        (
            {
                "mixes": [
                    {"name": "a", "policy": "both", "pools": ["long", "short"]},
                    {"name": "b", "weights": {"long": 1.0}},
                ]
            },
            "train.budget",
            "rows per prompt: a 2, b 1",
        ),
        (
            {"students": [{"name": "s", "model": "m", "num_workers": 4, "max_workers": 2}]},
            "students[s]",
            "max_workers 2 is less than num_workers 4",
        ),
        (
            {"students": [{"name": "s", "model": "m", "zero_stage": 0, "offload_optimizer": True}]},
            "students[s]",
            "needs ZeRO",
        ),
        ({"mixes": [{"name": "a", "weights": {"lnog": 1.0}}]}, "mixes[a].weights", "did you mean 'long'"),
        ({"mixes": [{"name": "a", "weights": {"long": 0.2, "short": 0.7}}]}, "mixes[a].weights", "= 0.9, not 1"),
        ({"mixes": [{"name": "a", "weights": {"long": 1.0}}] * 2}, "mixes", "used 2 times"),
        ({"mixes": [{"name": "traces", "weights": {"long": 1.0}}]}, "mixes[traces].name", "file traces.parquet"),
        ({"merges": [{"name": "m", "of": ["a", "b"]}] * 2}, "merges", "used 2 times"),
        ({"mixes": [{"name": "a", "policy": "weihgted", "weights": {}}]}, "mixes[a]", "'weihgted'"),
        ({"mixes": [{"name": "a", "weights": {"long": 2.0}}]}, "mixes[a].weights.long", "2.0 is refused"),
        ({"mixes": [{"name": "a", "weihgts": {"long": 1.0}}]}, "mixes[a].weihgts", "did you mean 'weights'"),
        ({"mixes": [{"name": "a", "policy": "single", "pool": "lnog"}]}, "mixes[a].pool", "did you mean 'long'"),
        ({"mixes": [{"name": "a", "policy": "both", "pools": ["long", "long"]}]}, "mixes[a].pools", "twice"),
        (
            {"mixes": [{"name": "a", "policy": "curriculum", "weights": {"long": 1.0}, "order": ["short", "long"]}]},
            "mixes[a].order",
            "are not the pools of weights",
        ),
        (
            {
                "mixes": [
                    {
                        "name": "a",
                        "policy": "hard_gets_long",
                        "weights": {"long": 1.0, "short": 0.0},
                        "order": ["long", "short"],
                    }
                ]
            },
            "mixes[a].hardness",
            "every pool has one trace per prompt",
        ),
        (
            {"mixes": [{"name": "a", "policy": "student_fit", "pools": ["long", "short"], "student": "S"}]},
            "mixes[a].student",
            "no student is called 'S'",
        ),
        ({"merges": [{"name": "m", "of": ["a", "lnog"]}]}, "merges[m].of", "no mix is called 'lnog'"),
        ({"merges": [{"name": "m", "of": ["a", "a"]}]}, "merges[m].of", "names a mix twice"),
        ({"merges": [{"name": "m", "of": ["a", "b"], "weights": [0.5, 0.6]}]}, "merges[m].weights", "= 1.1, not 1"),
        ({"merges": [{"name": "m", "of": ["a", "b"], "weights": [1.0]}]}, "merges[m].weights", "1 weights for 2 mixes"),
        ({"merges": [{"name": "m", "of": ["a", "b"], "density": 0}]}, "merges[m].density", "0 is refused"),
        ({"filters": {"too_long_takes": "shrot"}}, "filters.too_long_takes", "did you mean 'short'"),
        ({"filters": {"min_tokens": 300}}, "filters.min_tokens", "at least 300 and at most 256"),
        ({"train": {"seeds": [0, 1, 0]}}, "train.seeds", "names 0 twice: the same run would count as two"),
        ({"train": {"seeds": 0}}, "train.seeds", "write it as a list: [0]"),
        ({"mixes": [{"name": "a", "pools": ["long"], "policy": "both"}]}, "mixes[a].pools", "at least 2 items"),
        ({"merges": [{"name": "m", "of": ["mix-long"]}]}, "merges[m].of", "at least 2 items must be in it"),
        (
            {"mixes": [{"name": "a", "weights": {"long": 1.0}, "students": ["s", "s"]}]},
            "mixes[a].students",
            "names s twice",
        ),
        ({"prompts": {"sources": [{"path": "p.jsonl"}]}}, "prompts.sources[0].kind", "add kind = 'file' or kind = "),
        ({"students": [{"name": "s", "model": "x"}]}, "students[s].model", "no model is called 'x'"),
        (
            {"students": [{"name": "s", "model": "m", "base_of": "nobody"}]},
            "students[s].base_of",
            "no student is called 'nobody'",
        ),
        (
            {"students": [{"name": "s", "model": "m", "base_of": "s"}]},
            "students[s].base_of",
            "names the student itself",
        ),
        (
            {"students": [{"name": "s", "model": "m", "base_of": "t"}, {"name": "t", "model": "m"}]},
            "students[s].base_of",
            "'t' is trained from the same model, 'm'",
        ),
        (
            {
                "students": [
                    {"name": "s", "model": "m", "base_of": "t"},
                    {"name": "t", "model": "m", "base_of": "u"},
                    {"name": "u", "model": "m"},
                ]
            },
            "students[s].base_of",
            "'t' is the base of 'u'",
        ),
        ({"evaluate": {"benchmarks": ["gsm9k"]}}, "evaluate.benchmarks", "did you mean 'gsm8k'"),
        ({"evaluate": {"benchmarks": ["gsm8k"] * 2}}, "evaluate.benchmarks", "names 'gsm8k' twice"),
        (
            {"evaluate": {"benchmarks": ["gsm8k"], "sampling": {"max_tokens": 8192}}},
            "evaluate.sampling.max_tokens",
            "8192 leaves no room for a problem in serve.engine.max_model_len 8192",
        ),
        (
            {"serve": {"engine": {"max_model_len": 2048}}},
            "evaluate.sampling.max_tokens",
            "4096 leaves no room for a problem in serve.engine.max_model_len 2048",
        ),
        (
            {"evaluate": {"benchmarks": ["gsm8k"], "num_samples": 4}},
            "evaluate",
            "at temperature 0 gives 4 times the same",
        ),
    ],
)
def test_a_wrong_recipe_says_where_and_what(change: dict[str, Any], where: str, what: str) -> None:
    found = [problem for problem in problems_of(recipe_with(change)) if problem.startswith(f"{where}:")]
    assert any(what in problem for problem in found), found


def test_a_mix_without_a_policy_is_weighted() -> None:
    recipe = parse_recipe(GOOD)
    assert recipe.mixes[0].policy == "weighted"
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe


def test_a_missing_section_is_named() -> None:
    raw = copy.deepcopy(GOOD)
    del raw["evaluate"]
    assert any(problem.startswith("evaluate: is missing") for problem in problems_of(raw))


def test_all_problems_come_in_one_go() -> None:
    raw = recipe_with(
        {
            "train": {"num_epochs": -1, "max_length": 256},
            "mixes": [{"name": "a", "weights": {"nobody": 0.5}}],
            "evaluate": {"benchmarks": ["unheard-of"]},
        }
    )
    assert len(problems_of(raw)) == 4


def test_a_teacher_that_leaves_no_room_for_a_prompt_is_refused() -> None:
    teacher = {"name": "long", "model": "m", "style": "long", "sampling": {"max_tokens": 600}}
    raw = recipe_with({"teachers": [{**teacher, "engine": {"max_model_len": 512}}, GOOD["teachers"][1]]})
    assert any("leaves no room" in problem for problem in problems_of(raw))


def test_a_benchmark_may_not_repeat_the_training_generator() -> None:
    source = {"kind": "reasoning_gym", "task": "chain_sum", "seed": 1}
    raw = recipe_with({"prompts": {"sources": [source]}, "benchmarks": {"b": {"source": source}}})
    assert any("as the training prompts do" in problem for problem in problems_of(raw))


def test_overrides_reach_list_items_by_name_and_number() -> None:
    raw = copy.deepcopy(GOOD)
    assert apply_override(raw, "teachers.long.sampling.max_tokens=32") is None
    assert apply_override(raw, "teachers.1.num_samples=3") is None
    assert apply_override(raw, "train.seeds=[0,1]") is None
    assert apply_override(raw, "description=plain words") is None
    recipe = parse_recipe(raw)
    assert recipe.teachers[0].sampling.max_tokens == 32
    assert recipe.teachers[1].num_samples == 3
    assert recipe.train.seeds == (0, 1)
    assert recipe.description == "plain words"


def test_overrides_reach_names_with_dots() -> None:
    raw = recipe_with({"mixes": [{"name": "mix-0.2", "weights": {"long": 0.2, "short": 0.8}}]})
    raw["models"]["m-0.5b"] = {"sources": ["somewhere/else"]}
    assert apply_override(raw, "mixes.mix-0.2.weights.long=0.3") is None
    assert apply_override(raw, "mixes.mix-0.2.weights.short=0.7") is None
    assert apply_override(raw, "models.m-0.5b.revision=v1") is None
    recipe = parse_recipe(raw)
    assert recipe.mixes[0].shares == {"long": 0.3, "short": 0.7} and recipe.models["m-0.5b"].revision == "v1"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("no equals sign", "not of the form key.path=value"),
        ("teachers.lnog.style=long", "did you mean 'long'?"),
        ("teachers.lnog=3", "did you mean 'long'?"),
        ("train.max_length.x=3", "nothing that 'x' could be set in: before it stands 256"),
        ("train.max_length.x.y=3", "nothing that 'x' could be set in"),
        ("train..max_length=3", "empty name"),
        ("=3", "empty name"),
    ],
)
def test_a_bad_override_is_a_problem_not_a_traceback(override: str, said: str) -> None:
    assert said in str(apply_override(copy.deepcopy(GOOD), override))


@pytest.mark.parametrize(
    ("section", "field"), [("evaluate", "benchmarks"), ("train", "seeds"), ("prompts", "sources"), ("models", "m")]
)
@pytest.mark.parametrize("value", [3, "gsm8k"])
def test_a_value_that_is_no_list_is_one_problem_where_it_stands(section: str, field: str, value: object) -> None:
    raw = copy.deepcopy(GOOD)
    raw[section][field] = {"sources": value} if section == "models" else value
    (problem,) = problems_of(raw)
    assert problem.startswith(f"{section}.{field}") and f"{json.dumps(value)} is refused: a list is needed" in problem


def test_a_model_folder_with_a_broken_config_is_no_traceback_of_the_recipe(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    models = {"m": {"sources": [str(tmp_path)]}}
    assert parse_recipe(recipe_with({"models": models})).models["m"].sources == (str(tmp_path),)


def test_a_json_file_that_is_no_recipe_is_told(tmp_path: Path) -> None:
    path = tmp_path / "rows.json"
    path.write_text("[1]")
    with pytest.raises(ConfigError, match=r"rows\.json: holds a list"):
        read_recipe(path)


def test_files_of_a_recipe_that_is_extended_stay_beside_it(tmp_path: Path) -> None:
    (tmp_path / "own.toml").write_text('extends = "languages"\nname = "own"')
    recipe = load_recipe(tmp_path / "own.toml")
    (source,) = [one for one in recipe.prompts.sources if isinstance(one, FileSource)]
    assert source.path == "package://distill/recipes/language-sums.jsonl"
    assert source_files(source, tmp_path).paths == [str(RECIPES_DIR / "language-sums.jsonl")]
    (tmp_path / "below").mkdir()
    (tmp_path / "base.toml").write_text('[[teachers]]\nname = "t"\nsource = { kind = "file", path = "t.jsonl" }')
    for folder, path in ((tmp_path, "t.jsonl"), (tmp_path / "below", str(tmp_path.resolve() / "t.jsonl"))):
        (folder / "top.toml").write_text(f'extends = "{tmp_path}/base.toml"')
        assert read_recipe(folder / "top.toml")["teachers"][0]["source"]["path"] == path


def test_an_unknown_base_is_told_where_it_is_named(tmp_path: Path) -> None:
    path = tmp_path / "own.toml"
    path.write_text('extends = "quikstart"')
    with pytest.raises(ConfigError, match=r"own\.toml: extends: no file and no shipped recipe named 'quikstart'"):
        read_recipe(path)


@pytest.mark.parametrize(("name", "strong", "weak"), [("mix-long", "long", "short"), ("mix-large", "large", "small")])
def test_the_papers_mixes_ship_at_one_fifth_by_prompt_beside_both_pure_arms(name: str, strong: str, weak: str) -> None:
    recipe = load_recipe(find_recipe(name))
    arms = {mix.name: mix for mix in recipe.mixes}
    assert arms[name].shares == {strong: 0.2, weak: 0.8}
    assert (arms[name].policy, arms[strong].policy, arms[weak].policy) == ("weighted", "single", "single")
    assert {teacher.num_samples for teacher in recipe.teachers} == {1}
    assert len(recipe.train.seeds) >= 3
    assert recipe.student_chat.template == recipe.teachers[0].chat.template


@pytest.mark.parametrize(
    ("modes", "said"),
    [
        ({"long": "Think."}, "no mode asks for short"),
        ({"long": "Think.", "short": "Think."}, "as another mode does"),
        ({"long": "Think.", "short": ""}, "modes.short"),
        ({"long": "Think.", "middling": "x"}, "modes.middling"),
    ],
)
def test_modes_that_a_reader_could_not_use_are_refused(modes: dict[str, str], said: str) -> None:
    raw = recipe_with({})
    assert any(said in problem for problem in problems_of(raw | {"mixes": [raw["mixes"][-1] | {"modes": modes}]}))


REMOTE = {"kind": "endpoint", "name": "remote", "style": "long", "base_url": "http://h/v1", "remote_model": "m"}


def with_remote(**fields: Any) -> dict[str, Any]:
    return recipe_with({"teachers": [*GOOD["teachers"], {**REMOTE, **fields}]})


def test_a_body_that_repeats_what_the_recipe_says_elsewhere_is_refused_with_the_field_to_set() -> None:
    found = problems_of(with_remote(extra_body={"n": 2, "stream": True, "x": 1}))
    assert len(found) == 2 and all(problem.startswith("teachers[remote].extra_body: ") for problem in found)
    assert "'n'" in found[0] and "num_samples" in found[0] and "'stream'" in found[1]


def test_greedy_samples_that_repeat_are_no_fault_of_a_teacher_whose_temperature_is_not_sent() -> None:
    greedy: dict[str, Any] = {"num_samples": 2, "sampling": {"temperature": 0.0}}
    (found,) = problems_of(with_remote(**greedy))
    assert "teachers[remote]: num_samples 2 at temperature 0" in found
    assert parse_recipe(with_remote(**greedy, omit_sampling=["temperature"])).teachers[-1].name == "remote"
