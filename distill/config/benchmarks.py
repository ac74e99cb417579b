"""Built-in benchmarks, which recipes name without defining them: source, split, columns, answer kind, number of
problems and revision of each.

Every revision is a commit that several public projects pin for the same set, or (MGSM, AnesBench) whose card was read
(no hub was reachable to ask here). A set without one in a recipe is read at `main`, and the report names the commit
that was read. They have no prompt template of their own, but for a sentence under multiple choice: students are
prompted as in training (`student_chat`). Any other set, in any language or multiple choice, is a `[benchmarks.NAME]`
with a source and its columns.

A suite is a name for several of them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from pydantic import Field

from distill.config.base import Section
from distill.config.decides import IF_SET, NOTHING, from_stage
from distill.config.preset_table import PRESETS
from distill.config.sources import PromptSource, kind_of
from distill.core.schema import AnswerKind


class BenchmarkConfig(Section):
    """A held-out prompt set. Other languages and multiple choice are set in `source.columns`."""

    source: PromptSource
    """Where its problems come from."""
    num_prompts: int | None = Field(default=None, ge=1)
    """Keep at most this many, by seeded hash. Absent: all."""
    template: str | None = Field(default=None, json_schema_extra=from_stage("evaluate"))
    """Template of its prompts, with `{problem}` where the problem goes; `student_chat` is applied to the result.
    Absent: the problem itself."""
    regression: bool | None = Field(default=None, json_schema_extra=from_stage("report", IF_SET))
    """Measures what training may break, not what it is for: the report has every arm less its untouched student on it
    in a table of its own, and leaves it out of the mean. Absent: so are sets of `instructions` and of questions that
    might be refused."""
    suite: tuple[str, ...] = Field(default=(), json_schema_extra=NOTHING)
    """Suites that it belongs to: `evaluate.suite` then asks it in the place of that suite's built-in benchmarks."""

    @property
    def is_regression(self) -> bool:
        """Whether it measures what training may break."""
        of_kind = kind_of(self.source) in (AnswerKind.INSTRUCTIONS, AnswerKind.REFUSAL)
        return of_kind if self.regression is None else self.regression


@dataclass(frozen=True)
class Definition:
    """A built-in benchmark."""

    source: Mapping[str, Any]
    """Its source as a recipe would write it, of kind `hub` where it says none: a section is made only of one that is
    asked for."""
    num_problems: int
    """Problems of the split, duplicates included."""
    note: str = ""
    template: str | None = None

    @cached_property
    def config(self) -> BenchmarkConfig:
        """As a section."""
        return BenchmarkConfig.model_validate({"source": {"kind": "hub", **self.source}, "template": self.template})


NUMBER, MATH = AnswerKind.NUMBER, AnswerKind.MATH
MGSM_LANGUAGES = ("bn", "de", "en", "es", "fr", "ja", "ru", "sw", "te", "th", "zh")
BY_LETTER = "{problem}\n\nGive the letter of the one right option at the end, as in: The answer is (X)."
BY_LETTER_ZH = "{problem}\n\n最后只给出一个正确选项的字母，例如：答案是(X)。"


def _source_of(preset: str, **pinned: Any) -> dict[str, Any]:
    """Where a preset's rows are and what their columns mean, with what a benchmark pins of them."""
    return {**PRESETS[preset].location, **PRESETS[preset].prompt_fields, **pinned}


def _mgsm(language: str) -> Definition:
    """GSM8K's first 250 test problems, translated by people (arXiv 2210.03057)."""
    source = _source_of("mgsm", subset=language, revision="bd4f2be4127dc3d568a7a1ab13a07ceb921afff3", language=language)
    return Definition(source, 250, "problems of gsm8k")


def _anesbench(language: str, num_problems: int, template: str) -> Definition:
    """Anesthesiology by cognitive level (arXiv 2504.02404): 1 is retrieval, 3 complex decisions."""
    revision = "b78f5dbd0709053b3e910f095d87905830d21c81"
    source = _source_of("anesbench", subset=language, revision=revision, language=language)
    return Definition(source, num_problems, PRESETS["anesbench"].note, template)


