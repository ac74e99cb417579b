"""Prompts: identity is content; a bad row is kept aside with its reason and the rest goes on."""

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distill.config.sources import Columns, FileSource, GymSource, HubSource, Range
from distill.core.errors import InputError
from distill.core.schema import Dropped, prompt_id
from distill.grading.reasoning_gym_scorer import parse_entry
from distill.prompts.load import Loaded, count_reasons, load_prompts
from distill.prompts.references import final_value


def load(path: Path, **changes: object) -> Loaded:
    settings = {"max_problem_chars": 100, "num_prompts": None, "seed": 0} | changes
    return load_prompts([FileSource(path=path.name)], base=path.parent, **settings)  # type: ignore[arg-type] # a test's keywords


def write(path: Path, lines: list[object]) -> Path:
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def test_every_bad_row_is_kept_with_its_reason(tmp_path: Path) -> None:
    rows: list[object] = [
        {"problem": "1 + 1 = ?", "answer": "2"},
        {"problem": "1  +  1 = ?", "answer": "2"},
        {"problem": "", "answer": "2"},
        {"problem": "   ", "answer": "2"},
        {"answer": "2"},
        {"problem": 7, "answer": "2"},
        {"problem": "x" * 101, "answer": "2"},
        {"problem": "no answer?"},
        {"problem": "odd answer?", "answer": {"a": 1}},
        "{torn",
        "[1, 2]",
        {"problem": "2 + 2 = ?", "answer": 4},
    ]
    loaded = load(write(tmp_path / "p.jsonl", rows))
    assert [prompt.problem for prompt in sorted(loaded.prompts, key=lambda p: p.problem)] == ["1 + 1 = ?", "2 + 2 = ?"]
    assert count_reasons(loaded.drops) == {
        "empty problem": 2,
        "answer is not text or number": 1,
        "duplicate": 1,
        "no answer": 1,
        "no problem": 1,
        "not JSON: JSONDecodeError": 1,
        "not a JSON object": 1,
        "problem is not text": 1,
        "problem too long": 1,
    }
    assert len(loaded.prompts) + len(loaded.drops) == len(rows)


def test_identity_and_choice_do_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    rows = [{"problem": f"{n} + 1", "answer": n + 1} for n in range(30)]
    forward = load(write(tmp_path / "a.jsonl", list(rows)), num_prompts=10)
    backward = load(write(tmp_path / "b.jsonl", list(reversed(rows))), num_prompts=10)
    assert [p.prompt_id for p in forward.prompts] == [p.prompt_id for p in backward.prompts]
    larger = load(tmp_path / "a.jsonl", num_prompts=20)
    assert {p.prompt_id for p in forward.prompts} < {p.prompt_id for p in larger.prompts}


