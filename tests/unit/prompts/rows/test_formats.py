"""Files of every format give the same rows; what is damaged is said, and a bad row is a row with a reason."""

import bz2
import datetime
import gzip
import io
import json
import lzma
from collections.abc import Callable
from decimal import Decimal
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.feather
import pyarrow.parquet as pq
import pytest

from distill.config.sources import FileSource, HubSource
from distill.core.errors import InputError
from distill.prompts.load import Loaded, count_reasons, load_prompts
from distill.prompts.rows.formats import read_file

ROWS = [{"problem": f"What is {n} + 1? „Ja“, he said.", "answer": str(n + 1)} for n in range(5)]
LINES = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS).encode()
TABLE = pa.Table.from_pylist(ROWS)


def load(path: str, base: Path) -> Loaded:
    return load_prompts([FileSource(path=path)], base=base, max_problem_chars=9999, num_prompts=None, seed=0)


def assert_read(path: str, base: Path) -> None:
    loaded = load(path, base)
    found = sorted((prompt.problem, prompt.reference) for prompt in loaded.prompts)
    assert found == [(row["problem"], row["answer"]) for row in ROWS], count_reasons(loaded.drops)


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    return bytes(sink.getvalue())


def ipc_stream(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def feather(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pyarrow.feather.write_feather(table, sink)
    return sink.getvalue()


def parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def csv_text(delimiter: str) -> bytes:
    rows = [f'"{row["problem"]}"{delimiter}{row["answer"]}' for row in ROWS]
    return "\r\n".join([f"problem{delimiter}answer", *rows]).encode()


FILES: dict[str, bytes] = {
    "rows.jsonl": LINES,
    "rows.ndjson": b"\xef\xbb\xbf" + LINES,
    "rows.json": LINES,
    "array.json": json.dumps(ROWS).encode(),
    "pretty.json": json.dumps(ROWS, indent=2, ensure_ascii=False).encode(),
    "objects.json": "\n".join(json.dumps(row, indent=1) for row in ROWS).encode(),
    "array.jsonl": json.dumps(ROWS).encode(),
    "rows.csv": csv_text(","),
    "bom.csv": b"\xef\xbb\xbf" + csv_text(","),
    "semicolons.csv": csv_text(";"),
    "rows.tsv": csv_text("\t"),
    "rows.parquet": parquet(TABLE),
    "ROWS.PARQUET": parquet(TABLE),
    "rows.arrow": ipc_stream(TABLE),
    "rows.feather": feather(TABLE),
    "rows.jsonl.gz": gzip.compress(LINES),
    "rows.json.gz": gzip.compress(json.dumps(ROWS, indent=1).encode()),
    "rows.csv.gz": gzip.compress(csv_text(",")),
    "parts.jsonl.gz": gzip.compress(LINES[:100]) + gzip.compress(LINES[100:]),
    "rows.jsonl.zst": zstd(LINES),
    "rows.jsonl.bz2": bz2.compress(LINES),
    "rows.jsonl.xz": lzma.compress(LINES),
    "rows.parquet.gz": gzip.compress(parquet(TABLE)),
}


@pytest.mark.parametrize("name", FILES)
def test_every_format_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(FILES[name])
    assert_read(name, tmp_path)


def test_a_folder_is_read_with_what_describes_it_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    (folder / "part").mkdir(parents=True)
    for number, row in enumerate(ROWS):
        (folder / "part" / f"{number}.jsonl").write_text(json.dumps(row))
    (folder / "README.md").write_text("# Rows")
    (folder / "dataset_info.json").write_text("{}")
    (folder / ".hidden.jsonl").write_text("{torn")
    assert_read("data", tmp_path)
    assert_read("data/", tmp_path)
    assert_read("data/**/*.jsonl", tmp_path)
    (folder / "twice.parquet").write_bytes(parquet(TABLE))
    with pytest.raises(InputError, match=r"several formats \(5 of \.jsonl, 1 of \.parquet\)"):
        load("data", tmp_path)


def test_a_name_with_the_characters_of_a_glob_is_a_name(tmp_path: Path) -> None:
    (tmp_path / "rows[1]*.jsonl").write_bytes(LINES)
    assert_read("rows[1]*.jsonl", tmp_path)


def test_saved_data_sets_are_read_by_both_kinds_of_source(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_list(ROWS)
    rows.save_to_disk(tmp_path / "one", num_shards=2)
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(tmp_path / "two")
    assert_read("one", tmp_path)
    assert_read("two/test", tmp_path)
    with pytest.raises(InputError, match=r"splits train, test -> name one"):
        load("two", tmp_path)
    for folder, split in (("one", "train"), ("two", "test")):
        source = HubSource(dataset=str(tmp_path / folder), split=split)
        assert len(load_prompts([source], base=tmp_path, max_problem_chars=99, num_prompts=None, seed=0).prompts) == 5


@pytest.mark.parametrize(
    ("name", "data", "what"),
    [
        ("rows.txt", LINES, "not taken"),
        ("rows", LINES, "without suffix"),
        ("rows.parquet", b"PAR1 but not", "rows.parquet is damaged"),
        ("rows.jsonl.gz", gzip.compress(LINES)[:-20], "rows.jsonl.gz is damaged"),
        ("rows.jsonl.gz", LINES, "rows.jsonl.gz is damaged"),
        ("rows.jsonl.zst", zstd(LINES)[:-9], "rows.jsonl.zst is damaged"),
        ("rows.arrow", LINES, "rows.arrow is damaged"),
        ("rows.json", json.dumps(ROWS)[:-30].encode(), "rows.json is damaged"),
        ("rows.csv", b"problem,answer\n\xff\xfe,1\n", "rows.csv is damaged"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(name: str, data: bytes, what: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match=what):
        load(name, tmp_path)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"problem": "Count the \\ud83d faces: 3+1?", "answer": "4"}', "half of a surrogate pair in a text"),
        ('{"problem": "3+1?", "answer": "4", "level": "\\udc00"}', "half of a surrogate pair in a text"),
        ('{"problem": 7, "answer": "\\ud800"}', "half of a surrogate pair in a text"),
        ('{"problem": "10^5000?", "answer": 1' + "0" * 5000 + "}", "a number has too many digits"),
        ('{"problem": "?", "answer": "1", "deep": ' + "[" * 100_000 + "}", "JSON is nested too deeply"),
        ('{"problem": "3+1?", "answer": NaN}', "no answer"),
        ('{"problem": "3+1?", "answer": -Infinity}', "no answer"),
        ('{"problem": "3+1?", "answer": "{\\"ground_truth\\": \\"4\\"}"}', "answer is a JSON object"),
        ('{"problem": "3+1?", "answer": "proof"}', "answer says that there is none"),
        ('{"problem": "3+1?", "answer": "notfound"}', "answer says that there is none"),
        ('{"problem": "3+1?", "answer": [{"a": 1}]}', "answer is not text or number"),
    ],
)
def test_a_bad_row_is_dropped_with_its_reason_and_the_others_stay(line: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_bytes(LINES + line.encode() + b"\n")
    loaded = load("rows.jsonl", tmp_path)
    assert len(loaded.prompts) == 5
    (found,) = count_reasons(loaded.drops)
    assert found.startswith(reason)
    assert json.dumps([drop.row for drop in loaded.drops], ensure_ascii=False).encode()


def test_a_bad_row_of_an_array_is_dropped_with_its_reason_and_the_others_stay(tmp_path: Path) -> None:
    bad = ['{"problem": "\\ud83d", "answer": "4"}', '{"problem": "?", "answer": 1' + "0" * 5000 + "}", "7"]
    (tmp_path / "rows.json").write_text("[" + ", ".join([*bad, *map(json.dumps, ROWS)]) + "]")
    loaded = load("rows.json", tmp_path)
    assert len(loaded.prompts) == 5
    reasons = {"a number has too many digits", "half of a surrogate pair in a text", "not a JSON object"}
    assert set(count_reasons(loaded.drops)) == reasons


def test_a_pair_of_surrogates_is_a_character_and_line_separators_do_not_split(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"problem": "\\ud83d\\ude00 3+1?\u2028 Say it.", "answer": "4"}\n')
    (prompt,) = load("rows.jsonl", tmp_path).prompts
    assert prompt.problem == "😀 3+1?\u2028 Say it."


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("4.50", "4.50"),
        ("3.14159265358979323846", "3.14159265358979323846"),
        ("34", "34"),
        ("true", "True"),
        ('"2023-01-05"', "2023-01-05"),
        ('["2", "3"]', "2, 3"),
        ("[1, null, 2]", "1, 2"),
    ],
)
def test_an_answer_is_the_text_that_stands_in_the_file(value: str, text: str, tmp_path: Path) -> None:
    line = f'{{"problem": "?", "answer": {value}}}\n{{"problem": "??", "answer": "x"}}\n'
    (tmp_path / "rows.jsonl").write_text(line)
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "train.jsonl").write_text(line)
    for source in (FileSource(path="rows.jsonl"), HubSource(dataset=str(tmp_path / "hub"))):
        loaded = load_prompts([source], base=tmp_path, max_problem_chars=99, num_prompts=None, seed=0)
        assert {prompt.problem: prompt.reference for prompt in loaded.prompts} == {"?": text, "??": "x"}


@pytest.mark.parametrize(
    ("column", "text"),
    [
        (pa.array([Decimal("4.50")]), "4.50"),
        (pa.array([1234.1], pa.float32()), "1234.1"),
        (pa.array([[33.33, 0.1]], pa.list_(pa.float32())), "33.33, 0.1"),
        (pa.array([datetime.date(2023, 1, 5)]), "2023-01-05"),
        (pa.array([b"34"]), "34"),
        (pa.array(["34"]).dictionary_encode(), "34"),
        (pa.array(["34"], pa.large_string()), "34"),
        (pa.array(["34"], pa.string_view()), "34"),
    ],
)
def test_typed_columns_become_plain_text(column: pa.Array, text: str, tmp_path: Path) -> None:
    pq.write_table(pa.table({"problem": ["?"], "answer": column}), tmp_path / "rows.parquet")
    (prompt,) = load("rows.parquet", tmp_path).prompts
    assert prompt.reference == text


@pytest.mark.parametrize("column", [pa.array([float("nan")]), pa.array([None], pa.string()), pa.array([b"\xff\xfe"])])
def test_typed_columns_without_a_text_are_dropped(column: pa.Array, tmp_path: Path) -> None:
    pq.write_table(pa.table({"problem": ["?"], "answer": column}), tmp_path / "rows.parquet")
    loaded = load("rows.parquet", tmp_path)
    assert not loaded.prompts and set(count_reasons(loaded.drops)) <= {"no answer", "answer is not text or number"}


def test_a_value_that_python_cannot_hold_costs_its_row_only(tmp_path: Path) -> None:
    times = pa.array([0, 10**12, 1], pa.timestamp("s"))
    pq.write_table(
        pa.table({"problem": ["a", "b", "c"], "answer": ["1", "2", "3"], "t": times}), tmp_path / "r.parquet"
    )
    loaded = load("r.parquet", tmp_path)
    assert sorted(prompt.problem for prompt in loaded.prompts) == ["a", "c"] and len(loaded.drops) == 1


def test_rows_of_a_table_with_more_cells_than_columns_are_dropped() -> None:
    found = list(read_file("x.csv", io.BytesIO(b"problem,answer\n1,2,3\n\n4,5\n")))
    assert [(row.where, row.error) for row in found] == [("x.csv:1", "3 cells below 2 columns"), ("x.csv:2", "")]


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("write", [lambda path: path.write_bytes(LINES), lambda path: pq.write_table(TABLE, path)])
def test_files_of_a_repository_are_chosen_and_bounded(
    write: Callable[[Path], Any], streaming: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    suffix = "jsonl" if write.__code__.co_names == ("write_bytes", "LINES") else "parquet"
    for name in ("low", "high"):
        write(tmp_path / f"{name}.{suffix}")
    source = HubSource(dataset=str(tmp_path), data_files=(f"low.{suffix}",), streaming=streaming, max_rows=3)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    loaded = load_prompts([source], base=tmp_path, max_problem_chars=99, num_prompts=None, seed=0)
    assert len(loaded.prompts) == 3 and not loaded.drops
