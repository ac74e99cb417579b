"""`distill ask`: one question, a conversation, or a file."""

import argparse
import os
from pathlib import Path

from rich.console import Console

from distill.cli.ask import ServedStudent, ask_student, chat
from distill.core.errors import InputError
from serve.key_variables import KEY_VARIABLE, NO_KEY


def ask_verb(arguments: argparse.Namespace) -> int:
    """`distill ask`."""
    if bool(arguments.file) != bool(arguments.out) or (arguments.file and arguments.problem):
        raise InputError("--file IN.jsonl goes with --out OUT.jsonl, and without a question")
    sampling = {"max_tokens": arguments.max_tokens, "thinking_budget": arguments.thinking_budget}
    student = ServedStudent(
        url=arguments.url,
        model=arguments.model,
        api_key=os.environ.get(KEY_VARIABLE) or NO_KEY,
        sampling={key: value for key, value in sampling.items() if value is not None},
        mode=arguments.mode,
    )
    console = Console(highlight=False, soft_wrap=True)
    if arguments.file:
        from distill.cli.ask_file import ask_file  # start time: pyarrow, which a question does not need

        return ask_file(student, Path(arguments.file), Path(arguments.out), console)
    if arguments.problem is None:
        return chat(student, console)
    return ask_student(student, arguments.problem, console)