DEFINITIONS: dict[str, Definition] = {
    "gsm8k": Definition(
        {
            "dataset": "openai/gsm8k",
            "subset": "main",
            "split": "test",
            "revision": "740312add88f781978c0658806c59bc2815b9866",
            "columns": {"problem": "question"},
            "answer_kind": NUMBER,
        },
        1319,
    ),
    "math": Definition(
        {
            "dataset": "DigitalLearningGmbH/MATH-lighteval",
            "split": "test",
            "revision": "0530c78699ea5e8eb5530600900e1f328b48acad",
            "columns": {"reference": "solution", "subject": "type"},
            "answer_kind": MATH,
        },
        5000,
        "MATH-500 is part of it",
    ),
    "math500": Definition(
        {
            "dataset": "HuggingFaceH4/MATH-500",
            "split": "test",
            "revision": "6e4ed1a2a79af7d8630a6b768ec859cb5af4d3be",
            "answer_kind": MATH,
        },
        500,
    ),
    "amc23": Definition(
        {
            "dataset": "math-ai/amc23",
            "split": "test",
            "revision": "80815d37005feb82cd7f8fbc6901d5d3eff43057",
            "columns": {"problem": "question"},
            "answer_kind": NUMBER,
        },
        40,
    ),
    "aime24": Definition(
        {
            "dataset": "math-ai/aime24",
            "split": "test",
            "revision": "83a7f387baaa524a8bda0022eac0541582297103",
            "columns": {"reference": "solution"},
            "answer_kind": NUMBER,
        },
        30,
    ),
    "aime25": Definition(
        {
            "dataset": "math-ai/aime25",
            "split": "test",
            "revision": "563bb8404243c5f09de6ec262f2db674fe5bce9b",
            "answer_kind": NUMBER,
        },
        30,
    ),
    "olympiadbench": Definition(
        {
            "dataset": "Hothan/OlympiadBench",
            "subset": "OE_TO_maths_en_COMP",
            "revision": "91184b52131e7fc9455fef848035173aea8cc01a",
            "columns": {
                "problem": "question",
                "reference": "final_answer",
                "subject": "subfield",
                "context": "context",
            },
            "answer_kind": MATH,
        },
        674,
        "English, text only, competition mathematics; the paper's copy has one more",
    ),
    "svamp": Definition(
        {
            "dataset": "ChilleD/SVAMP",
            "split": "test",
            "revision": "5e0bf1e5e7c0e9c4bc39180d224f41f3f801b7ef",
            "columns": {"problem": "Question", "reference": "Answer", "subject": "Type", "context": "Body"},
            "answer_kind": NUMBER,
        },
        300,
        "the test part of the 1,000",
    ),
    "ifeval": Definition(
        _source_of("ifeval", revision="966cd89545d6b6acfd7638bc708b98261ca58e84"),
        541,
        "instructions that rules can check; the accuracy is IFEval's strict one of whole prompts",
    ),
    "instructions-60": Definition(
        _source_of("instructions-60"),
        60,
        "our own, of the 25 kinds of instructions that IFEval has",
    ),
    "harmless-40": Definition(
        _source_of("harmless-40"),
        40,
        "our own harmless questions with words that harmful ones have; correct is what is not refused",
    ),
    **{f"mgsm-{language}": _mgsm(language) for language in MGSM_LANGUAGES},
    "anesbench-en": _anesbench("en", 4343, BY_LETTER),
    "anesbench-zh": _anesbench("zh", 3529, BY_LETTER_ZH),
    "mmlu-pro": Definition(
        _source_of("mmlu-pro", revision="b189ec765aa7ed75c8acfea42df31fdae71f97be", language="en"),
        12_032,
        PRESETS["mmlu-pro"].note,
        BY_LETTER,
    ),
}

SUITES: dict[str, tuple[str, ...]] = {
    "maths": ("gsm8k", "math500", "amc23", "aime24", "olympiadbench"),
    "languages": tuple(f"mgsm-{language}" for language in MGSM_LANGUAGES),
    "choices": ("anesbench-en", "anesbench-zh", "mmlu-pro"),
    "regression": ("instructions-60", "harmless-40"),
}
"""Suite -> its built-in benchmarks."""


def suite_benchmarks(suite: str, own: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """The benchmarks of a suite: the recipe's own that belong to it, or else the built-in ones.

    Args:
        suite: its name.
        own: benchmark of the recipe -> the suites that it belongs to.
    """
    return tuple(name for name, suites in own.items() if suite in suites) or SUITES.get(suite, ())


def regression_benchmarks(own: Mapping[str, BenchmarkConfig], names: Iterable[str]) -> list[str]:
    """Those of some benchmarks that measure what training may break."""
    return [name for name in names if benchmark_config(own, name).is_regression]


def benchmark_config(own: Mapping[str, BenchmarkConfig], name: str) -> BenchmarkConfig:
    """The benchmark of a name: the recipe's own, or else the built-in one."""
    return own.get(name) or DEFINITIONS[name].config
