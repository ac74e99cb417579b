"""What decides a result is declared on the field; stage keys, fingerprints, cell identities and score keys follow."""

from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, Field, create_model

from distill.config.decides import EXTENT, IF_SET, NOTHING, declared, from_stage, hashed_as, identity, stage_part
from distill.config.identity import fingerprint, stage_parts
from distill.config.load import find_recipe, load_recipe
from distill.config.recipe import Recipe
from distill.config.shipped import shipped_recipes
from distill.config.teachers import VllmTeacher
from distill.core.run_dir import RunDir, StageName
from distill.core.schema import content_hash
from distill.run.stage_keys import stage_states

QUICKSTART = find_recipe("quickstart")


def teacher_with(declaration: Any, value: int) -> VllmTeacher:
    """A teacher whose section has one more field."""
    field = Field(default=0, json_schema_extra=declaration)
    wider = create_model("Wider", __base__=VllmTeacher, extra_field=(int, field))
    return wider(name="long", style="long", model="m", extra_field=value)


def keys(*overrides: str) -> dict[StageName, str]:
    """Stage -> key of the quickstart with overrides."""
    recipe = load_recipe(QUICKSTART, overrides)
    states = stage_states(recipe, QUICKSTART.parent, RunDir("memory://no-run-here"))
    return {stage: state.key for stage, state in states.items()}


def changed(*overrides: str) -> list[StageName]:
    """The stages whose own part of the recipe the overrides change."""
    before, after = stage_parts(load_recipe(QUICKSTART)), stage_parts(load_recipe(QUICKSTART, overrides))
    return [stage for stage in StageName if before[stage] != after[stage]]


def test_a_new_field_changes_the_fingerprint_and_the_stage_key_unless_it_says_otherwise() -> None:
    assert fingerprint(teacher_with(None, 1), "w") != fingerprint(teacher_with(None, 2), "w")
    assert stage_part(teacher_with(None, 1), "generate", "generate") != stage_part(
        teacher_with(None, 2), "generate", "generate"
    )


@pytest.mark.parametrize("declaration", [NOTHING, EXTENT])
def test_a_field_that_decides_no_single_result_leaves_the_fingerprint(declaration: Any) -> None:
    assert fingerprint(teacher_with(declaration, 1), "w") == fingerprint(teacher_with(declaration, 2), "w")


def test_extent_is_part_of_the_stage_key_and_nothing_is_not() -> None:
    for declaration, is_part in ((EXTENT, True), (NOTHING, False)):
        parts = [stage_part(teacher_with(declaration, value), "generate", "generate") for value in (1, 2)]
        assert (parts[0] != parts[1]) is is_part


def test_an_absent_optional_field_leaves_an_identity_as_it_was_without_it() -> None:
    teacher = VllmTeacher(name="long", style="long", model="m")
    assert fingerprint(teacher_with(IF_SET, 0), "w") != fingerprint(teacher, "w"), "0 is a value"
    optional = create_model("Optional", __base__=VllmTeacher, extra=(str | None, Field(None, json_schema_extra=IF_SET)))
    assert fingerprint(optional(name="long", style="long", model="m"), "w") == fingerprint(teacher, "w")
    assert fingerprint(optional(name="long", style="long", model="m", extra="x"), "w") != fingerprint(teacher, "w")


def test_a_renamed_field_keeps_the_identity_that_it_was_first_hashed_with() -> None:
    old = create_model("Old", memory_gb=(float, 1.0))
    new = create_model("New", memory_gib=(float, Field(1.0, json_schema_extra=hashed_as("memory_gb"))))
    assert content_hash(identity(old())) == content_hash(identity(new()))


def test_a_nested_field_can_decide_from_an_earlier_stage_than_its_section() -> None:
    inner = create_model("Inner", early=(int, Field(1, json_schema_extra=from_stage("mix"))), late=(int, 2))
    outer = create_model("Outer", train=(inner, inner()))
    assert stage_part(outer(), "mix", "train") == {"train": {"early": 1}}
    assert stage_part(outer(), "train", "train") == {"train": {"late": 2}}


