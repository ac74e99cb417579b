"""docs/recipe-reference.md is what the config classes say, and they say it of every field."""

import re
from pathlib import Path

from distill.config.reference import described, is_variant, reference, sections

PAGE = Path(__file__).parents[3] / "docs" / "recipe-reference.md"


def test_the_page_is_what_the_config_classes_generate() -> None:
    is_current = PAGE.read_text(encoding="utf-8") == reference()
    assert is_current, "run: python -m distill.config.reference > docs/recipe-reference.md"


def test_every_field_says_what_it_does() -> None:
    silent = [
        f"{part.section.__module__}.{part.section.__name__}.{name}"
        for part in sections()
        for name, field in part.section.model_fields.items()
        if not described(part.section)[name] and not is_variant(name, field)
    ]
    assert not silent


def test_a_field_shows_type_bounds_default_and_the_stage_that_it_decides_from() -> None:
    lines = reference().splitlines()
    rows = {
        (cells[0], cells[1]): cells
        for cells in (re.split(r" \| ", line.strip("| ")) for line in lines)
        if len(cells) > 4
    }
    assert rows["`max_length`", "integer, ≥ 8"][2::2] == ["`4096`", "mix"]
    assert rows["`priority`", "integer, ≥ -100, ≤ 100"][4] == "nothing"
    assert rows["`seeds`", "list of integer, length ≥ 1"][4] in ("train, extent", "search")
    assert rows["`models`", "table of section `models.NAME`, length ≥ 1"][4] == "generate, mix"
