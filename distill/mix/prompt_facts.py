"""What the filters need to know of a prompt, as columns: its length for each student, how it leaves the model, its
scripts. Some 20 bytes a prompt, however long its text is."""

from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from distill.config.teachers import ChatFormat
from distill.core.run_dir import PROMPTS, RunDir
from distill.mix.scripts import scripts_of
from distill.mix.seeded_order import contains, keys_of
from distill.models.chat_template import Asked, chat_messages, prompt_texts, system_text
from distill.models.template_options import options_text
from distill.models.thinking import PromptEnd, prompt_end
from distill.models.token_counts import TokenCounter

BATCH_ROWS = 4096
Value = TypeVar("Value", bound=Hashable)


@dataclass(frozen=True, eq=False)
class PromptFacts:
    """Columns with one entry per prompt and, where it says T, per tokenizer."""

    prompt_keys: NDArray[np.uint64]
    """Sorted."""
    tokens: NDArray[np.int32]
    """[P, T]: length of the rendered prompt."""
    end_codes: NDArray[np.int16]
    """[P, T]: index in `ends`."""
    script_codes: NDArray[np.int32]
    """[P]: index in `scripts`."""
    ends: tuple[PromptEnd, ...]
    scripts: tuple[frozenset[str], ...]
    how: Asked
    """Options and system turn, the same for all prompts."""

    def rows(self, prompt_keys: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Rows of the prompts in these columns; all of them must be there."""
        assert contains(self.prompt_keys, prompt_keys).all()
        return np.searchsorted(self.prompt_keys, prompt_keys)


def read_prompt_facts(
    run_dir: RunDir, wanted: NDArray[np.uint64], chat: ChatFormat, counters: Sequence[TokenCounter]
) -> PromptFacts:
    """Facts of the wanted prompts (sorted keys); one batch of problems is in memory at a time.

    Args:
        run_dir: where the prompts are.
        wanted: keys of the prompts.
        chat: how students are asked.
        counters: of the students' tokenizers.
    """
    shape = (len(wanted), len(counters))
    tokens, end_codes = np.zeros(shape, np.int32), np.zeros(shape, np.int16)
    script_codes = np.zeros(len(wanted), np.int32)
    ends: dict[PromptEnd, int] = {}
    scripts: dict[frozenset[str], int] = {}
    with run_dir.fs.open(run_dir.path(*PROMPTS)) as source:
        for batch in pq.ParquetFile(source).iter_batches(BATCH_ROWS, columns=["prompt_id", "problem"]):
            keys = keys_of(batch.column("prompt_id"), "prompt id")
            is_wanted = contains(wanted, keys)
            rows = np.searchsorted(wanted, keys[is_wanted])
            problems = batch.column("problem").filter(pa.array(is_wanted)).to_pylist()
            script_codes[rows] = coded(map(scripts_of, problems), scripts)
            for column, counter in enumerate(counters):
                asked = [chat_messages(problem, chat) for problem in problems]
                texts = prompt_texts(counter.tokenizer, asked, chat.template_options)
                tokens[rows, column] = counter.count(texts).tokens
                end_codes[rows, column] = coded(map(prompt_end, texts), ends)
    how = Asked(options_text(chat.template_options), system_text(chat_messages("", chat)))
    return PromptFacts(wanted, tokens, end_codes, script_codes, tuple(ends), tuple(scripts), how)


def coded(values: Iterable[Value], names: dict[Value, int]) -> list[int]:
    """Codes of values; new ones are added to `names`."""
    return [names.setdefault(value, len(names)) for value in values]
