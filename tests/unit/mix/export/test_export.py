"""Exports: every format holds the arm's rows, and `datasets` loads what was written."""

import dataclasses
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from distill.cli import export as exporting
from distill.cli.export import push_arm
from distill.config.models import ModelConfig
from distill.config.sources import GymSource
from distill.config.teachers import WorkedExample
from distill.core.errors import InputError
from distill.core.run_dir import model_record
from distill.core.schema import Trace, content_hash, prompt_id
from distill.generate.dataset_teacher import Tally, usable_rows
from distill.grading import grade, grade_request
from distill.mix.export import write
from distill.mix.export.dataset_card import OWN_PRESETS, card, usage
from distill.mix.export.formats import FORMATS
from distill.mix.export.licences import Source, front_matter_licences, model_licences, package_licences, prompts_source
from distill.mix.export.rows import GRADED_BY
from distill.mix.export.terms import refuse_forbidden
from distill.mix.export.write import export, export_key
from distill.mix.stage import mix_stage
from distill.ops.publish import push
from distill.prompts.load import load_prompts
from distill.prompts.rows.read import read_rows
from distill.run.context import RunContext
from tests.fixtures.data_sources import source_of, teacher_of
from tests.fixtures.hub import Hub
from tests.fixtures.mix_run import make_run, prompt, trace


def solved(number: int, pool: str) -> Trace:
    """A trace that the verifier calls right."""
    return trace(number, pool, completion=f"{trace(number, pool).completion}\\boxed{{{number + 1}}}")


TRACES = [solved(number, pool) for number in range(20) for pool in ("long", "short")]
WRONG = [trace(3, "long", 1, verdict="INCORRECT", finish_reason="length", completion="Hm, „7“?")]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunContext:
    run = make_run(tmp_path_factory.mktemp("export"), [*TRACES, *WRONG], num_prompts=20, shards=2)
    manifest = dataclasses.replace(mix_stage(run), key="k", code_version="1", finished_at="2026-11-25T00:00:00Z")
    run.run_dir.write_manifest(manifest, "mix")
    return run


def exported(run: RunContext, target: Path, kind: str) -> Path:
    assert export(run.run_dir, run.recipe, "mix-long", kind=kind, target=target) == 20
    return target


def rows_of(folder: Path, tmp_path: Path) -> list[dict[str, Any]]:
    return list(load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "cache")))


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "train.jsonl").read_text().splitlines()]


def test_a_dataset_folder_loads_by_its_card(run: RunContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write, "SHARD_ROWS", 8)
    folder = exported(run, tmp_path / "out", "dataset")
    names = sorted(path.name for path in (folder / "data").iterdir())
    assert names == [f"train-0000{number}-of-00003.parquet" for number in range(3)]
    rows = {row["prompt_id"]: row for row in rows_of(folder, tmp_path)}
    assert len(rows) == 20
    row = rows[content_hash("p3")]
    assert (row["problem"], row["answer"], row["level"]) == (prompt(3).problem, "4", "Level 3")
    assert row["messages"][-1]["content"] == solved(3, row["pool"]).completion.strip()
    assert sum(one["pool"] == "long" for one in rows.values()) == 4


def test_the_card_has_counts_provenance_and_every_licence(run: RunContext, tmp_path: Path) -> None:
    text = (exported(run, tmp_path / "out", "dataset") / "README.md").read_text()
    assert "| long | 20.0% | 4 | 20.0% |" in text
    assert "| prompts | prompts.jsonl | not recorded here |" in text
    assert "| teacher long | somewhere/model | not recorded here | https://huggingface.co/somewhere/model |" in text
    assert 'license: "other"' in text
    assert "the verifier accepted 40 traces; left out by the filters: none" in text


@pytest.mark.parametrize("kind", ["messages", "prompt_completion", "sharegpt"])
def test_json_lines_hold_the_same_turns_in_every_format(run: RunContext, tmp_path: Path, kind: str) -> None:
    folder = exported(run, tmp_path / kind, kind)
    assert rows_of(folder, tmp_path) == lines_of(folder)
    first = lines_of(folder)[0]
    if kind == "messages":
        turns = first["messages"]
    elif kind == "prompt_completion":
        turns = first["prompt"] + first["completion"]
        assert [turn["role"] for turn in first["completion"]] == ["assistant"]
    else:
        names = {"human": "user", "gpt": "assistant"}
        spoken = [{"role": names[turn["from"]], "content": turn["value"]} for turn in first["conversations"]]
        turns = [{"role": "system", "content": first["system"]}, *spoken]
    assert [turn["role"] for turn in turns] == ["system", "user", "assistant"]
    assert turns[0]["content"] == "Be brief."


