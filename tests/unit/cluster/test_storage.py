"""Places by address: a bucket as a run directory, models in a machine's cache. Without a cloud: pyarrow's local files
stand behind the address, so everything but the network is what runs there."""

import glob
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import fs as pyarrow_fs

from cluster import storage
from cluster.storage import (
    cache_dir,
    canonical_address,
    download,
    fetch,
    link_into_cache,
    local_folder,
    matching_files,
    open_storage,
    upload,
)
from distill.core.errors import InputError
from distill.core.manifest import Manifest
from distill.core.run_dir import RunDir
from distill.core.schema import Dropped
from distill.models.resolve import ResolvedModel, publish
from distill.train.worker.checkpoint import Checkpoints, reading, writing

URI = "s3://bucket/runs/one"


@pytest.fixture
def bucket(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder behind `s3://`."""
    disk = tmp_path / "disk"
    disk.mkdir()
    monkeypatch.setattr(
        storage,
        "_bucket_storage",
        lambda protocol, path: pyarrow_fs.SubTreeFileSystem(str(disk), pyarrow_fs.LocalFileSystem()),
    )
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    # A bucket has no folders to make; the disk behind this one does.
    (disk / "bucket/runs/one/mix").mkdir(parents=True)
    return disk


def test_a_run_directory_in_a_bucket_keeps_rows_manifests_and_what_is_removed(bucket: Path) -> None:
    run_dir = RunDir(URI)
    assert (run_dir.is_local, run_dir.address, run_dir.path("mix")) == (False, URI, "bucket/runs/one/mix")
    run_dir.write_rows([Dropped("mix", "w", "reason", "", "")], Dropped, "mix", "a.parquet")
    with run_dir.table_writer(pa.schema([("a", pa.int64())]), "mix", "b.parquet") as writer:
        writer.write_table(pa.table({"a": [1, 2]}))
    assert run_dir.shards("mix") == ["bucket/runs/one/mix/a.parquet", "bucket/runs/one/mix/b.parquet"]
    assert run_dir.read_table("mix", "a.parquet", row_type=Dropped).num_rows == 1
    assert run_dir.num_rows("mix", "b.parquet") == 2
    assert run_dir.read_manifest("mix") is None
    run_dir.write_manifest(Manifest("mix", "key"), "mix")
    assert run_dir.is_complete("key", "mix")
    run_dir.remove("mix")
    assert run_dir.read_manifest("mix") is None and run_dir.shards("mix") == []


def test_a_model_is_published_once_and_every_machine_opens_it_from_its_own_cache(
    bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name in ("README.md", "config.json", "model.safetensors", "pytorch_model.bin"):
        (folder / name).write_text(name)
    there = bucket / "bucket/runs/one/models/student-id"
    there.mkdir(parents=True)
    (there / "model.safetensors").write_text("torn off")
    made = publish(ResolvedModel("student", str(folder), "hub/id", "id", 1, 1), RunDir(URI))
    assert made.address == f"{URI}/models/student-id"
    names = sorted(path.name for path in bucket.rglob("student-id/*"))
    assert names == ["README.md", "config.json", "model.safetensors"]
    assert Path(local_folder(made.address)).resolve() == folder, "the machine that has it fetches it again"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "other machine"))
    copy = Path(local_folder(made.address))
    assert cache_dir() in copy.parents and (copy / "model.safetensors").read_text() == "model.safetensors"
    assert local_folder(str(folder)) == str(folder)


def test_a_copy_is_fetched_again_where_the_folder_behind_it_is_gone(bucket: Path, tmp_path: Path) -> None:
    place, folder = bucket / "bucket/runs/one/models/student-id", tmp_path / "model"
    for path in (place, folder):
        path.mkdir(parents=True)
        (path / "config.json").write_text(path.name)
    address = RunDir(URI).address_of("models", "student-id")
    link_into_cache(address, folder)
    assert (Path(local_folder(address)) / "config.json").read_text() == "model"
    shutil.rmtree(folder)
    assert (Path(local_folder(address)) / "config.json").read_text() == "student-id"


def test_two_processes_that_fetch_the_same_end_with_one_copy(bucket: Path) -> None:
    (bucket / "bucket/runs/one/models/a").mkdir(parents=True)
    (bucket / "bucket/runs/one/models/a/config.json").write_text("{}")
    with ThreadPoolExecutor(4) as pool:
        found = set(pool.map(local_folder, [f"{URI}/models/a"] * 8))
    assert len(found) == 1 and (Path(found.pop()) / "config.json").read_text() == "{}"
    assert len(list(cache_dir().iterdir())) == 1


def test_a_new_version_at_the_same_address_is_fetched_again_and_a_failed_fetch_leaves_nothing(bucket: Path) -> None:
    place = bucket / "bucket/runs/one/train/a/model"
    place.mkdir(parents=True)
    run_dir = RunDir(URI)
    for version in ("first", "second"):
        (place / "weights").write_text(version)
        found = Path(local_folder(run_dir.address_of("train", "a", "model", version=version)))
        assert (found / "weights").read_text() == version
    with pytest.raises(FileNotFoundError):
        fetch("s3://bucket/none")
    assert len(list(cache_dir().iterdir())) == 2


def test_checkpoints_of_a_bucket_are_found_read_and_passed_over_when_a_part_is_missing(bucket: Path) -> None:
    run_dir = RunDir(URI)
    checkpoints = Checkpoints(run_dir, "cell", "key")
    for step in (1, 2):
        (bucket / run_dir.path(*checkpoints.parts(step))).mkdir(parents=True)
        with writing(run_dir, *checkpoints.parts(step)) as folder:
            (folder / "state").write_text(str(step))
        checkpoints.commit(step)
    assert checkpoints.newest_intact() == 2
    with reading(run_dir, *checkpoints.parts(2)) as folder:
        assert (folder / "state").read_text() == "2"
    (bucket / run_dir.path(*checkpoints.parts(2)) / "state").write_text("torn off")
    assert checkpoints.newest_intact() == 1


def test_storage_that_cannot_be_opened_is_refused_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="nowhere://x cannot be opened here"):
        RunDir("nowhere://x")

    def unknown(bucket: str) -> Any:
        raise OSError(f"Bucket '{bucket}' not found")

    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pyarrow_fs, "resolve_s3_region", unknown)
    with pytest.raises(InputError, match="Bucket 'nobodys' not found"):
        RunDir("s3://nobodys/run")


def test_buckets_are_opened_by_pyarrow_where_the_variables_say(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setenv("AWS_REGION", "eu-central-1")
    fs, path = open_storage("s3://bucket/run")
    assert (path, fs.fs.type_name, fs.fs.region) == ("bucket/run", "s3", "eu-central-1")
    assert open_storage("gs://bucket/run")[0].fs.type_name == "gcs"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("s3://b/x", "s3://b/x/"),
        ("s3://b/x", "S3://b//x///"),
        ("s3://b/x", "s3a://b/x"),
        ("gs://b/x", "gcs://b/x/"),
        ("/shared/x", "file:///shared/x"),
        ("/shared/x", "file:/shared/x/"),
        ("/shared/x", "file://localhost/shared/x"),
        ("/shared/x", "local:///shared/x"),
        ("/shared/x", "/shared//y/.././x/"),
        ("/shared/x", "//shared/x"),
        ("runs/x", "./runs/x/"),
        ("memory://x", "memory://x/"),
    ],
)
def test_two_spellings_of_a_place_have_one_address(one: str, other: str) -> None:
    assert canonical_address(one) == canonical_address(other)
    assert canonical_address(canonical_address(other)) == canonical_address(one)


def test_different_places_keep_different_addresses() -> None:
    places = ["s3://b/x", "s3://b/X", "gs://b/x", "s3://x", "/b/x", "memory://b/x", "https://host/b/x", "/b/x[1]"]
    assert len({canonical_address(place) for place in places}) == len(places)


def test_libraries_that_glob_in_a_models_folder_find_its_files_whatever_its_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folders = [tmp_path / f"test[{number}]" / "train" / cell for number in (1, 2) for cell in ("a", "b*")]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "model.safetensors").write_text(str(folder))
    for folder in folders * 2:
        (found,) = glob.glob(f"{local_folder(str(folder))}/*.safetensors")
        assert Path(found).read_text() == str(folder)
    run_dir = RunDir(str(tmp_path / "test[1]"))
    with reading(run_dir, "train", "a") as place:
        assert glob.glob(f"{place}/*.safetensors")
    assert local_folder(str(tmp_path)) == str(tmp_path) and local_folder("/no/such[1]") == "/no/such[1]"


@pytest.mark.parametrize("name", ["test[1]", "a*b", "what?", "[!x]", "{a,b}"])
def test_files_are_found_and_copied_whatever_the_name_of_their_folder(tmp_path: Path, name: str) -> None:
    for folder in (name, "test1", "a__b", "whatx", "y"):
        (tmp_path / folder / "sub").mkdir(parents=True)
        (tmp_path / folder / "sub" / "one.jsonl").write_text(folder)
    own = tmp_path / name
    fs, files = matching_files("sub/*.jsonl", str(own))
    assert files == [f"{own}/sub/one.jsonl"]
    assert matching_files("sub/one.jsonl", str(own))[1] == files
    assert matching_files(f"{own}/sub/one.jsonl")[1] == files, "an absolute path that exists is no pattern"
    assert matching_files("none/*.jsonl", str(own))[1] == []
    download(fs, str(own), tmp_path / "copy")
    assert (tmp_path / "copy/sub/one.jsonl").read_text() == name
    download(fs, f"{own}/sub/one.jsonl", tmp_path / "copy.jsonl")
    assert (tmp_path / "copy.jsonl").read_text() == name
    with pytest.raises(FileNotFoundError, match="nothing"):
        download(fs, f"{own}/nothing", tmp_path / "absent")
    upload(fs, tmp_path / "copy", f"{own}/back")
    assert (own / "back/sub/one.jsonl").read_text() == name
