"""`distill ask --file`: answers every row of a JSON Lines file."""

from pathlib import Path

from rich.console import Console

from distill.cli.ask import ServedStudent
from distill.core.errors import StageError
from distill.core.progress_bars import bars
from serve.client import chosen_mode
from serve.dataset_client import BatchConfig
from serve.file_client import Target, answer_file


def ask_file(student: ServedStudent, source: Path, out: Path, console: Console) -> int:
    """Answer a JSONL file; the same command continues a stopped one.

    Raises:
        StageError: some rows failed; the output has their errors.
    """
    card = student.card()
    if student.mode:
        card |= {"modes": {chosen_mode(card, student.mode): ""}, "modes_in": None}
    sampling = {"temperature": 0.0, "seed": 0, **student.sampling}
    target = Target(student.url, student.model, card, sampling, student.api_key)
    with bars(console) as shown:
        found = answer_file(
            source, out, target, BatchConfig(), lambda done, total: shown.update(student.model, done, total)
        )
    rows = counted(found.rows, "row")
    if not found.asked:
        console.print(f"nothing to do: {out} has the answers to all {rows}", markup=False)
        return 0
    console.print(f"{rows} in {out}, {found.asked} asked now", markup=False)
    if found.failed:
        raise StageError(
            f"{counted(found.failed, 'row')} failed, see `error` -> the same command asks failed rows again"
        )
    return 0


def counted(number: int, what: str) -> str:
    """`1 row`, `2 rows`."""
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
