"""The command line as a whole."""

import argparse
import os
from pathlib import Path

import pytest

from distill.cli.main import main
from distill.cli.verbs import VERBS


def test_libraries_that_a_command_uses_ask_this_machine_past_a_proxy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in {"HTTP_PROXY": "http://proxy:3128", "NO_PROXY": "intra.net", "no_proxy": ""}.items():
        monkeypatch.setenv(name, value)
    assert main(["status", str(tmp_path / "none")]) != 0
    assert "is no run directory" in capsys.readouterr().err
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == "intra.net,localhost,127.0.0.1,::1"


@pytest.mark.parametrize("verb", ["plan", "doctor"])
def test_what_libraries_print_goes_to_a_file_of_this_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    class Told(Exception):
        """Ends the command where it opens its log."""

    def quiet(log_file: Path) -> None:
        raise Told(log_file)

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr("distill.core.progress_bars.quiet", quiet)
    arguments = argparse.Namespace(recipe="quickstart", overrides=[], run_dir="", measured="", cluster="")
    with pytest.raises(Told) as told:
        VERBS[verb](arguments)
    assert told.value.args[0].is_relative_to(tmp_path)
