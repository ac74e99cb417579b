"""Probes of this machine."""

import sys
from pathlib import Path

import pytest

from distill.ops.doctor import probes
from distill.ops.doctor.findings import import_findings, is_ready, version_findings


def test_this_checkout_has_the_versions_that_it_asks_for() -> None:
    assert is_ready(version_findings(probes.requirements(), probes.installed_versions()))


def test_an_import_that_fails_says_what_python_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "LIBRARIES", ("json", "no_such_library"))
    (problem,) = import_findings(probes.import_errors())
    assert problem.what == "no_such_library: ModuleNotFoundError: No module named 'no_such_library'"


def installed(folder: Path, name: str, version: str) -> Path:
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    return info


def test_versions_are_those_that_python_imports_and_broken_installations_are_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(tmp_path / "first", "some_lib", "2.0")
    installed(tmp_path / "last", "some_lib", "1.0")
    (installed(tmp_path / "first", "broken", "1.0") / "METADATA").unlink()
    (installed(tmp_path / "first", "nameless", "1.0") / "METADATA").write_text("Metadata-Version: 2.1\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path / "first"), str(tmp_path / "last")])
    assert probes.installed_versions() == {"some-lib": "2.0"}
