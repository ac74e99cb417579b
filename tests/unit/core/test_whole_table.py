"""Tables on narrow terminals."""

import io

from rich.console import Console
from rich.table import Table

from distill.core.whole_table import print_whole


def test_a_table_is_printed_whole_and_the_text_after_it_is_as_wide_as_the_terminal() -> None:
    console = Console(file=io.StringIO(), width=20)
    table = Table("arm", "accuracy [95 %]", "gain", box=None)
    table.add_row("smol-135m@rewarded:long", "44.5 % [36.6, 52.7]", "+33.5 [25.5, 41.5]")
    print_whole(table, console)
    console.print("a sentence that is longer than the terminal")
    header, row, *sentence = console.file.getvalue().splitlines()  # type: ignore[attr-defined]  # the file above
    assert header.split() == ["arm", "accuracy", "[95", "%]", "gain"]
    assert all(value in row for value in ("smol-135m@rewarded:long", "44.5 % [36.6, 52.7]", "+33.5 [25.5, 41.5]"))
    assert len(sentence) > 1 and max(map(len, sentence)) <= 20
