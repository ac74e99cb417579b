"""Benchmarks that recipes can name without defining them: one table of source, split, columns and answer kind."""

from distill.config import BenchmarkConfig
from distill.config_sources import Columns, HubSource
from distill.schema import AnswerKind


def _hub(
    dataset: str, split: str, problem: str, reference: str, kind: AnswerKind, subset: str | None = None
) -> BenchmarkConfig:
    columns = Columns(problem=problem, reference=reference)
    return BenchmarkConfig(
        source=HubSource(dataset=dataset, subset=subset, split=split, columns=columns, answer_kind=kind)
    )


BUILTIN_BENCHMARKS: dict[str, BenchmarkConfig] = {
    "gsm8k": _hub("openai/gsm8k", "test", "question", "answer", AnswerKind.NUMBER, subset="main"),
    "math500": _hub("HuggingFaceH4/MATH-500", "test", "problem", "answer", AnswerKind.MATH),
    "amc23": _hub("math-ai/amc23", "test", "question", "answer", AnswerKind.NUMBER),
    "aime24": _hub("math-ai/aime24", "test", "problem", "solution", AnswerKind.NUMBER),
}
