"""Models that vLLM cannot load without torchvision."""

import subprocess
from typing import Any

import pytest

from distill.core.errors import InputError
from distill.models import engine_check
from distill.models.engine_check import may_need_torchvision, require_engine

SEEING = {"model_type": "qwen3_5", "vision_config": {}, "architectures": ["SeeingForConditionalGeneration"]}


@pytest.fixture(autouse=True)
def no_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_check, "find_spec", lambda name: None)
    engine_check._import_error.cache_clear()


def probe_ends(monkeypatch: pytest.MonkeyPatch, returncode: int, stderr: str) -> list[Any]:
    asked: list[Any] = []

    def run(command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command[3:])
        return subprocess.CompletedProcess(command, returncode, "", stderr)

    monkeypatch.setattr(engine_check.subprocess, "run", run)
    return asked


def test_only_families_with_a_vision_part_are_asked_about(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = probe_ends(monkeypatch, 1, "No module named 'torchvision'")
    require_engine("m", {"model_type": "llama", "architectures": ["LlamaForCausalLM"]})
    assert not asked
    assert may_need_torchvision(SEEING) and may_need_torchvision({"model_type": "qwen3_5_text"})


def test_a_model_that_vllm_cannot_import_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = probe_ends(monkeypatch, 1, "Traceback\nModuleNotFoundError: No module named 'torchvision'\n")
    with pytest.raises(InputError, match=r"models\.m: vLLM cannot load a Seeing.*-> install the torchvision"):
        require_engine("m", SEEING)
    assert asked == [["SeeingForConditionalGeneration"]]


def test_a_model_that_vllm_imports_anyway_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    probe_ends(monkeypatch, 0, "a warning")
    require_engine("m", SEEING)


def test_nothing_is_asked_where_torchvision_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = probe_ends(monkeypatch, 1, "error")
    monkeypatch.setattr(engine_check, "find_spec", lambda name: object())
    require_engine("m", SEEING)
    assert not asked
