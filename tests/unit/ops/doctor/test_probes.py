"""Probes of this machine."""

import pytest

from distill.ops.doctor import probes
from distill.ops.doctor.findings import import_findings, is_ready, version_findings


def test_this_checkout_has_the_versions_that_it_asks_for() -> None:
    assert is_ready(version_findings(probes.requirements(), probes.installed_versions()))


def test_an_import_that_fails_says_what_python_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "LIBRARIES", ("json", "no_such_library"))
    (problem,) = import_findings(probes.import_errors())
    assert problem.what == "no_such_library: ModuleNotFoundError: No module named 'no_such_library'"
