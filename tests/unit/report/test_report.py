"""The report of a synthetic run: seeded random rows, written through the real run directory."""

import dataclasses
import io
import itertools
import json
import random
import re
from html.parser import HTMLParser
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from distill.config.recipe import Recipe
from distill.core.manifest import Manifest
from distill.core.run_dir import RunDir
from distill.core.schema import Score
from distill.report.build import build_report
from distill.report.data import Report
from distill.report.html import render_page, ticks
from distill.report.run_history import read_curve
from distill.report.tables import model_table, print_report
from distill.report.wording import headline
from distill.report.write import write_report
from tests.fixtures.report_run import make_prompt, make_recipe, make_run, make_score


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return make_recipe()


@pytest.fixture(scope="module")
def run_dir(recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return make_run(tmp_path_factory.mktemp("run"), recipe)


@pytest.fixture(scope="module")
def report(recipe: Recipe, run_dir: RunDir) -> Report:
    return build_report(recipe, run_dir)


@pytest.fixture(scope="module")
def page(report: Report) -> str:
    return render_page(report)


class Tags(HTMLParser):
    """Every tag and attribute that a browser would see."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attrs)))


def test_headline_is_about_the_first_mix_and_has_its_numbers(report: Report) -> None:
    arm = next(one for one in report.arms if one.label == "smol-135m@mix-long")
    assert report.headline.startswith(f"`smol-135m@mix-long` solves {arm.accuracy * 100:.0f} % of `arithmetic` [")
    assert arm.gain is not None and arm.gain.is_shown
    assert f"{arm.gain.difference * 100:.0f} points [" in report.headline
    assert "above the untouched `smol-135m`" in report.headline


def test_the_headline_names_the_arm_that_solves_most_where_it_is_another(recipe: Recipe, report: Report) -> None:
    lifted = [dataclasses.replace(one, accuracy=0.97) if one.label == "smol-135m@long" else one for one in report.arms]
    said = headline(recipe, lifted, report.macros, report.comparisons)
    assert " Most is solved by `smol-135m@long`: 97 % [" in said
    first = [dataclasses.replace(one, accuracy=0.98) if one.label == "smol-135m@mix-long" else one for one in lifted]
    assert "Most is solved" not in headline(recipe, first, report.macros, report.comparisons)


def test_the_headline_is_not_about_a_stage_that_others_start_from(report: Report) -> None:
    stages = [
        {"name": "long", "weights": {"long": 1.0}},
        {"name": "short", "weights": {"short": 1.0}, "num_prompts": 20, "after": "long"},
    ]
    staged = make_recipe(mixes=stages, train={"budget": "steps", "num_steps": 20})
    said = headline(staged, report.arms, [], report.comparisons)
    assert said.startswith("`smol-135m@short` solves ")
    equal = make_recipe(mixes=[stages[0], {"name": "short", "weights": {"short": 1.0}, "after": "long"}])
    assert headline(equal, report.arms, [], report.comparisons).startswith("`smol-135m@short` solves ")


def test_headline_says_when_no_difference_is_shown(tmp_path: Path, recipe: Recipe) -> None:
    run_dir = make_run(tmp_path, recipe, num_scored=8)
    assert "no difference from the untouched `smol-135m` is shown" in build_report(recipe, run_dir).headline


def test_every_planned_comparison_is_there_once_and_corrected(report: Report) -> None:
    for student in report.students:
        mine = [one for one in report.comparisons if one.student == student]
        assert [one.purpose for one in mine] == ["gain", "gain", "gain", "gap", "blend", "blend"]
        assert (mine[3].first, mine[3].second) == (f"{student}@long", f"{student}@short")
    assert all(one.p_adjusted >= one.p_value for one in report.comparisons)
    assert [one.student for one in report.gaps()] == list(report.students)


def test_errors_are_counted_and_in_no_denominator(report: Report) -> None:
    for one in report.models:
        assert one.num_graded == one.correct + one.incorrect + one.no_answer == one.num_prompts - one.errors
        assert one.accuracy == pytest.approx(one.correct / one.num_graded)
    assert any(one.errors for one in report.models)
    assert any("could not be graded" in line for line in report.caveats)


def test_mixes_show_shares_of_rows_and_of_tokens(report: Report) -> None:
    blend = next(row for row in report.mix_rows if row.mix == "mix-long")
    long = next(share for share in blend.shares if share.pool == "long")
    assert long.rows == pytest.approx(0.2, abs=0.01)
    assert long.tokens is not None and long.tokens > 0.4  # long traces are longer, so their token share is larger
    assert len({row.rows for row in report.mix_rows}) == 1


def test_funnel_names_every_drop_and_ends_at_the_examples(report: Report) -> None:
    steps = {step.name: step for step in report.funnel}
    assert steps["prompts kept"].drops == {"duplicate": 31, "in a benchmark": 4}
    assert steps["problems read"].count - steps["prompts kept"].count == 35
    verified = steps["traces verified correct"]
    assert verified.count + sum(verified.drops.values()) == steps["traces written"].count
    common = steps["prompts solved by every pool"]
    assert common.count + sum(common.drops.values()) == steps["prompts kept"].count
    assert all(steps[f"examples in {mix}"].count == common.count for mix in report.mixes)


def test_files_hold_the_same_numbers(report: Report, run_dir: RunDir) -> None:
    page = write_report(report, run_dir)
    assert page.endswith("report/report.html") and Path(page).stat().st_size < 1_000_000
    rows = pq.read_table(run_dir.path("report", "scores.parquet")).to_pylist()
    stored = json.loads(Path(run_dir.path("report", "report.json")).read_text())
    assert [row["accuracy"] for row in rows] == [one.accuracy for one in report.models]
    assert stored["headline"] == report.headline
    assert stored["comparisons"][0]["interval"] == dataclasses.asdict(report.comparisons[0].interval)


def test_page_fetches_nothing_and_runs_only_its_own_script(page: str) -> None:
    tags = Tags()
    tags.feed(page)
    assert [tag for tag, _ in tags.seen].count("script") == 1
    assert not [tag for tag, _ in tags.seen if tag in ("img", "link", "iframe", "object", "embed")]
    for _, attributes in tags.seen:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#")


def test_page_shows_hostile_completions_as_text(page: str) -> None:
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page
    assert "<script>alert" not in page and "<img" not in page


def test_page_has_every_section_and_names_of_plots(page: str) -> None:
    assert set(re.findall(r"<h2[^>]*>([^<]+)", page)) >= {
        "Accuracy",
        "Comparisons",
        "Training",
        "Samples",
        "Provenance",
    }
    assert page.count('<svg role="img"') == 7  # accuracy, gap, sweep, tokens, lengths, two students' losses
    assert "currentColor" in page and "#010203" not in page


def test_same_run_gives_the_same_page(recipe: Recipe, run_dir: RunDir, report: Report, page: str) -> None:
    again = build_report(recipe, run_dir)
    again = dataclasses.replace(
        again, provenance=dataclasses.replace(again.provenance, written_at=report.provenance.written_at)
    )
    assert render_page(again) == page


def test_an_empty_run_is_a_page_that_says_so(tmp_path: Path, recipe: Recipe) -> None:
    report = build_report(recipe, RunDir(str(tmp_path)))
    assert report.headline.startswith("No scores recorded")
    assert "No training recorded" in render_page(report)
    assert any(line.startswith("Not scored") for line in report.caveats)


def test_seeds_are_one_arm_with_several_runs(tmp_path: Path) -> None:
    recipe = make_recipe(train={"seeds": [0, 1]})
    run_dir = make_run(tmp_path, recipe)
    for seed in (0, 1):
        source, target = (
            run_dir.local_path("evaluate", name) for name in ("smol-135m@short", f"smol-135m@short@{seed}")
        )
        target.mkdir()
        (target / "arithmetic.parquet").write_bytes((source / "arithmetic.parquet").read_bytes())
    report = build_report(recipe, run_dir)
    arm = next(one for one in report.arms if one.label == "smol-135m@short")
    assert arm.num_runs == 2
    # Files without a seed in their name are of an older recipe.
    assert not [one for one in report.models if one.mix == "long"]
    assert any("`smol-135m@long` on `arithmetic`" in line for line in report.caveats if line.startswith("Not scored"))
    assert arm.gain is not None and arm.gain.test.startswith("t test")
    assert "2 training seeds" in report.caveats[0]


def test_a_seed_that_is_missing_is_named_and_an_arm_of_one_run_is_not_said_to_have_more(tmp_path: Path) -> None:
    recipe = make_recipe(train={"seeds": [0, 1, 2]}, students=[{"name": "smol-135m", "model": "smol-135m"}])
    run_dir, rng = RunDir(str(tmp_path)), random.Random(1)
    seeds = {"short": (0, 2), "long": (1,), "mix-long": (0, 1, 2)}

    def caveats(names: list[str]) -> list[str]:
        for name in names:
            rows = [make_score(rng, name, "arithmetic", make_prompt(number), 0.5) for number in range(20)]
            run_dir.write_rows(rows, Score, "evaluate", name, "arithmetic.parquet")
        return list(build_report(recipe, run_dir).caveats)

    alone = caveats(["smol-135m", "smol-135m@long@1"])
    assert not any("3 training seeds: intervals cover" in line for line in alone)
    said = caveats([f"smol-135m@{mix}@{seed}" for mix, mine in seeds.items() for seed in mine])
    assert said[0].startswith("3 training seeds: intervals cover")
    assert said[1].startswith("Of 3 training seeds only one has a graded answer of `smol-135m@long` on `arithmetic`:")
    missing = next(line for line in said if line.startswith("Not scored"))
    names = ("short@1", "long@0", "long@2")
    assert missing == f"Not scored: {', '.join(f'`smol-135m@{name}` on `arithmetic`' for name in names)}."


def test_a_seed_whose_requests_all_failed_is_no_run_and_that_is_said(tmp_path: Path) -> None:
    source = {"kind": "reasoning_gym", "task": "chain_sum"}
    names = {name: {"source": source | {"seed": seed}} for seed, name in enumerate(("arithmetic", "sums"), 5)}
    recipe = make_recipe(benchmarks=names, evaluate={"benchmarks": list(names)}, train={"seeds": [0, 1]})
    run_dir, rng = RunDir(str(tmp_path)), random.Random(1)
    failed = {("smol-135m@short@1", "arithmetic"), ("smol-135m@long@1", "arithmetic"), ("smol-135m@long@1", "sums")}
    for mix, seed, benchmark in itertools.product(("short", "long", "mix-long"), (0, 1), names):
        name = f"smol-135m@{mix}@{seed}"
        rows = [make_score(rng, name, benchmark, make_prompt(number), 0.5) for number in range(20)]
        if (name, benchmark) in failed:
            rows = [dataclasses.replace(row, verdict="ERROR", completion_tokens=0) for row in rows]
        run_dir.write_rows(rows, Score, "evaluate", name, f"{benchmark}.parquet")
    report = build_report(recipe, run_dir)
    runs = {(one.label, one.benchmark): one.num_runs for one in report.arms}
    assert [runs["smol-135m@short", name] for name in names] == [1, 2] and runs["smol-135m@mix-long", "sums"] == 2
    assert [one.mix for one in report.macros] == ["long", "mix-long"]
    said = next(line for line in report.caveats if line.startswith("No completion could be graded"))
    assert "`smol-135m@short@1` on `arithmetic`, `smol-135m@long@1` on `arithmetic`" in said
    assert "has no mean" in said
    alone = next(line for line in report.caveats if line.startswith("Of 2 training seeds only one"))
    assert "`smol-135m@short` on `arithmetic`" in alone and "`smol-135m@long` on `sums`" in alone


def test_the_mean_of_all_is_no_benchmark_that_arms_are_counted_on(tmp_path: Path) -> None:
    source = {"kind": "reasoning_gym", "task": "chain_sum"}
    names = {name: {"source": source | {"seed": seed}} for seed, name in enumerate(("arithmetic", "sums"), 5)}
    recipe = make_recipe(benchmarks=names, evaluate={"benchmarks": list(names)})
    report = build_report(recipe, make_run(tmp_path, recipe, num_prompts=20, num_scored=20))
    num_arms = len(recipe.students) * len(recipe.mixes) * 2
    assert report.findings[0].startswith(f"{num_arms} trained arms (a student trained on one mix, on one benchmark)")


def test_several_benchmarks_get_a_mean_and_their_own_plots(tmp_path: Path) -> None:
    source = {"kind": "reasoning_gym", "task": "chain_sum", "seed": 5}
    names = {"arithmetic": {"source": source}, "sums $x$ & <b>": {"source": source | {"seed": 6}}}
    recipe = make_recipe(benchmarks=names, evaluate={"benchmarks": list(names)})
    report = build_report(recipe, make_run(tmp_path, recipe))
    assert len(report.macros) == 8 and report.macros[0].standard_error > 0
    page = render_page(report)
    assert "sums $x$ &amp; &lt;b&gt;" in page and "<b>" not in page
    assert "macro" not in page.lower() or report.macros


def test_resumed_metrics_count_each_step_once_and_survive_a_torn_line(tmp_path: Path) -> None:
    run_dir = RunDir(str(tmp_path))
    lines = ['{"step": 1, "loss": 3.0}', '{"step": 2, "loss": 9.0}', '{"step": 2, "loss": 2.0}', '{"step": 3, "lo']
    run_dir.write_bytes("\n".join(lines).encode(), "train", "cell", "metrics.jsonl")
    curve = read_curve(run_dir, "cell")
    assert (curve.steps, curve.losses) == ((1, 2), (3.0, 2.0))


def test_a_cell_is_described_by_its_own_manifest(tmp_path: Path, recipe: Recipe) -> None:
    run_dir = make_run(tmp_path, recipe)
    run_dir.write_manifest(
        Manifest("train", "k", wall_s=99.5, details={"steps": 7, "peak_rss_gib": 1.25}), "train", "smol-8l@long"
    )
    cell = next(cell for cell in build_report(recipe, run_dir).cells if cell.cell == "smol-8l@long")
    assert (cell.steps, cell.wall_s, cell.peak_memory) == (7, 99.5, "1.2 GiB")


def test_a_diverged_loss_is_null_in_the_json(tmp_path: Path, recipe: Recipe) -> None:
    run_dir = make_run(tmp_path, recipe)
    run_dir.write_bytes(b'{"step": 1, "loss": 2.0}\n{"step": 2, "loss": NaN}', "train", "smol-8l@long", "metrics.jsonl")
    report = build_report(recipe, run_dir)
    write_report(report, run_dir)
    stored = json.loads(Path(run_dir.path("report", "report.json")).read_text())
    assert next(cell for cell in stored["cells"] if cell["cell"] == "smol-8l@long")["curve"]["losses"] == [2.0, None]


def test_back_quotes_in_a_sentence_are_code_and_the_rest_is_escaped() -> None:
    assert ticks("`a<b` & c") == "<code>a&lt;b</code> &amp; c"
    assert ticks("one ` alone <i>") == "one ` alone &lt;i&gt;"


def test_shares_of_a_models_completions_are_of_all_of_them(report: Report) -> None:
    stream = io.StringIO()
    cut = {"num_graded": 1, "correct": 1, "incorrect": 0, "no_answer": 0, "errors": 3, "truncated": 3, "looping": 2}
    Console(file=stream, width=300).print(model_table([dataclasses.replace(report.models[0], **cut)]))
    assert "75.0 %" in stream.getvalue() and "50.0 %" in stream.getvalue() and "300.0 %" not in stream.getvalue()


@pytest.mark.parametrize(
    ("model", "mix"),
    [("smol@mix@0:short", "mix:short"), ("smol@mix@0+budget-16", "mix+budget-16"), ("smol@mix@0", "mix")],
)
def test_the_page_asks_a_student_by_the_name_that_is_served(report: Report, model: str, mix: str) -> None:
    first = dataclasses.replace(report.models[0], model=model, mix=mix)
    page = render_page(dataclasses.replace(report, models=(first,)))
    assert 'distill ask smol@mix@0 "your problem"' in page and 'model="smol@mix@0"' in page


def test_terminal_shows_every_arm_with_its_interval(report: Report) -> None:
    stream = io.StringIO()
    print_report(report, Console(file=stream, width=120))
    text = stream.getvalue()
    for arm in report.arms:
        assert f"{arm.accuracy * 100:.0f} % [{arm.interval.low * 100:.0f}, {arm.interval.high * 100:.0f}]" in text
    assert "Pools" in text and "Mixes" in text and "total" in text


def test_the_fit_of_traces_to_untrained_students_is_shown_with_the_tokens_that_shift(
    recipe: Recipe, tmp_path: Path
) -> None:
    run_dir = make_run(tmp_path, recipe)
    spread = [0.1, 0.2, 0.3, 0.4, 0.5]
    quantiles = dict.fromkeys(("mean_nll", "rsr", "unshifted", "marginal", "shifted"), spread)
    pools = {"long": {"traces": 61, "quantiles": quantiles, "tokens": [["<b>Wait", 17, 44.0]]}}
    run_dir.write_manifest(Manifest("mix", "k", 1, 1, details={"fit": {"smol-135m": pools}}), "mix")
    report = build_report(recipe, run_dir)
    assert report.fits[0].scores["rsr"].median == 0.3
    page = render_page(report)
    assert "<code>&lt;b&gt;Wait</code> (17, 44)" in page
    assert "Fit of the traces to the untouched students" in page
