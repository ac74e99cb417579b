"""`distill publish --score`: a GGUF file is asked the run's benchmarks through llama.cpp, once."""

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from distill.cli.main import main
from distill.core.run_dir import REPORT_JSON, benchmark_scores
from distill.core.schema import Score, Verdict
from distill.ops.publish.gguf import INSTALL
from distill.report.quantised import quantised_name
from tests.fixtures.published_run import MODEL, trained
from tests.fixtures.reasoning_student import MODES, make_reasoning_student
from tests.fixtures.report_run import finish, make_recipe

PACKAGES = ("auto_round", "cyllama", "xllamacpp")
pytestmark = pytest.mark.skipif(
    any(find_spec(name) is None for name in PACKAGES), reason=f"{', '.join(PACKAGES)} are not installed -> {INSTALL}"
)


def test_what_quantisation_cost_is_measured_once_and_stands_in_card_and_report(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    mixes = [{"name": "mix-long", "weights": {"long": 0.5, "short": 0.5}, "modes": MODES}]
    student = trained(tmp_path / "run", make_recipe(mixes=mixes), make_reasoning_student)
    run_dir = student.run_dir
    for mode in MODES:  # the synthetic scores have no modes
        rows = run_dir.read_table(*benchmark_scores(MODEL, "arithmetic"), row_type=Score).to_pylist()
        run_dir.write_rows([Score(**row) for row in rows], Score, *benchmark_scores(f"{MODEL}:{mode}", "arithmetic"))
    finish(run_dir, student.recipe)
    command = ["publish", run_dir.uri, MODEL, "--formats", "gguf-q8_0", "--score", "--to"]
    assert main([*command, str(tmp_path / "out")]) == 0
    for mode in MODES:
        name = quantised_name(MODEL, "q8_0", mode)
        scores = run_dir.read_table(*benchmark_scores(name, "arithmetic"), row_type=Score).to_pylist()
        assert len(scores) == 40 and {row["model"] for row in scores} == {name}
        assert not [row["detail"] for row in scores if row["verdict"] == Verdict.ERROR]
        assert all(("</think>" in row["completion"]) == (mode == "long") for row in scores)
        assert {row["finish_reason"] for row in scores} == {"stop"}
    report = json.loads(run_dir.read_bytes(*REPORT_JSON) or b"{}")
    assert {one["model"] for one in report["quantised"]} == {quantised_name(MODEL, "q8_0", mode) for mode in MODES}
    assert "## What quantisation cost" in (tmp_path / "out" / "README.md").read_text()
    assert not (tmp_path / "out" / "model.safetensors").exists()
    capfd.readouterr()
    assert main([*command, str(tmp_path / "again")]) == 0
    assert "all scores are on disk" in capfd.readouterr().out
