"""What `distill run` says of a finished run."""

from io import StringIO
from pathlib import Path

from rich.console import Console

from distill.cli.run import show_next
from distill.config.load import parse_recipe
from distill.core.run_dir import RunDir
from tests.fixtures.recipes import recipe_with


def test_a_student_is_named_also_where_the_first_one_is_trained_on_no_arm(tmp_path: Path) -> None:
    students = [{"name": name, "model": "m"} for name in ("untouched", "taught")]
    mixes = [{"name": "a", "weights": {"long": 1.0}, "students": ["taught"]}]
    console = Console(file=StringIO(), width=200)
    show_next(console, parse_recipe(recipe_with({"students": students, "mixes": mixes})), RunDir(str(tmp_path)))
    assert "distill ask taught@a " in console.file.getvalue()  # type: ignore[attr-defined]
