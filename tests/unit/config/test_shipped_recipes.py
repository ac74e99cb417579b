"""Every recipe that ships is planned on a cluster that it is meant for, from its models' public sizes."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from distill.config.load import find_recipe, load_recipe, read_recipe
from distill.config.recipe import benchmark_configs
from distill.config.shipped import shipped_recipes
from distill.config.sources import GymSource, HubSource
from distill.core.errors import ConfigError
from distill.core.run_dir import RunDir
from distill.ops.forecast import cell_plan as planning
from distill.prompts.load import read_source
from distill.train.machines import described_machines
from distill.train.plan import MixData
from tests.fixtures.model_shapes import SIZES, shape
from tests.fixtures.paths import ROOT
from tests.fixtures.worked_puzzles import solutions, worked_puzzles
from tests.fixtures.worked_sums import worked_sums

SIZES |= {f"{name}-base": SIZES[name] for name in ("qwen2-5-0-5b", "qwen2-5-1-5b", "qwen2-5-3b")}
ONE_GPU = (
    *("one-gpu-0.5b", "one-gpu-1.5b", "gpu-gap", "gpu-sizes", "gpu-confound", "gpu-warm-up"),
    *("gpu-prune", "gpu-expand", "gpu-budget-curve", "gpu-regression", "gpu-levels"),
    *("gpu-dpo-ladder", "gpu-refine", "gpu-choose-mode", "gpu-warm-up-rl"),
)
TWO_CORES = (
    *("quickstart", "small-evidence", "graded-sums", "tagged-sums", "sums-confound"),
    *("budget-curve", "small-real", "sums-sizes", "warm-up", "prune", "expand", "dpo-ladder", "refine", "regression"),
    *("languages", "levels", "choose-mode", "warm-up-rl"),
)
CLUSTERS = dict.fromkeys(ONE_GPU, "1x1x80") | dict.fromkeys(TWO_CORES, "1x2cpu")


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_can_be_placed(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe(find_recipe(name))
    rows = {mix.name: MixData(5383, 5383 * 600) for mix in recipe.mixes}
    monkeypatch.setattr(planning, "planned_shape", shape)
    monkeypatch.setattr(planning, "expected_data", lambda *_: rows)
    machines = described_machines(CLUSTERS.get(name, "8x8x80"))
    plan = planning.plan_recipe(recipe, find_recipe(name).parent, RunDir(str(tmp_path)), machines)
    arms = sum(len(mix.students or recipe.students) for mix in recipe.mixes)
    assert len(plan.cells) == arms * len(recipe.train.seeds)
    own = {one.cell.name: one.steps or 0 for one in plan.cells}
    steps = {(one.cell.amount, sum(own[cell.name] for cell in one.cell.lineage)) for one in plan.cells}
    assert len(steps) == len({one.cell.amount for one in plan.cells}), "arms of equal budgets take equally many steps"


@pytest.mark.parametrize("name", shipped_recipes())
def test_the_made_problems_of_every_shipped_recipe_can_be_read(name: str) -> None:
    recipe = load_recipe(find_recipe(name))
    sources = [*recipe.prompts.sources, *(one.source for one in benchmark_configs(recipe).values())]
    for source in sources:
        if isinstance(source, GymSource):
            (row,) = read_source(source.model_copy(update={"size": 1}), Path(), Counter())
            assert ("level" in row.row) == (source.level is not None)


def test_the_worked_sums_are_what_the_program_writes_and_are_right() -> None:
    rows = list(worked_sums())
    shipped = find_recipe("sums-sizes").parent / "worked-sums.jsonl"
    assert [json.loads(line) for line in shipped.read_text().splitlines()] == rows
    assert len({row["problem"] for row in rows}) == 320
    for row in rows:
        for style in ("short", "long"):
            assert str(row[style]).endswith(f"\\boxed{{{row['answer']}}}."), row


def test_the_papers_students_and_pairs_are_all_there() -> None:
    long_short = load_recipe(find_recipe("paper-long-short"))
    assert len(long_short.students) == 10 and {teacher.model for teacher in long_short.teachers} == {
        "qwq-32b-preview",
        "qwen2-5-32b",
    }
    for pair in ("qwen", "llama", "gemma"):
        recipe = load_recipe(find_recipe(f"paper-large-small-{pair}"))
        assert recipe.students == long_short.students
        assert [mix.name for mix in recipe.mixes] == ["large", "small", "mix-large"]
        assert recipe.train.seeds == (0, 1, 2)


def test_base_and_instruct_differ_in_nothing_but_their_weights() -> None:
    recipe, whole = (load_recipe(find_recipe(f"paper-{name}")) for name in ("base-instruct", "long-short"))
    students = {student.name: student for student in recipe.students}
    bases = [student for student in recipe.students if student.base_of]
    assert [base.name for base in bases] == [f"qwen2-5-{size}-base" for size in ("0-5b", "1-5b", "3b")]
    for base in bases:
        tuned = students[str(base.base_of)]
        assert base.model_copy(update={"name": tuned.name, "model": tuned.model, "base_of": None}) == tuned
        assert tuned in whole.students
        (source,) = recipe.models[base.model].sources
        assert recipe.models[tuned.model].sources == (f"{source}-Instruct",)
    assert (recipe.teachers, recipe.mixes, recipe.train) == (whole.teachers, whole.mixes, whole.train)


def test_the_published_budgets_differ_as_the_paper_has_them() -> None:
    pure, mix = (load_recipe(find_recipe(f"paper-published-{kind}")) for kind in ("pure", "mix"))
    steps = 2 * -(-5383 // pure.train.batch_size)
    assert (steps, mix.train.num_steps) == (674, 24)
    assert pure.teachers == mix.teachers and pure.students == mix.students and pure.prompts == mix.prompts


def test_a_recipe_on_top_of_another_merges_tables_and_replaces_lists(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text('name = "a"\n[train]\nseeds = [0, 1]\nnum_epochs = 3\n[[mixes]]\nname = "x"\n')
    (tmp_path / "top.toml").write_text(
        'extends = "base.toml"\nname = "b"\n[train]\nseeds = [2]\n[[mixes]]\nname = "y"\n'
    )
    assert read_recipe(tmp_path / "top.toml") == {
        "name": "b",
        "train": {"seeds": [2], "num_epochs": 3},
        "mixes": [{"name": "y"}],
    }


def test_recipes_that_extend_each_other_or_nothing_that_is_there_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_text('extends = "b.toml"')
    (tmp_path / "b.toml").write_text('extends = "a.toml"')
    with pytest.raises(ConfigError, match="extends itself: a -> b -> a"):
        read_recipe(tmp_path / "a.toml")
    (tmp_path / "c.toml").write_text('extends = "nowhere"')
    with pytest.raises(ConfigError, match="no shipped recipe named 'nowhere'"):
        read_recipe(tmp_path / "c.toml")


METHODS = ROOT / "docs" / "methods.md"
LINKED = re.compile(r"\[`([\w.-]+)`\]\(\.\./distill/recipes/([\w.-]+)\.toml\)")
ROW = re.compile(r"^\| (?P<work>.+?) \| (?P<recipes>\[`.+?) \| (?P<fields>.+?) \| .+ \| .+ \|$", re.MULTILINE)


def method_rows() -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    """(work, recipes, fields) of every line of the page on published methods that names recipes."""
    found = [
        (row["work"], tuple(LINKED.findall(row["recipes"])), tuple(re.findall(r"`([\w.]+)`", row["fields"])))
        for row in ROW.finditer(METHODS.read_text(encoding="utf-8"))
    ]
    return [(work, tuple(name for name, _ in links), fields) for work, links, fields in found]


def values_at(raw: Any, path: Sequence[str]) -> list[Any]:
    """What a recipe sets at a dotted field, in any item of the lists on the way."""
    if isinstance(raw, list):
        return [value for item in raw for value in values_at(item, path)]
    if not path:
        return [raw]
    return values_at(raw[path[0]], path[1:]) if isinstance(raw, dict) and path[0] in raw else []


def test_the_page_on_published_methods_names_recipes_that_ship_and_links_to_them() -> None:
    """Each of them is planned above: that test has all recipes that ship."""
    text = METHODS.read_text(encoding="utf-8")
    links = LINKED.findall(text)
    assert links and all(name == file for name, file in links)
    named = {name for _, recipes, _ in method_rows() for name in recipes}
    assert named == {name for name, _ in links}, "a recipe is linked outside of the first table"
    assert named <= set(shipped_recipes())


@pytest.mark.parametrize(("work", "recipes", "fields"), method_rows())
def test_recipes_of_a_published_method_set_the_fields_that_carry_it(
    work: str, recipes: tuple[str, ...], fields: tuple[str, ...]
) -> None:
    raw = [read_recipe(find_recipe(name)) for name in recipes]
    assert fields, work
    for field in fields:
        assert any(values_at(one, field.split(".")) for one in raw), f"{work}: no recipe sets {field}"


def test_every_data_set_of_a_shipped_recipe_has_a_licence_on_that_page() -> None:
    text = METHODS.read_text(encoding="utf-8")
    licensed = dict(re.findall(r"^\| ([\w./-]+) \| .+ \| (.+) \|$", text, re.MULTILINE))
    for name in shipped_recipes():
        recipe = load_recipe(find_recipe(name))
        sources = [one.source for one in benchmark_configs(recipe).values()] + list(recipe.prompts.sources)
        for source in sources:
            assert not isinstance(source, HubSource) or licensed.get(source.dataset), f"{name}: {source.dataset}"


def test_the_worked_puzzles_are_what_the_program_writes_and_are_right_and_asked() -> None:
    rows = list(worked_puzzles())
    folder = find_recipe("warm-up").parent
    assert [json.loads(line) for line in (folder / "worked-puzzles.jsonl").read_text().splitlines()] == rows
    for row in rows:
        answer = str(row["answer"]).removesuffix(".")
        assert str(row["short"]) == f"The answer is \\boxed{{{answer}}}."
        assert str(row["long"]).endswith(f"as it must be. {row['short']}") and str(row["long"]).startswith("Suppose ")
    gym = [one for one in load_recipe(find_recipe("warm-up")).prompts.sources if isinstance(one, GymSource)]
    sources = [one for one in gym if one.task == "knights_knaves"]
    asked = {row.row["problem"] for one in sources for row in read_source(one, folder, Counter())}
    assert len(sources) == 2 and asked <= {row["problem"] for row in rows}


def test_a_puzzle_is_solved_as_by_hand() -> None:
    terms = {"a_knight": "a knight", "a_knave": "a knave"}
    both = ("and", ("telling-truth", 0), ("telling-truth", 1))
    told = {"names": ["Ada", "Tom"], "statements": (("lying", 1), both), "knight_knave_terms": terms}
    short, long = solutions(told)
    assert short == "The answer is \\boxed{Ada is a knight, and Tom is a knave}."
    assert long == (
        "Suppose Ada is a knight, and Tom is a knight. Then what Ada says is false. That cannot be. "
        f"Suppose Ada is a knight, and Tom is a knave. Then all that is said is as it must be. {short}"
    )
