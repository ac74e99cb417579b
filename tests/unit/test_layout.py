"""The layout of the source holds: what may import what, which module owns the paths of a run, how stages are called."""

import ast
import gc
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.fixtures.paths import ROOT

PACKAGES = ("cluster", "serve", "distill")
STAGES = ("prompts", "generate", "verify", "search", "mix", "train", "evaluate", "report")
MAX_ENTRIES = 20

LAYERS = (
    ("cluster",),
    ("serve",),
    ("distill.core",),
    ("distill.config",),
    ("distill.grading", "distill.models"),
    ("distill.run",),
    ("distill.prompts",),
    ("distill.generate",),
    ("distill.verify",),
    ("distill.mix",),
    ("distill.train",),
    ("distill.evaluate",),
    ("distill.search",),
    ("distill.report",),
    ("distill.ops",),
    ("distill.stages",),
    ("distill.pipeline",),
    ("distill.cli",),
    ("distill.__main__",),
)
"""From the lowest on: a folder imports itself and lower ones, never another one on its own line."""

PATH_METHODS = {
    "path": 0, "address_of": 0, "local_path": 0, "nested": 0, "exists": 0, "remove": 0, "shards": 0, "num_rows": 0,
    "matching": 0, "read_lines": 0, "has_manifest": 0, "remove_manifest": 0,
    "read_table": 0, "read_manifest": 0, "column_tables": 1, "write_table": 1, "write_bytes": 1, "table_writer": 1,
    "write_manifest": 1, "is_complete": 1, "write_rows": 2,
}  # fmt: skip
"""Method of a run directory -> number of arguments before those that name a file."""


class Import(NamedTuple):
    """An import of one of our modules by another."""

    importer: str
    imported: str
    file: Path
    line: int
    is_inner: bool
    """Inside a function."""

    def __str__(self) -> str:
        return f"{self.file.relative_to(ROOT)}:{self.line}: {self.importer} imports {self.imported}"


@cache
def sources() -> dict[str, Path]:
    """Name of a module -> its file."""
    files = [file for package in PACKAGES for file in sorted((ROOT / package).rglob("*.py"))]
    return {".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): file for file in files}


@cache
def tree_of(module: str) -> ast.Module:
    # Before 3.11.8 a parse fails (SystemError, python/cpython#106905) where a second one runs inside it: the garbage
    # collector may free an unread asyncio error there, whose traceback is printed with the help of the parser.
    gc.disable()
    try:
        return ast.parse(sources()[module].read_text(encoding="utf-8"))
    finally:
        gc.enable()


def is_ours(name: str | None) -> bool:
    return name is not None and name.split(".")[0] in PACKAGES


def imported_modules(node: ast.AST) -> list[str]:
    """Our modules that a statement imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names if is_ours(alias.name)]
    if isinstance(node, ast.ImportFrom) and is_ours(node.module):
        below = {f"{node.module}.{alias.name}" for alias in node.names}
        return sorted({name if name in sources() else str(node.module) for name in below})
    return []


@cache
def imports() -> tuple[Import, ...]:
    """Every import of ours, also for types only and inside functions."""
    found = []
    for module, file in sources().items():
        for node, is_inner in walk(tree_of(module)):
            found += [Import(module, name, file, node.lineno, is_inner) for name in imported_modules(node)]
    return tuple(found)


def walk(node: ast.AST, is_inner: bool = False) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    """Import statements, and whether each is inside a function."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, is_inner
        elif isinstance(child, ast.stmt | ast.excepthandler | ast.match_case):  # no expression holds an import
            yield from walk(child, is_inner or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef))


def layer_of(module: str) -> tuple[int, str]:
    """Number and name of the layer; `distill` itself, which programs import, is above all."""
    for number, names in enumerate(LAYERS):
        for name in names:
            if module == name or module.startswith(f"{name}."):
                return number, name
    assert module == "distill", f"{module} is in no layer: add it to LAYERS"
    return len(LAYERS), module


def report(offenders: list[str]) -> str:
    return "\n".join(["", *offenders, f"{len(offenders)} in all"])


def test_the_listing_of_distill_is_short() -> None:
    entries = sorted(path.name for path in (ROOT / "distill").iterdir() if path.name != "__pycache__")
    assert len(entries) <= MAX_ENTRIES, report(entries)


def test_imports_go_to_lower_layers_only() -> None:
    upward = [
        str(one)
        for one in imports()
        if (here := layer_of(one.importer)) != (there := layer_of(one.imported)) and there[0] >= here[0]
    ]
    assert not upward, report(upward)


def test_no_modules_import_each_other_in_a_circle() -> None:
    edges: dict[str, set[str]] = {module: set() for module in sources()}
    for one in imports():
        edges[one.importer].add(one.imported)
    while leaves := [module for module, targets in edges.items() if not targets & edges.keys()]:
        for module in leaves:  # it imports nothing that is left
            del edges[module]
    while roots := edges.keys() - {target for targets in edges.values() for target in targets}:
        for module in roots:  # nothing that is left imports it
            del edges[module]
    circular = [f"{module} imports {', '.join(sorted(edges[module] & edges.keys()))}" for module in sorted(edges)]
    assert not circular, report(circular)


# Ray Serve reads its environment variables when it is imported, and `deploy` is what sets them; vLLM is imported where
# a teacher is asked.
LATE = {("serve.deploy", "serve.app"), ("distill.generate.stage", "distill.generate.ask_job")}


def test_modules_are_imported_at_the_top() -> None:
    late = [one for one in imports() if one.is_inner and not may_import_late(one.importer)]
    inner = [str(one) for one in late if (one.importer, one.imported) not in LATE]
    assert not inner, report(inner)


