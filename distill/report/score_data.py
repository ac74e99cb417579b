"""The part of a report about scores: models, arms, comparisons and what follows from them. Frozen, no formatting."""

from collections.abc import Mapping
from dataclasses import dataclass

from distill.evaluate.interval import Interval

GAPS = {"gap": "long gap", "large_gap": "large gap"}
"""Purpose of a comparison -> what the report calls it."""


@dataclass(frozen=True)
class PassRate:
    """Chance that one of k completions of a problem is correct, by the unbiased estimator."""

    k: int
    value: float
    interval: Interval
    num_prompts: int
    """Problems with at least k graded completions."""


@dataclass(frozen=True)
class ModelScore:
    """One evaluated model on one benchmark. One row of scores.parquet."""

    model: str
    student: str
    mix: str
    """Empty for the untouched student."""
    seed: int | None
    benchmark: str
    accuracy: float | None
    interval: Interval
    num_prompts: int
    num_graded: int
    correct: int
    incorrect: int
    no_answer: int
    errors: int
    """Completions that the verifier could not decide: in no denominator."""
    mean_tokens: float | None
    p95_tokens: float | None
    truncated: int
    looping: int
    """Completions that repeat themselves."""
    string_match: float | None
    """Accuracy by the string comparison of older work, beside `accuracy`; None where it has no rule for the answers."""
    num_samples: int
    """Completions per problem."""
    pass_at: tuple[PassRate, ...]


@dataclass(frozen=True)
class Comparison:
    """First minus second, on the same prompts."""

    purpose: str
    """`gain` over the untouched student, `gap` long minus short, `large_gap` large minus small teacher, `blend` against
    one of its own pools alone, `merge` against a blend that was trained, `unequal`: a blend against one of its pools
    with other numbers of steps, `regression` and `regression_second`: as `gain`, on what training may break, under the
    first and the second reading, `answering`: a student that is made to answer in another way against itself,
    `equal_answering`: two arms of a student that are made to answer in the same way, or `other`."""
    family: str
    """The comparisons it is corrected with: `training`, `mix`, `unequal steps`, `answering`, `equal answering` or
    `other pairs`."""
    student: str
    benchmark: str
    first: str
    second: str
    difference: float
    interval: Interval
    standard_error: float
    degrees: float | None
    """Degrees of freedom of the standard error; None: infinite."""
    p_value: float
    p_adjusted: float
    """Holm, over every comparison of its family."""
    test: str
    num_prompts: int
    is_shown: bool
    """The interval leaves out 0 and the adjusted p-value is under 0.05."""


@dataclass(frozen=True)
class Regression:
    """An arm less its untouched student on a benchmark that measures what training may break, under one reading."""

    student: str
    mix: str
    benchmark: str
    reading: str
    """`strict` or `loose` of instructions, `rules` or `judge` of refusals; else empty."""
    untouched: float
    """Accuracy of the untouched student: the share of prompts whose instructions are all followed, or that are not
    refused."""
    accuracy: float
    single_untouched: float | None
    """Share of single instructions that the untouched student follows; None of other benchmarks."""
    single: float | None
    change: Comparison

    @property
    def is_below(self) -> bool:
        """Whether the interval of the difference lies below 0."""
        return self.change.interval.high < 0


@dataclass(frozen=True)
class GapChange:
    """A gap of a base student minus the same gap of the student that was made from it by instruction tuning."""

    base: Comparison
    instruct: Comparison
    difference: float
    interval: Interval
    p_value: float
    p_adjusted: float
    """Holm, over every change of the report."""
    test: str
    num_prompts: int
    """Problems that all four arms were graded on."""
    is_shown: bool
    """The interval leaves out 0 and the adjusted p-value is under 0.05."""


@dataclass(frozen=True)
class CandidateResult:
    """An arm that was hoped to be better than all of some others, for one student."""

    student: str
    arm: str
    comparisons: tuple[Comparison, ...]
    """The arm minus each of those that it must beat."""
    p_value: float
    """Of being better than all of them, or with a margin of not being below any of them by as much."""
    p_adjusted: float
    """Holm, over every candidate of every student."""
    verdict: str
    """`better` than all, or with a margin `held`; `worse` than all, or `not shown`."""
    detectable: float
    """True difference from all of them that would have been shown with 80 % power; with a margin it may be negative."""


@dataclass(frozen=True)
class QuestionResult:
    """The run's primary question and its answer."""

    question: str
    answer: str
    benchmark: str
    candidates: tuple[CandidateResult, ...]
    margin_points: float = 0.0
    """Above 0 it asks which arms are less than this many points below others."""