def test_open_r1_groups_all_traces_of_a_prompt_right_or_wrong(run: RunContext, tmp_path: Path) -> None:
    rows = {row["uuid"]: row for row in rows_of(exported(run, tmp_path / "out", "open_r1"), tmp_path)}
    row = rows[content_hash("p3")]
    assert row["pools"] == ["long", "long", "short"]
    assert row["correctness_math_verify"] == [True, False, True]
    assert row["is_reasoning_complete"] == [True, False, True]
    assert row["generations"][1] == "Hm, „7“?"
    assert (row["correctness_count"], row["answer"]) == (2, "4")
    assert len(rows) == 20


def test_nothing_is_overwritten_and_nothing_half_written_stays(
    run: RunContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported(run, tmp_path / "out", "messages")
    with pytest.raises(InputError, match="exists already"):
        exported(run, tmp_path / "out", "messages")
    with pytest.raises(InputError, match="it has: long, short, mix-long"):
        export(run.run_dir, run.recipe, "mix-lnog", kind="messages", target=tmp_path / "other")
    monkeypatch.setattr(write, "card", None)
    with pytest.raises(TypeError):
        exported(run, tmp_path / "third", "dataset")
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == ["out"]


def test_a_place_that_cannot_be_written_is_told(
    run: RunContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="out: a part of this path is a file"):
        exported(run, tmp_path / "file" / "out", "messages")

    def refuse(self: Path, *_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "mkdir", refuse)  # the tests may run as root, who may write anywhere
    with pytest.raises(InputError, match="out: no write access there -> name another folder with --to"):
        exported(run, tmp_path / "out", "messages")


def test_a_push_is_kept_apart_by_all_that_decides_it(run: RunContext) -> None:
    manifest, found = run.run_dir.read_manifest("mix"), [Source("prompts", "a", ("mit",), "page")]
    assert manifest is not None

    def key(licence: str = "mit", student: str = "", description: str = run.recipe.description) -> str:
        recipe = run.recipe.model_copy(update={"description": description})
        return export_key(recipe, manifest, "mix-long", "messages", student, [found[0]._replace(licences=(licence,))])

    assert key() == key()
    assert len({key(), key("cc-by-4.0"), key(student="s"), key(description="Another.")}) == 4


def test_licences_come_from_cards_recipes_and_packages(tmp_path: Path) -> None:
    stated = ModelConfig(sources=("org/name",), licence="MIT License")
    assert model_licences("", stated) == ("mit",) and model_licences("", ModelConfig(sources=("org/name",))) == ()
    (tmp_path / "README.md").write_text("---\nlicense: apache-2.0\n---\n")
    assert model_licences(str(tmp_path), stated) == ("apache-2.0",)
    (tmp_path / "README.md").write_text("---\nlicense: other\n---\n")
    assert model_licences(str(tmp_path), stated) == ("mit",), "the recipe knows which"
    assert model_licences(str(tmp_path), ModelConfig(sources=("org/name",))) == ("other",)
    assert package_licences("no-such-package-at-all") == ()
    assert set(FORMATS) == {"dataset", "open_r1", "messages", "prompt_completion", "sharegpt", "text"}


@pytest.mark.parametrize(
    ("card", "licences"),
    [
        ("---\nlicense: apache-2.0\nlanguage: en\n---\n# Card", ["apache-2.0"]),
        ("---\nlicense: 'cc-by-nd-4.0'  # theirs\n---\n", ["cc-by-nd-4.0"]),
        ('\ufeff---\r\nlicense: "mit"\r\n---\r\n# Card\r\n', ["mit"]),
        ("---\nlicense:\n  cc-by-nd-4.0\n---\n", ["cc-by-nd-4.0"]),
        ("---\nlicense:\n- mit\n- cc-by-sa-4.0\n---\n", ["mit", "cc-by-sa-4.0"]),
        ("---\nlicense: [mit, mit]\n---\n", ["mit"]),
        ("---\nlicense: other\nlicense_name: Qwen Research License\n---\n", ["qwen-research"]),
        ("---\nlicense: other\n---\n", ["other"]),
        ("---\nlicense: mit\nlicense_name: own\n---\n", ["mit"]),
        ("---\nlicense: {a: [b\n---\n", []),
        ("---\nlicense: 2\n---\n", []),
        ("---\n- license\n---\n", []),
        ("# license: mit", []),
        ("# Card\n\n---\nlicense: mit\n---\n", []),
    ],
)
def test_front_matter_is_read_as_yaml(card: str, licences: list[str]) -> None:
    assert front_matter_licences(card) == tuple(licences)


def test_text_is_what_the_student_is_taught(run: RunContext, tmp_path: Path) -> None:
    record = {"model": {"path": run.models["m"].path}}
    run.run_dir.write_bytes(json.dumps(record).encode(), *model_record("m"))
    rows = lines_of(exported(run, tmp_path / "text", "text"))
    assert rows[0]["prompt"].endswith("<|im_start|>assistant\n") and "Be brief." in rows[0]["prompt"]
    assert rows[0]["completion"].endswith("<|im_end|>") and " make " in rows[0]["completion"]
    with pytest.raises(InputError, match="no student 't' -> --student s"):
        export(run.run_dir, run.recipe, "short", kind="text", target=tmp_path / "other", student="t")


def test_the_card_says_how_other_trainers_use_it(run: RunContext, tmp_path: Path) -> None:
    text = (exported(run, tmp_path / "out", "sharegpt") / "README.md").read_text()
    entry = json.loads(text.split("```json")[-1].split("```")[0])["tiny-mix-long"]
    assert entry["columns"] == {"messages": "conversations", "system": "system"}
    assert 'preset = "own-sharegpt"' in text and "format `text`" in text and "mask_history" not in text
    example = WorkedExample(problem="1 + 1?", completion="2")
    chat = run.recipe.student_chat.model_copy(update={"examples": (example,)})
    recipe = run.recipe.model_copy(update={"student_chat": chat})
    assert "mask_history" in usage(recipe, "mix-long", "messages", {})
    assert "3 end_of_turn_inside" in usage(recipe, "mix-long", "text", {"end_of_turn_inside": 3})


@pytest.mark.parametrize("kind", ["dataset", "open_r1", "messages", "prompt_completion", "sharegpt"])
def test_an_export_comes_back_as_it_was(run: RunContext, tmp_path: Path, kind: str) -> None:
    folder = exported(run, tmp_path / "out", kind)
    made = [prompt(number) for number in range(20)]
    if kind in ("dataset", "open_r1"):
        loaded = load_prompts(
            [source_of(preset=OWN_PRESETS[kind], path=str(folder))],
            base=tmp_path, max_problem_chars=999, num_prompts=None, seed=0,
        )  # fmt: skip
        assert {one.problem: (one.reference, one.answer_kind) for one in loaded.prompts} == {
            one.problem: (one.reference, one.answer_kind) for one in made
        }
    pattern = {"columns": {"problem_pattern": "(?:Q: )?(.*)"}}
    teacher = teacher_of(preset=OWN_PRESETS[kind], source={"path": str(folder)}, **pattern)
    prompts = {prompt_id(one.problem): one for one in made}
    rows = read_rows(teacher.source, tmp_path, teacher.columns, teacher.where, (tally := Tally()).counts)
    found = list(usable_rows(teacher, rows, prompts, tally))
    written = {
        (made[number].problem, one.completion.strip()) for one in [*TRACES, *WRONG] for number in [number_of(one)]
    }
    back = {(prompts[one.prompt_id].problem, one.completion.strip()) for one in found}
    assert len(found) == (41 if kind == "open_r1" else 20), tally.counts
    assert back == written if kind == "open_r1" else back < written
    if kind == "open_r1":
        assert sorted(one.finish_reason for one in found) == ["length"] + 40 * ["stop"]
    regraded = verdicts((one.prompt_id, one.completion) for one in found)
    assert regraded.items() <= verdicts((one.prompt_id, one.completion) for one in [*TRACES, *WRONG]).items()
    assert sum(verdict == "CORRECT" for verdict in regraded.values()) == (40 if kind == "open_r1" else 20)


def verdicts(traces: Iterable[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """(prompt, text) -> what the verifier says of it."""
    by_id = {prompt(number).prompt_id: prompt(number) for number in range(20)}
    by_id |= {prompt_id(one.problem): one for one in by_id.values()}
    return {
        (by_id[key].problem, text.strip()): grade(
            grade_request(by_id[key], text, finish_reason="stop", reasoning_end="</think>")
        ).verdict
        for key, text in traces
    }


def test_rendered_text_comes_back_as_it_was(run: RunContext, tmp_path: Path) -> None:
    record = {"model": {"path": run.models["m"].path}}
    run.run_dir.write_bytes(json.dumps(record).encode(), *model_record("m"))
    folder = exported(run, tmp_path / "out", "text")
    columns = {"problem": "prompt", "problem_pattern": r".*<\|im_start\|>user\n(?:Q: )?(.*?)<\|im_end\|>.*"}
    source = {"kind": "file", "path": str(folder / "train.jsonl")}
    teacher = teacher_of(kind="dataset", source=source, columns=columns)
    prompts = {prompt_id(prompt(number).problem): prompt(number) for number in range(20)}
    rows = read_rows(teacher.source, tmp_path, teacher.columns, teacher.where, (tally := Tally()).counts)
    found = list(usable_rows(teacher, rows, prompts, tally))
    assert all(one.completion.endswith("<|im_end|>") for one in found), "which is taken off before it is taught again"
    back = verdicts((one.prompt_id, one.completion.removesuffix("<|im_end|>")) for one in found)
    taught = verdicts((one.prompt_id, one.completion) for one in TRACES)
    assert len(back) == 20 and back.items() < taught.items(), tally.counts
    assert set(back.values()) == {"CORRECT"}


def test_a_source_whose_licence_the_recipe_states_is_refused_where_that_forbids_it() -> None:
    stated = source_of(kind="file", path="theirs.jsonl", licence="CC-BY-ND-4.0")
    teacher = teacher_of(kind="dataset", source={"kind": "hub", "dataset": "a/b", "licence": "cc-by-nd-4.0"})
    assert prompts_source(source_of(kind="hub", dataset="openai/gsm8k")).licences == ("mit",)
    assert prompts_source(source_of(preset="gsm8k", path="copy.jsonl")).licences == ("mit",), "a copy of it"
    for source in (prompts_source(stated), prompts_source(teacher.source)):
        with pytest.raises(InputError, match=r"its licence 'cc-by-nd-4\.0' forbids"):
            refuse_forbidden([source])


def test_a_push_brings_shards_and_card_to_the_hub(
    run: RunContext, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: (hub := Hub(), hubs.append(hub))[0])
    monkeypatch.setattr(push, "cache_dir", lambda: tmp_path / "cache" / "models")
    hubs: list[Hub] = []
    where = push_arm(run.run_dir, run.recipe, "mix-long", "dataset", student="", repo="me/data")
    assert where == "https://huggingface.co/datasets/me/data" and hubs[0].repos == {("dataset", "me/data")}
    assert set(hubs[0].files) == {"README.md", "data/train-00000-of-00001.parquet"}
    assert pq.read_table(io.BytesIO(hubs[0].files["data/train-00000-of-00001.parquet"])).num_rows == 20
    assert not list((tmp_path / "cache" / "publish").iterdir())


def test_data_that_may_not_be_passed_on_is_not_pushed(run: RunContext, monkeypatch: pytest.MonkeyPatch) -> None:
    source = Source("prompts", "theirs", ("cc-by-nd-4.0",), "their page")
    monkeypatch.setattr(exporting, "sources", lambda recipe, folders: [source])
    with pytest.raises(InputError, match=r"prompts theirs: its licence 'cc-by-nd-4\.0' forbids"):
        push_arm(run.run_dir, run.recipe, "mix-long", "dataset", student="", repo="me/data")


def test_what_licences_ask_for_stands_in_the_card(run: RunContext, tmp_path: Path) -> None:
    found = [Source("prompts", "sums", ("cc-by-sa-4.0",), "page"), Source("teacher long", "m", ("mit",), "page")]
    manifest = run.run_dir.read_manifest("mix")
    assert manifest is not None
    text = card(run.recipe, "mix-long", manifest, found, 20)
    assert 'license: "cc-by-sa-4.0"' in text and "license_name" not in text
    assert "* Name these sources where you pass it on: sums (cc-by-sa-4.0)." in text
    assert "* Pass it on under the same licence as these: sums (cc-by-sa-4.0)." in text


def number_of(one: Trace) -> int:
    """The number of the problem that a trace is about."""
    return next(number for number in range(20) if prompt(number).prompt_id == one.prompt_id)


def test_a_reasoning_gym_task_comes_back_with_its_scorer(tmp_path: Path) -> None:
    source = GymSource(task="chain_sum", seed=3, size=4)
    made = load_prompts([source], base=tmp_path, max_problem_chars=999, num_prompts=None, seed=0).prompts
    columns = [example_row(dataclasses.asdict(one)) for one in made]
    pq.write_table(pa.Table.from_pylist(columns), tmp_path / "train.parquet")
    own = source_of(preset="own-dataset", path=str(tmp_path))
    back = load_prompts([own], base=tmp_path, max_problem_chars=999, num_prompts=None, seed=0).prompts
    assert len(back) == len(made)
    for one in back:
        answer = f"The answer is <answer>{one.reference}</answer>"
        assert grade(grade_request(one, answer, finish_reason="stop", reasoning_end="")).verdict == "CORRECT"


def example_row(prompt: dict[str, Any]) -> dict[str, Any]:
    known = {name: prompt[name] for name in ("problem", "level", "subject", "source", *GRADED_BY)}
    return {**known, "answer": prompt["reference"]}


@pytest.fixture(scope="module")
def run_with_modes(tmp_path_factory: pytest.TempPathFactory) -> RunContext:
    """Two modes that differ in a variable of the chat template alone."""
    modes = {style: {"template_options": {"enable_thinking": style == "long"}} for style in ("long", "short")}

    def change(raw: dict[str, Any]) -> dict[str, Any]:
        return raw | {"mixes": [*raw["mixes"][:2], raw["mixes"][2] | {"modes": modes}]}

    run = make_run(tmp_path_factory.mktemp("modes"), TRACES, num_prompts=20, change=change)
    manifest = dataclasses.replace(mix_stage(run), key="k", code_version="1", finished_at="2026-11-25T00:00:00Z")
    run.run_dir.write_manifest(manifest, "mix")
    return run


@pytest.mark.parametrize("kind", ["dataset", "messages", "prompt_completion", "sharegpt"])
def test_rows_of_two_modes_are_told_apart_and_come_back_apart(
    run_with_modes: RunContext, tmp_path: Path, kind: str
) -> None:
    folder = exported(run_with_modes, tmp_path / "out", kind)
    field = "template_options" if kind == "dataset" else "chat_template_kwargs"
    assert field in rows_of(folder, tmp_path)[0]
    text = (folder / "README.md").read_text()
    assert f'where = {{ "{field}.enable_thinking" = false }}' in text
    prompts = {prompt_id(prompt(number).problem): prompt(number) for number in range(20)}
    found = {}
    for thinks in (True, False):
        teacher = teacher_of(
            preset=OWN_PRESETS[kind],
            source={"path": str(folder)},
            columns={"problem_pattern": "(?:Q: )?(.*)"},
            where={f"{field}.enable_thinking": thinks},
        )
        rows = read_rows(teacher.source, tmp_path, teacher.columns, teacher.where, (tally := Tally()).counts)
        found[thinks] = [one.completion for one in usable_rows(teacher, rows, prompts, tally)]
    assert {thinks: len(one) for thinks, one in found.items()} == {True: 4, False: 16}
    assert all(("slowly" in completion) == thinks for thinks, one in found.items() for completion in one)


def test_the_rows_of_open_r1_say_how_their_turns_are_asked(run_with_modes: RunContext, tmp_path: Path) -> None:
    rows = rows_of(exported(run_with_modes, tmp_path / "out", "open_r1"), tmp_path)
    for row in rows:
        thinks = "slowly" in row["messages"][-1]["content"]
        assert json.loads(row["template_options"]) == {"enable_thinking": thinks}


def test_without_template_variables_there_is_no_column_for_them(run: RunContext, tmp_path: Path) -> None:
    folder = exported(run, tmp_path / "out", "messages")
    assert lines_of(folder)[0].keys() == {"messages"}
    assert "chat_template_kwargs" not in (folder / "README.md").read_text()
