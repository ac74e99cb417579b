"""Whether vLLM can load an architecture here at all: some need torchvision, also where no picture is ever shown."""

import subprocess
import sys
from collections.abc import Mapping
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

from distill.core.errors import InputError

PROBE_TIMEOUT_S = 300
PROBE = """
import sys
from vllm.model_executor.models.registry import ModelRegistry
for name in sys.argv[1:]:
    if name in ModelRegistry.models:
        ModelRegistry.models[name].load_model_cls()
"""


def may_need_torchvision(settings: Mapping[str, Any]) -> bool:
    """Whether a config.json is that of a model with a vision part, or of the text model of such a family."""
    return "vision_config" in settings or str(settings.get("model_type", "")).endswith("_text")


def require_engine(name: str, settings: Mapping[str, Any]) -> None:
    """That vLLM has what it needs for a model. Costs something only where torchvision is missing and may be needed.

    Args:
        name: of the model in the recipe.
        settings: its config.json.

    Raises:
        InputError: its architecture cannot be imported.
    """
    if find_spec("torchvision") is not None or not may_need_torchvision(settings):
        return
    architectures = tuple(settings.get("architectures") or ())
    if error := _import_error(architectures):
        raise InputError(
            f"models.{name}: vLLM cannot load a {', '.join(architectures)} here ({error}) -> install the torchvision "
            "that matches this torch (on CPUs: pip install --index-url https://download.pytorch.org/whl/cpu "
            "torchvision==0.28.0), or take a model without a vision part"
        )


@lru_cache(maxsize=16)
def _import_error(architectures: tuple[str, ...]) -> str:
    """The last line of the error of importing vLLM's classes in a process of its own; empty where that works."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", PROBE, *architectures], capture_output=True, text=True, timeout=PROBE_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        return ""  # a busy machine: the engine will say what is missing
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    return lines[-1].strip() if done.returncode and lines else ""
