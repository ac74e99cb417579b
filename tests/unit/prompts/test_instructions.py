"""Rows with instructions in IFEval's layout, and questions that might be refused: how they are read."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from distill.config.benchmarks import DEFINITIONS
from distill.config.sources import Columns, FileSource
from distill.core.errors import InputError
from distill.grading.instructions import Instruction, parse_instructions
from distill.prompts.load import Loaded, load_prompts
from distill.prompts.stage import read_benchmark

COMMA, WORDS = "punctuation:no_comma", "length_constraints:number_words"
ARGUMENTS = {"num_words": 20, "relation": "at least"}


def row(number: int, names: Any, arguments: Any) -> dict[str, Any]:
    prompt = f"Write something, number {number}."
    return {"key": number, "prompt": prompt, "instruction_id_list": names, "kwargs": arguments}


def write_json_lines(file: Path, rows: Sequence[dict[str, Any]]) -> None:
    file.write_text("".join(f"{json.dumps(one)}\n" for one in rows))


def load(folder: Path, *rows: dict[str, Any], **columns: str) -> Loaded:
    write_json_lines(folder / "own.jsonl", rows)
    read = Columns.model_validate({"problem": "prompt", **columns})
    source = FileSource(path="own.jsonl", columns=read, answer_kind="instructions")
    return load_prompts([source], base=folder, max_problem_chars=1000, num_prompts=None, seed=0)


def test_rows_of_the_published_layout_become_prompts(tmp_path: Path) -> None:
    filled = {"num_words": None, "relation": None, "keywords": None}
    loaded = load(
        tmp_path,
        row(1, [COMMA, WORDS], [filled, ARGUMENTS | {"keywords": None}]),
        row(2, json.dumps([COMMA]), json.dumps([{}])),
    )
    assert not loaded.drops
    found = {prompt.problem[-2]: parse_instructions(prompt.entry) for prompt in loaded.prompts}
    assert found == {"1": [Instruction(COMMA, {}), Instruction(WORDS, ARGUMENTS)], "2": [Instruction(COMMA, {})]}
    assert {prompt.reference for prompt in loaded.prompts} == {""}


def test_columns_of_other_names(tmp_path: Path) -> None:
    written = {"prompt": "Write.", "rules": [COMMA], "settings": [{}]}
    loaded = load(tmp_path, written, instructions="rules", arguments="settings")
    assert parse_instructions(loaded.prompts[0].entry) == [Instruction(COMMA, {})]


def test_an_instruction_that_no_rule_checks_is_one_error_with_its_name_and_row(tmp_path: Path) -> None:
    with pytest.raises(InputError) as told:
        load(tmp_path, row(1, [COMMA], [{}]), row(2, ["punctuation:no_coma", "style:rhyme"], [{}, {}]))
    said = str(told.value)
    assert "own.jsonl:2" in said and "'punctuation:no_coma', 'style:rhyme'" in said
    assert "did you mean 'punctuation:no_comma'?" in said


@pytest.mark.parametrize(
    ("names", "arguments", "reason"),
    [
        ([WORDS], [{"num_words": 3}], f"{WORDS} lacks its argument relation"),
        ([WORDS], [{"num_words": None, "relation": None}], f"{WORDS} lacks its argument num_words, relation"),
        ([COMMA, WORDS], [{}], "'kwargs' is no list of a table for each instruction"),
        ([COMMA], "none", "'kwargs' is no list of a table for each instruction"),
        ([], [], "no list of instructions in 'instruction_id_list'"),
        (None, None, "no list of instructions in 'instruction_id_list'"),
    ],
)
def test_rows_that_cannot_be_checked_are_dropped_with_the_reason(
    tmp_path: Path, names: Any, arguments: Any, reason: str
) -> None:
    loaded = load(tmp_path, row(1, [COMMA], [{}]), row(2, names, arguments))
    assert len(loaded.prompts) == 1 and [drop.reason for drop in loaded.drops] == [reason]


def test_the_sets_that_ship_load_whole() -> None:
    for name in ("instructions-60", "harmless-40"):
        config = DEFINITIONS[name].config
        loaded = read_benchmark(name, config, Path("/nowhere"), max_problem_chars=1000, seed=0)
        assert len(loaded.prompts) == DEFINITIONS[name].num_problems and not loaded.drops


def test_arguments_that_no_checker_can_use_are_found_before_a_model_is_asked(tmp_path: Path) -> None:
    rows = [row(1, [COMMA], [{}]), row(2, [WORDS], [ARGUMENTS | {"relation": "more than"}])]
    write_json_lines(tmp_path / "own.jsonl", rows)
    source = FileSource(path="own.jsonl", columns=Columns(problem="prompt"), answer_kind="instructions")
    config = DEFINITIONS["instructions-60"].config.model_copy(update={"source": source})
    loaded = read_benchmark("own", config, tmp_path, max_problem_chars=1000, seed=0)
    assert len(loaded.prompts) == 1 and "more than" in loaded.drops[0].detail