@dataclass(frozen=True)
class ArmScore:
    """A student under one mix (all its training seeds together), or untouched, on one benchmark."""

    student: str
    mix: str
    label: str
    benchmark: str
    accuracy: float
    interval: Interval
    standard_error: float
    num_prompts: int
    num_runs: int
    errors: int
    mean_tokens: float | None
    p95_tokens: float | None
    truncated_share: float | None
    no_answer_share: float | None
    looping_share: float | None
    """Completions that repeat themselves; None where there is no completion."""
    gain: Comparison | None


@dataclass(frozen=True)
class MacroScore:
    """The paper's P: unweighted mean over the benchmarks, with its standard error; only where there are several."""

    student: str
    mix: str
    label: str
    accuracy: float
    standard_error: float
    interval: Interval
    num_benchmarks: int


@dataclass(frozen=True)
class SweepPoint:
    """One mix of a weight sweep."""

    share: float
    """Weight that the recipe asks for."""
    mix: str
    accuracy: float
    interval: Interval


@dataclass(frozen=True)
class Sweep:
    """Accuracy of a student against the weight of `pool` in mixes with `other`."""

    student: str
    benchmark: str
    pool: str
    other: str
    budget: str
    """What all its mixes are trained on, in words, where the run has several such numbers; else empty."""
    points: tuple[SweepPoint, ...]


@dataclass(frozen=True)
class BudgetPoint:
    """One arm of a budget curve."""

    mix: str
    amount: int
    """Rows, or optimiser steps."""
    accuracy: float
    interval: Interval
    mean_tokens: float | None
    """Of a completion; of the mean of all benchmarks their mean."""


@dataclass(frozen=True)
class BudgetCurve:
    """Accuracy of a student against how much the arms of one family are trained on."""

    student: str
    benchmark: str
    family: str
    label: str
    """The family, with what its arms share where it has several curves."""
    by: str
    """`rows` or `steps`."""
    points: tuple[BudgetPoint, ...]
    """Ascending."""


@dataclass(frozen=True)
class AnsweringPoint:
    """A student of one arm that answers in one way."""

    mix: str
    """Name of the evaluation arm; where it answers by itself, of its arm."""
    way: str
    """In words: `budget-64`, or `by itself`; of a student that is told its mode, `told to be long`."""
    budget: int | None
    """Tokens of reasoning; None: no budget."""
    accuracy: float
    interval: Interval
    mean_tokens: float
    """Of a completion."""
    tokens_interval: Interval
    truncated_share: float | None
    looping_share: float | None
    no_answer_share: float | None
    against: str
    """The mode that it is told in the comparison; empty where there is none. A student that chooses its mode is a point
    for each of them."""
    change: Comparison | None
    """Against itself; None where it is itself."""
    tokens_change: float
    """Tokens more than by itself, mean of a completion."""
    tokens_change_interval: Interval
    verdict: str
    """Whether it dominates itself, or is dominated, as far as the intervals show."""


@dataclass(frozen=True)
class AnsweringCurve:
    """A student of one arm on one benchmark, in all ways in which it is made to answer."""

    student: str
    mix: str
    """Empty for the untouched student."""
    benchmark: str
    points: tuple[AnsweringPoint, ...]
    """By itself last; before that budgets, ascending. Empty where nothing can be compared."""
    left_out: tuple[str, ...] = ()
    """Runs and ways without tokens, which are missing, in sentences."""

    @property
    def label(self) -> str:
        """`student@arm`, or the student's name where it is untouched."""
        return f"{self.student}@{self.mix}" if self.mix else self.student

    @property
    def sweep(self) -> tuple[AnsweringPoint, ...]:
        """The budgets with the student by itself as their end; empty where there are none."""
        budgets = tuple(one for one in self.points if one.budget is not None)
        return (*budgets, self.points[-1]) if budgets else ()


@dataclass(frozen=True)
class StepsChange:
    """A blend minus a pure arm with unequal steps, and the same with the steps that all arms take."""

    student: str
    benchmark: str
    unequal: Comparison
    matched: Comparison
    steps: tuple[int | None, int | None]
    """Optimiser steps of the unequal arms, the blend's first."""
    matched_steps: int | None
    difference: float
    """Unequal minus matched: what matched steps remove."""
    interval: Interval
    p_value: float
    p_adjusted: float
    """Holm, over every change of the report."""
    is_shown: bool
    """The interval leaves out 0 and the adjusted p-value is under 0.05."""


