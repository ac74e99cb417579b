"""A mix with modes: rows that say their style, one student scored and asked in each."""

from pathlib import Path
from typing import Any

import pytest

from distill.config.load import parse_recipe
from distill.config.teachers import ChatFormat
from distill.core.run_dir import RunDir
from distill.core.schema import Example
from distill.evaluate.models import Evaluated, endpoints, evaluated_models, same_weights, waves
from distill.evaluate.read_scores import expected_models, trained_models
from distill.evaluate.requests import items, request_rows
from distill.mix.filters import USABLE
from distill.mix.stage import filtered_index, mix_stage, mode_tokens
from distill.models.chat_template import with_mode
from distill.models.resolve import ResolvedModel
from distill.ops.deploy.endpoint import chat_card
from distill.run.stage_keys import stage_configs
from serve.client import question_turns
from serve.errors import ServeError
from tests.unit.mix_run import RECIPE, make_run, prompt, trace
from tests.unit.test_recipe import problems_of, recipe_with
from tests.unit.test_render import tokenizer

MODES = {"long": "Think step by step.", "short": "Be brief and quick."}


def tagged(raw: dict[str, Any], **modes: str) -> dict[str, Any]:
    """A raw recipe whose last mix has modes."""
    *others, last = raw["mixes"]
    return raw | {"mixes": [*others, last | {"modes": modes or MODES}]}


def models_of(raw: dict[str, Any], folder: Path) -> list[Evaluated]:
    recipe = parse_recipe(raw)
    resolved = ResolvedModel(**dict.fromkeys(ResolvedModel.__dataclass_fields__, "m"))  # type: ignore[arg-type]
    return evaluated_models(recipe, dict.fromkeys(recipe.models, resolved), RunDir(str(folder)))


def test_every_row_of_a_mix_with_modes_asks_for_its_style_under_the_students_own_line(tmp_path: Path) -> None:
    traces = [trace(number, pool) for number in range(20) for pool in ("long", "short")]
    current = make_run(tmp_path, traces, num_prompts=20, change=tagged)
    details = mix_stage(current).details["mixes"]["mix-long"]
    rows = current.run_dir.read_table("mix", "mix-long.parquet", row_type=Example).to_pylist()
    assert {(row["style"], row["messages"][0]["content"]) for row in rows} == {
        (style, f"Be brief.\n{line}") for style, line in MODES.items()
    }
    assert {mode: entry["rows"] for mode, entry in details["modes"].items()} == {"long": 4, "short": 16}
    assert sum(entry["tokens"] for entry in details["modes"].values()) == details["tokens"]
    plain = current.run_dir.read_table("mix", "short.parquet", row_type=Example).to_pylist()
    assert {row["messages"][0]["content"] for row in plain} == {"Be brief."}


def test_a_row_must_fit_with_the_longest_line(tmp_path: Path) -> None:
    line = "word " * 80
    short = make_run(tmp_path / "a", [trace(1, "long"), trace(1, "short")], num_prompts=2)
    long = make_run(
        tmp_path / "b",
        [trace(1, "long"), trace(1, "short")],
        num_prompts=2,
        change=lambda raw: tagged(raw, long=line, short="Be brief."),
    )
    assert mode_tokens(short.recipe, [tokenizer()]) == 0
    assert mode_tokens(long.recipe, [tokenizer()]) == len(line) + 1, "a token per byte, and the line break"
    assert (filtered_index(short)[1] == USABLE).all()
    assert not (filtered_index(long)[1] == USABLE).any()


def test_a_student_is_scored_once_in_each_mode_behind_one_endpoint(tmp_path: Path) -> None:
    recipe, models = parse_recipe(tagged(RECIPE)), models_of(tagged(RECIPE), tmp_path)
    assert [model.name for model in models] == ["s", "s@long", "s@short", "s@mix-long:long", "s@mix-long:short"]
    assert [one.name for one in endpoints(models)] == ["s", "s@long", "s@short", "s@mix-long"]
    assert len(set(same_weights(models).values())) == 5
    assert sorted(model.name for wave in waves(models, 1) for model in wave) == sorted(model.name for model in models)
    scores = {item.model.name: item for item in items(models, {"gsm8k": [prompt(1)]}, recipe)}
    assert scores["s@mix-long:long"].key != scores["s@mix-long:short"].key
    for mode, line in MODES.items():
        (row,) = request_rows(scores[f"s@mix-long:{mode}"], [prompt(1)], recipe)
        assert (row["model"], row["scored_as"]) == ("s@mix-long", f"s@mix-long:{mode}")
        assert row["messages"][0]["content"] == f"Be brief.\n{line}"


def test_the_report_expects_each_mode_and_each_cell_once() -> None:
    recipe = parse_recipe(tagged(RECIPE))
    assert [model.mix for model in expected_models(recipe)] == ["", "long", "short", "mix-long:long", "mix-long:short"]
    assert [(model.name, model.mix) for model in trained_models(recipe)] == [
        ("s@long", "long"),
        ("s@short", "short"),
        ("s@mix-long", "mix-long"),
    ]


def test_a_reader_chooses_the_mode_and_gets_the_first_without_choosing() -> None:
    card = chat_card(parse_recipe(tagged(RECIPE)), "s@mix-long")
    assert question_turns("?", card)[0]["content"] == "Be brief.\nThink step by step."
    assert question_turns("?", card, "short")[0]["content"] == "Be brief.\nBe brief and quick."
    with pytest.raises(ServeError, match="long, short"):
        question_turns("?", card, "medium")
    with pytest.raises(ServeError, match="without modes"):
        question_turns("?", chat_card(parse_recipe(RECIPE), "s"), "short")


def test_a_chat_without_a_system_line_gets_the_modes_line_alone() -> None:
    assert with_mode(ChatFormat(), "Be brief.").system == "Be brief."
    assert with_mode(ChatFormat(), "") == ChatFormat()


@pytest.mark.parametrize(
    ("modes", "said"),
    [
        ({"long": "Think."}, "no line asks for short"),
        ({"long": "Think.", "short": "Think."}, "the same line"),
        ({"long": "Think.", "short": ""}, "modes.short"),
        ({"long": "Think.", "middling": "x"}, "modes.middling"),
    ],
)
def test_modes_that_a_reader_could_not_use_are_refused(modes: dict[str, str], said: str) -> None:
    raw = recipe_with({})
    assert any(said in problem for problem in problems_of(raw | {"mixes": [raw["mixes"][-1] | {"modes": modes}]}))


def test_a_recipe_without_modes_keeps_its_keys(tmp_path: Path) -> None:
    assert all("modes" not in mix for mix in stage_configs(parse_recipe(RECIPE), tmp_path)["mix"]["mixes"])
