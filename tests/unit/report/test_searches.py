"""What the report says of a search."""

from distill.core.manifest import Manifest
from distill.report.searches import search_rows, search_words


def test_the_report_says_what_was_tried_and_how_sure_the_choice_is() -> None:
    rounds = [
        {
            "num_steps": steps,
            "seeds": [0],
            "problems": 150,
            "weights": weights,
            "accuracies": [0.3, 0.2][: len(weights)],
            "intervals": [[0.2, 0.4], [0.1, 0.3]][: len(weights)],
            "kept": [0],
            "kept_share": [0.8, 0.2][: len(weights)],
        }
        for steps, weights in [(10, [{"long": 0.5, "short": 0.5}, {"long": 1.0, "short": 0.0}])]
    ]
    entry = {"rounds": rounds, "weights": {"long": 0.5, "short": 0.5}, "benchmark": "dev", "student": "s"}
    (found,) = search_rows({"search": Manifest("search", "", details={"arms": {"auto": entry}})})
    words = search_words(found)
    assert "2 mixes in 2 short trainings" in words and "long 50 %, short 50 %" in words and "80 %" in words