@dataclass(frozen=True)
class GroupScore:
    """An arm's accuracy within one level or subject of a benchmark."""

    student: str
    mix: str
    benchmark: str
    by: str
    """`level` or `subject`."""
    group: str
    accuracy: float
    interval: Interval
    num_prompts: int


@dataclass(frozen=True)
class LanguageScore:
    """An arm on the prompts of one language of a benchmark, and the languages that it answered in."""

    student: str
    mix: str
    label: str
    benchmark: str
    language: str
    """Code of the prompts' language."""
    accuracy: float | None
    interval: Interval
    num_prompts: int
    completions: int
    told: int
    """Completions whose reasoning has enough words to tell its language."""
    in_own: float | None
    """Share of the reasoning that is in the prompts' language, mean over the completions that it was told of."""
    in_own_interval: Interval
    answers_told: int
    answers_in_own: float | None
    """Share of the answers that are in the prompts' language, of those whose language was told."""
    reasoning: Mapping[str, float]
    """Language -> share of the completions whose reasoning is mostly in it; the most frequent ones."""


@dataclass(frozen=True)
class LevelScore:
    """An arm's accuracy on one level of a benchmark in one language."""

    student: str
    mix: str
    benchmark: str
    language: str
    """Empty where the prompts have none."""
    level: str
    """Empty: all levels."""
    accuracy: float | None
    interval: Interval
    num_prompts: int
    correct: int
    """Completions, as are the following."""
    no_answer: int
    completions: int


@dataclass(frozen=True)
class ModeChoice:
    """Which modes a student chose that writes its mode itself, on one level of a benchmark, over all training seeds."""

    student: str
    mix: str
    benchmark: str
    level: str
    """Empty: all levels."""
    completions: int
    chosen: dict[str, int]
    """Mode -> completions that begin with its line; under an empty name those that begin with none."""
    correct: dict[str, int]
    """Of these the correct ones."""


@dataclass(frozen=True)
class Cost:
    """What one arm took for one training seed, and per percentage point gained where a gain is shown."""

    student: str
    mix: str
    teacher_tokens: int | None
    device_s: float | None
    """Training time times devices, mean over seeds."""
    gain: Comparison | None
    tokens_per_point: float | None
    device_s_per_point: float | None


@dataclass(frozen=True)
class TraceCost:
    """What the traces of one teacher, or of all, cost; of all prompts or of those of one level. None: not recorded, or
    nothing to divide by."""

    pool: str
    """Empty: all teachers together."""
    level: str
    """Empty: all prompts."""
    traces: int
    verified: int
    """Correct ones."""
    tokens: int
    """Of all completions, wrong ones included."""
    common_prompts: int
    """Prompts that every pool of the mixes solved by a trace that was not cut off."""
    tokens_per_verified: float | None
    engine_s_per_verified: float | None
    """Seconds in which the engines worked, however many at once."""
    usd_per_verified: float | None
    """By `usd_per_million_tokens`; None where it is not set."""
    tokens_per_common: float | None
    engine_s_per_common: float | None
    usd_per_common: float | None


@dataclass(frozen=True)
class PaperRow:
    """A number of the paper beside ours."""

    student: str
    what: str
    paper: float
    ours: float | None
    interval: Interval | None


@dataclass(frozen=True)
class BenchmarkRow:
    """A benchmark and how it was asked."""

    benchmark: str
    source: str
    revision: str
    commit: str | None
    """The hub commit that was read, where it is known and is not the revision itself."""
    answer_kind: str
    num_published: int | None
    """Problems of the published split; None for a set of the recipe's own."""
    num_problems: int | None
    num_samples: int
    temperature: float
    max_tokens: int
    note: str


@dataclass(frozen=True)
class Detectable:
    """Smallest difference that a benchmark can show (80 % power, 5 % level, before correction)."""

    benchmark: str
    num_prompts: int
    difference: float


@dataclass(frozen=True)
class QuantisedScore:
    """One quantised file of a student on one benchmark, against the student's full weights."""

    model: str
    """`student@mix/q4_k_m`."""
    full: str
    """The student with its full weights."""
    benchmark: str
    accuracy: float | None
    interval: Interval
    full_accuracy: float | None
    difference: float
    """Quantised minus full, on the problems that both were graded on."""
    difference_interval: Interval
    p_adjusted: float
    """Holm-corrected over all quantised files and benchmarks of the run."""
    num_prompts: int
    mean_tokens: float | None
    truncated: int
    errors: int
    is_shown: bool
    """The interval leaves out 0 and the corrected p is below 0.05."""