def test_a_prompt_that_is_in_a_benchmark_is_dropped(tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", [{"problem": "a", "answer": 1}, {"problem": "b", "answer": 2}])
    loaded = load(path, exclude={prompt_id("a"): "held-out"})
    assert [p.problem for p in loaded.prompts] == ["b"]
    assert count_reasons(loaded.drops) == {"in a benchmark": 1}


def test_parquet_and_jsonl_give_the_same_prompts(tmp_path: Path) -> None:
    rows = [{"problem": "a", "answer": "1", "level": "Level 2"}, {"problem": "b", "answer": "2", "level": None}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    from_parquet = load(tmp_path / "p.parquet").prompts
    from_jsonl = load(write(tmp_path / "p.jsonl", list(rows))).prompts
    assert [p.prompt_id for p in from_parquet] == [p.prompt_id for p in from_jsonl]
    assert {p.level for p in from_parquet} == {"Level 2", ""}


def test_a_missing_file_says_what_to_correct(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no file at"):
        load(tmp_path / "absent.jsonl")


def test_gsm8k_references_are_reduced_to_the_value() -> None:
    assert final_value("She sold 48/2 = 24.\n#### 1,072") == "1072"
    assert final_value("\\frac{1}{2}") == "\\frac{1}{2}"


def test_reasoning_gym_prompts_carry_their_entry() -> None:
    source = GymSource(task="chain_sum", seed=3, size=5)
    loaded = load_prompts([source], base=Path(), max_problem_chars=500, num_prompts=None, seed=0)
    assert loaded.prompts
    entry = json.loads(loaded.prompts[0].entry)
    assert entry["task"] == "chain_sum"
    assert entry["entry"]["answer"] == loaded.prompts[0].reference


def test_what_a_gym_task_tells_of_a_problem_becomes_its_level() -> None:
    source = GymSource(task="chain_sum", seed=3, size=8, params={"min_terms": 2, "max_terms": 3}, level="num_terms")
    loaded = load_prompts([source], base=Path(), max_problem_chars=500, num_prompts=None, seed=0)
    terms = {
        prompt.level: len(json.loads(prompt.entry)["entry"]["metadata"]["expression"].split()) // 2 + 1
        for prompt in loaded.prompts
    }
    assert terms == {"2": 2, "3": 3}


def test_what_a_gym_problem_was_made_with_becomes_its_level() -> None:
    source = GymSource(task="knights_knaves", seed=3, size=4, params={"n_people": 3}, level="n_people")
    loaded = load_prompts([source], base=Path(), max_problem_chars=2000, num_prompts=None, seed=0)
    assert [prompt.level for prompt in loaded.prompts] == ["3"] * 4


def test_a_level_that_a_gym_task_does_not_tell_is_an_input_error() -> None:
    with pytest.raises(InputError, match=r"tells no .terms. of a problem -> set level to one of: .*num_terms"):
        load_prompts(
            [GymSource(task="chain_sum", level="terms")], base=Path(), max_problem_chars=99, num_prompts=None, seed=0
        )


def test_the_range_that_a_gym_problem_was_drawn_from_is_no_level() -> None:
    source = GymSource(task="leg_counting", size=1, level="num_instances")
    with pytest.raises(InputError, match=r"tells no .num_instances. of a problem"):
        load_prompts([source], base=Path(), max_problem_chars=999, num_prompts=None, seed=0)


def test_an_unknown_gym_task_is_an_input_error() -> None:
    with pytest.raises(InputError, match="no_such_task"):
        load_prompts([GymSource(task="no_such_task")], base=Path(), max_problem_chars=9, num_prompts=None, seed=0)


def test_a_task_that_follows_the_hash_seed_is_made_under_a_fixed_one(monkeypatch: pytest.MonkeyPatch) -> None:
    seeds = []

    def run(*arguments: Any, **options: Any) -> Any:
        seeds.append(options["env"]["PYTHONHASHSEED"])
        return real_run(*arguments, **options)

    real_run = subprocess.run
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    loaded = load_prompts(
        [GymSource(task="ransom_note", size=3)], base=Path(), max_problem_chars=9999, num_prompts=None, seed=0
    )
    assert len(loaded.prompts) == 3 and seeds == ["0"]


@pytest.mark.parametrize(
    ("code", "shown"), [(2, "^min_note_length must be"), (1, "reasoning_gym task 'ransom_note': min")]
)
def test_what_fails_in_that_process_is_told(code: int, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = subprocess.CompletedProcess([], code, "", "Traceback\nmin_note_length must be positive -> raise it\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    monkeypatch.delenv("PYTHONHASHSEED", raising=False)
    with pytest.raises(InputError, match=shown):
        load_prompts([GymSource(task="ransom_note")], base=Path(), max_problem_chars=9, num_prompts=None, seed=0)


class Kept:
    """A data set with types of its own, as `datasets` builds it, with the folders that it keeps its files in."""

    def __init__(self, *folders: str) -> None:
        self.config = SimpleNamespace(data_files={"test": ["hf://datasets/owner/sums@main/x.parquet"]})
        self.folders = folders

    def download_and_prepare(self) -> None:
        """Nothing to fetch."""

    def as_dataset(self, split: str) -> SimpleNamespace:
        assert split == "test"
        rows = datasets.Dataset.from_list([{"problem": "1 + 1 = ?", "answer": "2"}])
        files = [{"filename": f"/cache/owner___sums/default/0.0.0/{name}/x.arrow"} for name in self.folders]
        return SimpleNamespace(cache_files=files, with_format=rows.with_format)


@pytest.mark.parametrize(
    ("folders", "commits"),
    [
        (("0" * 39 + "a",), {"owner/sums@main": "0" * 39 + "a"}),
        (("0" * 39 + "a", "0" * 39 + "a"), {"owner/sums@main": "0" * 39 + "a"}),
        (("0" * 40, "1" * 40), {}),  # shards of two versions are no version
        (("5f" * 32,), {}),  # a data set with a loading script: the hash of the script
        ((), {}),  # kept in memory only
    ],
)
def test_the_commit_that_was_read_is_known_though_none_was_pinned(
    folders: tuple[str, ...], commits: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "load_dataset_builder", lambda *_, **__: Kept(*folders))
    source = HubSource(dataset="owner/sums", split="test")
    loaded = load_prompts([source], base=Path(), max_problem_chars=99, num_prompts=None, seed=0)
    assert len(loaded.prompts) == 1 and loaded.commits == commits


def test_rows_that_where_leaves_out_are_counted_and_a_misspelt_column_is_an_error(tmp_path: Path) -> None:
    rows: list[object] = [{"problem": f"{n} + 1", "answer": n + 1, "level": n} for n in range(9)]
    path = write(tmp_path / "p.jsonl", rows)
    source = FileSource(path=path.name, where={"level": Range(min=6)}, max_rows=8)
    loaded = load_prompts([source], base=tmp_path, max_problem_chars=99, num_prompts=None, seed=0)
    assert (len(loaded.prompts), dict(loaded.skipped), loaded.drops) == (2, {"excluded by where": 6}, [])
    wrong = FileSource(path=path.name, where={"levle": 3})
    with pytest.raises(InputError, match="no row has 'levle', named in its where -> did you mean 'level'"):
        load_prompts([wrong], base=tmp_path, max_problem_chars=99, num_prompts=None, seed=0)


def test_a_column_that_no_row_has_names_those_there_are(tmp_path: Path) -> None:
    write(tmp_path / "p.jsonl", [{"question": "1 + 1", "answer": 2}])
    with pytest.raises(InputError, match="no row has 'problem', named in its columns -> known: answer, question"):
        load(tmp_path / "p.jsonl")


def test_references_of_a_majority_are_marked_and_rows_are_accounted_for(tmp_path: Path) -> None:
    votes = {"a": ["1", "1", "2"], "b": ["1", "2"], "c": ["5"]}
    rows: list[object] = [{"q": name, "t": f"\\boxed{{{vote}}}"} for name, cast in votes.items() for vote in cast]
    path = write(tmp_path / "p.jsonl", rows)
    columns = Columns(problem="q", reference="t", reference_from="majority")
    source = FileSource(path=path.name, columns=columns)
    loaded = load_prompts([source], base=tmp_path, max_problem_chars=99, num_prompts=None, seed=0)
    assert [(p.problem, p.reference, p.reference_origin) for p in loaded.prompts] == [("a", "1", "majority")]
    assert count_reasons(loaded.drops) == {"one more vote for its problem": 3, "its traces have no majority": 2}
    assert len(loaded.prompts) + len(loaded.drops) == len(rows)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"answer_kind": "poem"}, "unknown kind of answer 'poem'"),
        ({"answer_kind": "reasoning_gym"}, "reasoning-gym row without its entry"),
    ],
)
def test_a_kind_of_answer_in_a_column_is_checked(row: dict[str, str], reason: str, tmp_path: Path) -> None:
    path = write(tmp_path / "p.jsonl", [{"problem": "1 + 1", "answer": "2", **row}])
    source = FileSource(path=path.name, columns=Columns(answer_kind="answer_kind"))
    loaded = load_prompts([source], base=tmp_path, max_problem_chars=99, num_prompts=None, seed=0)
    assert count_reasons(loaded.drops) == {reason: 1}


def test_a_generated_problem_without_a_reference_is_left_to_its_scorer() -> None:
    loaded = load_prompts(
        [GymSource(task="graph_color", size=2)], base=Path(), max_problem_chars=9_000, num_prompts=None, seed=0
    )
    assert [prompt.reference for prompt in loaded.prompts] == ["", ""]
    assert all(parse_entry(prompt.entry).entry["answer"] is None for prompt in loaded.prompts)


def test_superscripts_are_part_of_a_problem() -> None:
    assert prompt_id("What is 3⁴?") != prompt_id("What is 34?")
    assert prompt_id("What is ３４?") == prompt_id("What is 34?")


def test_many_reasons_are_counted_in_one_pass() -> None:
    class Read(str):
        """A reason that counts how often it is compared."""

        compared = 0
        __hash__ = str.__hash__

        def __eq__(self, other: object) -> bool:
            Read.compared += 1
            return str.__eq__(self, other)

    drops = [Dropped("prompts", "", Read(f"unknown role {number % 100}"), "", "") for number in range(1000)]
    assert count_reasons([*drops, drops[7]])["unknown role 7"] == 11
    assert next(iter(count_reasons([*drops, drops[7]]))) == "unknown role 7"
    assert Read.compared < 10 * len(drops)
