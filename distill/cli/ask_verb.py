"""`distill ask`: one question, a conversation, or a file."""

import argparse
import os
from pathlib import Path

from rich.console import Console

from distill.cli.ask import ServedStudent, ask_student, chat
from distill.core.errors import InputError
from serve.http_client import endpoint_address
from serve.key_variables import KEY_VARIABLE, NO_KEY


def ask_verb(arguments: argparse.Namespace) -> int:
    """`distill ask`."""
    if problem := _problem(arguments):
        raise InputError(problem)
    sampling = {"max_tokens": arguments.max_tokens, "thinking_budget": arguments.thinking_budget}
    student = ServedStudent(
        url=endpoint_address(arguments.url),
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


def _problem(arguments: argparse.Namespace) -> str:
    """What is wrong with the command; empty where nothing is."""
    if arguments.file and arguments.problem is not None:
        return "a question and --file: ask one of them at a time"
    if arguments.file and not arguments.out:
        return "--file IN.jsonl needs --out OUT.jsonl, where its answers go"
    if arguments.out and not arguments.file:
        return "--out is for the answers to --file IN.jsonl"
    if arguments.problem is not None and not arguments.problem.strip():
        return "the question is empty: write one, or leave it out for a conversation"
    return ""
