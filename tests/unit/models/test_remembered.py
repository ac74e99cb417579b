"""Facts that are kept in the machine's cache: computed once, and again where anything differs that decides them."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from distill.models import remembered as module
from distill.models.remembered import remembered
from distill.models.shape import measured_shape, shape_of
from tests.fixtures.paths import ROOT

SETTINGS = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 128,
    "tie_word_embeddings": True,
}


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "mix-distillation" / "facts"


def test_a_fact_is_computed_once_for_each_kind_and_input() -> None:
    computed = []

    def fact(kind: str, given: str) -> object:
        return remembered(kind, given, lambda: computed.append(given) or {"of": given})

    assert fact("a", "x") == fact("a", "x") == {"of": "x"}
    assert fact("a", "y") == {"of": "y"} and fact("b", "x") == {"of": "x"}
    assert computed == ["x", "y", "x"]


@pytest.mark.parametrize("name", ["source_digest", "package_versions"])
def test_other_code_and_other_libraries_compute_it_again(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert remembered("a", "x", lambda: 1) == 1
    monkeypatch.setattr(module, name, lambda *libraries: "another")
    assert remembered("a", "x", lambda: 2) == 2


def test_a_torn_file_is_computed_again_and_an_error_is_not_kept(cache: Path) -> None:
    remembered("a", "x", lambda: [1])
    (kept,) = cache.iterdir()
    kept.write_text("[1")
    assert remembered("a", "x", lambda: [2]) == [2] == json.loads(kept.read_text())
    with pytest.raises(ZeroDivisionError):
        remembered("a", "y", lambda: 1 // 0)
    assert remembered("a", "y", lambda: 3) == 3


def test_a_shape_is_the_same_from_the_cache_and_then_needs_no_torch() -> None:
    first = shape_of(SETTINGS)
    assert first == measured_shape(json.dumps(SETTINGS, sort_keys=True))
    code = f"""
import sys
from distill.models.shape import shape_of
print(shape_of({SETTINGS!r}))
assert not {{"torch", "transformers"}} & set(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == repr(first)
    assert first.tied_tables == ("model.embed_tokens", "lm_head") and first.kept_bytes_per_token > 0
