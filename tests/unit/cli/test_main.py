"""The command line as a whole."""

import os
from pathlib import Path

import pytest

from distill.cli.main import main


def test_libraries_that_a_command_uses_ask_this_machine_past_a_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"HTTP_PROXY": "http://proxy:3128", "NO_PROXY": "intra.net", "no_proxy": ""}.items():
        monkeypatch.setenv(name, value)
    assert main(["status", str(tmp_path / "none")]) != 0
    assert "is no run directory" in capsys.readouterr().err
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == "intra.net,localhost,127.0.0.1,::1"