@pytest.mark.parametrize(
    ("override", "stages"),
    [
        ("seed=18", [StageName.PROMPTS]),
        ("prompts.num_prompts=64", [StageName.PROMPTS]),
        ("teachers.long.num_samples=8", [StageName.GENERATE]),
        ("teachers.long.sampling.temperature=0.5", [StageName.GENERATE]),
        ("teachers.long.replicas=[1,2]", []),
        ("generate.flush_s=2.0", []),
        ("verify.num_workers=2", []),
        ("filters.max_tokens=50", [StageName.MIX]),
        ("train.max_length=300", [StageName.MIX]),
        ("train.num_epochs=3", [StageName.TRAIN]),
        ("mixes.mix-long.after=short", [StageName.TRAIN]),
        ("mixes.short.num_prompts=50", [StageName.MIX]),
        ("train.seeds=[1,2]", [StageName.TRAIN]),
        ("train.checkpoint_every_steps=5", []),
        ("students.smol-135m.priority=3", []),
        ("students.smol-135m.tune.rank=8", [StageName.TRAIN]),
        ("benchmarks.small-sums.num_prompts=10", [StageName.PROMPTS]),
        ('benchmarks.small-sums.template="Q: {problem}"', [StageName.EVALUATE]),
        ("evaluate.max_in_flight=8", []),
        ("evaluate.sampling.max_tokens=65", [StageName.EVALUATE]),
        ("serve.max_replicas=3", []),
        ("serve.engine.max_model_len=300", [StageName.EVALUATE]),
        ('description="another"', [StageName.REPORT]),
        ("forecast.num_prompts=7", []),
    ],
)
def test_an_override_makes_stale_the_stage_that_it_decides_from(override: str, stages: list[StageName]) -> None:
    assert changed(override) == stages


def test_an_arms_own_number_of_steps_makes_training_stale_and_not_the_mix_or_a_search() -> None:
    recipe = load_recipe(find_recipe("small-search"))
    mixes = (recipe.mixes[0].model_copy(update={"num_steps": 50}), *recipe.mixes[1:])
    before, after = stage_parts(recipe), stage_parts(recipe.model_copy(update={"mixes": mixes}))
    assert [stage for stage in StageName if before[stage] != after[stage]] == [StageName.TRAIN]


def test_every_stage_behind_a_stale_one_has_another_key() -> None:
    before, after = keys(), keys("filters.max_tokens=50")
    stale = [stage for stage in StageName if before[stage] != after[stage]]
    assert stale == [StageName.MIX, StageName.TRAIN, StageName.EVALUATE, StageName.REPORT]


@pytest.mark.parametrize(
    "change",
    [
        {"train": {"weight_decay": 0.1}},
        {"students": {"model": "smollm2-26-layers"}},
        {"models": {"keep_layers": 20}},
        {"mixes": {"pools": ("short",)}},
        {"search": {"keep": 0.25}},
    ],
)
def test_a_weight_search_depends_on_its_mixes_students_and_how_trials_are_trained(change: dict[str, Any]) -> None:
    recipe = load_recipe(find_recipe("small-search"))
    ((section, update),) = change.items()
    value = getattr(recipe, section)
    if isinstance(value, dict):
        changed_value: Any = {name: one.model_copy(update=update) for name, one in value.items()}
    elif isinstance(value, tuple):
        changed_value = tuple(one.model_copy(update=update) for one in value)
    else:
        changed_value = value.model_copy(update=update)
    after = recipe.model_copy(update={section: changed_value})
    assert stage_parts(recipe)[StageName.SEARCH] != stage_parts(after)[StageName.SEARCH]


def test_a_weight_search_does_not_depend_on_the_budget_that_its_rounds_replace() -> None:
    path = find_recipe("small-search")
    before, after = (stage_parts(load_recipe(path, over)) for over in ((), ("train.num_epochs=7",)))
    assert before[StageName.SEARCH] == after[StageName.SEARCH]


def test_passes_are_in_no_cell_identity_under_a_budget_of_steps() -> None:
    steps = {"train.budget": '"steps"', "train.num_steps": "9"}
    first, second = (
        load_recipe(QUICKSTART, [f"{key}={value}" for key, value in {**steps, "train.num_epochs": epochs}.items()])
        for epochs in (2, 5)
    )
    assert identity(first.train.used) == identity(second.train.used)


def sections(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """All sections below a model, itself included."""
    seen: list[type[BaseModel]] = [model]
    for one in seen:
        found = [part for field in one.model_fields.values() for part in _models_in(field.annotation)]
        seen += [part for part in dict.fromkeys(found) if part not in seen]
    yield from seen


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in getattr(annotation, "__args__", ()):
        yield from _models_in(part)
    for part in getattr(annotation, "__metadata__", ()):
        yield from _models_in(part)


def test_every_declaration_is_one_that_the_code_knows() -> None:
    stages = {*StageName}
    for section in sections(Recipe):
        for name, field in section.model_fields.items():
            assert declared(field, "decides", "result") in ("result", "extent", "nothing", "if set"), (section, name)
            assert declared(field, "stage", "prompts") in stages, (section, name)


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_top_level_section_of_a_shipped_recipe_belongs_to_a_stage_or_says_that_it_decides_nothing(
    name: str,
) -> None:
    recipe = load_recipe(find_recipe(name))
    covered = {key for part in stage_parts(recipe).values() for key in part}
    silent = {key for key, field in Recipe.model_fields.items() if declared(field, "decides", "result") == "nothing"}
    assert {*Recipe.model_fields} <= covered | silent | {"search", "merges", "question"}
