"""The preflight: its findings, and that a run starts with its quick part."""

from pathlib import Path

import pytest

from distill.config.load import find_recipe, load_recipe
from distill.core.errors import InputError
from distill.core.run_dir import RunDir
from distill.ops.doctor import preflight


def test_a_run_does_not_begin_where_it_cannot_write(tmp_path: Path) -> None:
    recipe = load_recipe(find_recipe("quickstart"))
    preflight.refuse_unready(recipe, tmp_path, RunDir(str(tmp_path / "run")))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"cannot start(.|\n)*storage: .*NotADirectory"):
        preflight.refuse_unready(recipe, tmp_path, RunDir(str(tmp_path / "file" / "run")))


def test_keys_are_named_and_never_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe(find_recipe("quickstart"), ["verify.judge.base_url='http://h/v1'", "verify.judge.model=m"])
    judge = recipe.verify.judge
    assert judge is not None
    verify = recipe.verify.model_copy(update={"judge": judge.model_copy(update={"api_key_env": "MIX_TEST_KEY"})})
    recipe = recipe.model_copy(update={"verify": verify})
    monkeypatch.setenv("MIX_TEST_KEY", "secret-1")
    (found,) = preflight._credentials(recipe)
    assert found.status == "ok" and "MIX_TEST_KEY" in found.what and "secret-1" not in found.what
    monkeypatch.delenv("MIX_TEST_KEY")
    (found,) = preflight._credentials(recipe)
    assert found.status == "problem" and found.remedy == "export MIX_TEST_KEY=..."