def may_import_late(module: str) -> bool:
    """Whether a module may import inside functions: so that a command, or a program, starts at once."""
    return module == "distill" or module.startswith("distill.cli")


def test_a_verb_that_imports_late_says_why() -> None:
    silent = []
    for one in imports():
        if one.is_inner and may_import_late(one.importer):
            lines = one.file.read_text(encoding="utf-8").splitlines()
            if "#" not in lines[one.line - 1] and not is_explained_above(lines[: one.line - 1]):
                silent.append(str(one))
    assert not silent, report(silent)


def is_explained_above(lines: list[str]) -> bool:
    """Whether the block of imports that these lines end in begins with a comment."""
    while lines and lines[-1].strip().startswith(("from ", "import ")):
        lines = lines[:-1]
    return bool(lines) and lines[-1].strip().startswith("#")


def test_reading_a_recipe_imports_no_engine() -> None:
    code = """
import sys
from distill.config.load import find_recipe, load_recipe
load_recipe(find_recipe("quickstart"))
loaded = {"ray", "torch", "vllm"} & set(sys.modules)
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


ENGINES = {"ray", "torch", "vllm", "transformers"}
STATISTICS = {"scipy", "statsmodels", "pandas", "matplotlib", "jinja2"}
FILES = {"pyarrow", "numpy", "fsspec"}
PARSERS = {"sympy", "mpmath", "math_verify"}
NOT_LOADED = {
    "--help": ENGINES | STATISTICS | FILES | PARSERS | {"pydantic", "rich", "openai", "asyncio"},
    "status none": ENGINES | STATISTICS | PARSERS | {"openai"},
    "ask someone hello --url http://127.0.0.1:9": ENGINES | STATISTICS | FILES | PARSERS | {"openai"},
    "report none": ENGINES | STATISTICS | PARSERS | {"openai"},
    "plan none": ENGINES | STATISTICS | PARSERS | {"openai"},
    "run none": ENGINES | STATISTICS | PARSERS | {"openai"},
}
"""Command -> libraries that it must not import: they take most of the time of a command that answers from files."""


@pytest.mark.parametrize("command", NOT_LOADED)
def test_a_command_imports_no_library_that_it_does_not_need(command: str) -> None:
    code = f"""
import sys
from contextlib import suppress
from distill.cli.main import main
with suppress(SystemExit):
    main({command.split()!r})
print(*sorted({{name.split(".")[0] for name in sys.modules}}), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(done.stderr.splitlines()[-1].split())
    assert "distill" in loaded
    assert not loaded & NOT_LOADED[command]


def test_the_library_costs_nothing_to_import() -> None:
    code = """
import sys, distill
assert all(callable(getattr(distill, name)) for name in distill.__all__)
loaded = {name for name in sys.modules if name.startswith("distill.")}
assert not loaded and not {"ray", "torch", "pyarrow", "pydantic"} & set(sys.modules), loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_a_run_tells_its_first_line_before_an_engine_is_imported() -> None:
    code = """
import sys
import distill.cli.verbs, distill.cli.run  # which prints it
loaded = {"ray", "torch", "vllm", "transformers"} & set(sys.modules)
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_driver_loads_no_engine_before_a_stage_needs_one() -> None:
    reached, heavy = ["distill.pipeline"], []
    for module in reached:
        mine = [one for one in imports() if one.importer == module and not one.is_inner and not is_for_types(one)]
        reached += [name for name in dict.fromkeys(one.imported for one in mine) if name not in reached]
        heavy += [f"{module} imports {name}" for name in third_party(module) if name in ("ray", "vllm")]
    assert "distill.evaluate.stage" in reached
    assert not heavy, report(heavy)


def third_party(module: str) -> list[str]:
    """The packages that a module imports at its top."""
    statements = [node for node in tree_of(module).body if isinstance(node, ast.Import | ast.ImportFrom)]
    names = [alias.name for node in statements if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in statements if isinstance(node, ast.ImportFrom)]
    return [name.split(".")[0] for name in names]


def is_for_types(one: Import) -> bool:
    """Whether an import stands under `if TYPE_CHECKING`."""
    blocks = [node for node in tree_of(one.importer).body if isinstance(node, ast.If)]
    return any(node.lineno < one.line <= (node.end_lineno or 0) for node in blocks)


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_has_its_entry_in_its_own_folder(stage: str) -> None:
    module = f"distill.{stage}.stage"
    assert module in sources(), f"distill/{stage}/stage.py is missing"
    defined = {node.name for node in tree_of(module).body if isinstance(node, ast.FunctionDef)}
    assert f"{stage}_stage" in defined, f"distill/{stage}/stage.py has no function {stage}_stage"


def test_paths_of_a_run_are_named_in_one_module() -> None:
    named = []
    for module, file in sources().items():
        if module == "distill.core.run_dir":
            continue
        for node in ast.walk(tree_of(module)):
            if isinstance(node, ast.Call) and (parts := literal_parts(node)):
                named.append(f"{file.relative_to(ROOT)}:{node.lineno}: {ast.unparse(node.func)}(... {parts[0]} ...)")
    assert not named, report(named)


def literal_parts(call: ast.Call) -> list[str]:
    """The arguments of a run directory's method that spell a file or folder out."""
    if not isinstance(call.func, ast.Attribute) or call.func.attr not in PATH_METHODS:
        return []
    parts = call.args[PATH_METHODS[call.func.attr] :]
    return [ast.unparse(part) for part in parts if literal_text(part)]


def literal_text(part: ast.expr) -> str:
    """What is spelled out; a shard may be called by a number or a name of its writer's with an ending."""
    pieces = part.values if isinstance(part, ast.JoinedStr) else [part]
    texts = [piece.value for piece in pieces if isinstance(piece, ast.Constant) and isinstance(piece.value, str)]
    return "".join(texts).removesuffix(".parquet")
