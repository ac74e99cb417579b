"""Renders an arm's examples for a student: prompt and completion as the texts that it is taught."""

import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from distill.models.chat_template import IGNORED, Rendered, prompt_text, render_example
from distill.models.template_options import read_options


def rendered_rows(
    rows: Iterable[Mapping[str, Any]], tokenizer: Any, left_out: Counter[str]
) -> Iterator[dict[str, str]]:
    """Rows with `prompt` and `completion`; a completion ends in what ends the student's turn.

    Args:
        rows: examples with `messages` and `template_options`.
        tokenizer: the student's.
        left_out: counts the rows that the student cannot be taught, by reason.

    Raises:
        InputError: the tokenizer has no chat template, or it refuses the turns.
    """
    for row in rows:
        options = read_options(row["template_options"])
        rendered = render_example(tokenizer, row["messages"], sys.maxsize, options)
        if isinstance(rendered, Rendered):
            prompt = prompt_text(tokenizer, row["messages"][:-1], options)
            yield {"prompt": prompt, "completion": _completion(rendered, tokenizer)}
        else:
            left_out[rendered] += 1


def _completion(rendered: Rendered, tokenizer: Any) -> str:
    """The text of the tokens that have a loss."""
    pairs = zip(rendered.input_ids, rendered.labels, strict=True)
    taught = [token for token, label in pairs if label != IGNORED]
    return str(tokenizer.decode(taught, skip_special_tokens=False, clean_up_tokenization_spaces=False))
