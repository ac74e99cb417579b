"""What a report holds: frozen numbers and texts, no formatting. `None` means that the run did not record it."""

from collections.abc import Mapping
from dataclasses import dataclass

from distill.evaluate.interval import Interval
from distill.report.score_data import (
    AnsweringCurve,
    ArmScore,
    BenchmarkRow,
    BudgetCurve,
    Comparison,
    Cost,
    Detectable,
    GapChange,
    GroupScore,
    LanguageScore,
    LevelScore,
    MacroScore,
    ModeChoice,
    ModelScore,
    PaperRow,
    QuantisedScore,
    QuestionResult,
    Regression,
    StepsChange,
    Sweep,
    TraceCost,
)


@dataclass(frozen=True)
class Histogram:
    """Counts between edges; one more edge than counts."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


@dataclass(frozen=True)
class PoolRow:
    """A teacher's traces."""

    pool: str
    style: str
    model: str
    traces: int
    correct: int
    incorrect: int
    no_answer: int
    errors: int
    solve_rate: float | None
    interval: Interval
    prompts: int
    prompts_solved: int
    mean_tokens: float | None
    median_tokens: float | None
    p95_tokens: float | None
    truncated: int
    lengths: Histogram
    """Tokens of the correct traces, on edges that all pools share."""


@dataclass(frozen=True)
class EditRow:
    """What a teacher that reads made of the traces that it read."""

    pool: str
    reads: str
    asked: int
    """Edits that were asked for."""
    kept: int
    drops: Mapping[str, int]
    """Reason -> edits that are not used, or were never written."""
    source_tokens: float | None
    """Mean completion tokens of what the used edits were made from."""
    tokens: float | None
    """Mean completion tokens of the used edits; of a teacher that continues only what it wrote itself."""
    growth: float | None
    """Mean length of the used edits over that of their sources, in characters."""
    of_wrong: int
    """Edits of traces that were wrong, or had no answer."""
    wrong_end_right: int
    wrong_interval: Interval
    """Of their share."""
    of_correct: int
    correct_end_right: int
    correct_interval: Interval


@dataclass(frozen=True)
class MixShare:
    """One pool's part of a mix."""

    pool: str
    requested: float | None
    """None where the policy decides by the traces, not by a share."""
    rows: float | None
    tokens: float | None


@dataclass(frozen=True)
class MixRow:
    """A mix as it was drawn."""

    mix: str
    rows: int
    tokens: int | None
    mean_tokens: float | None
    long_rows: float | None
    """Share of the rows whose teacher reasons long."""
    long_tokens: float | None
    shares: tuple[MixShare, ...]


@dataclass(frozen=True)
class Spread:
    """Quantiles over traces."""

    low: float
    """5 %"""
    quarter: float
    median: float
    three_quarters: float
    high: float
    """95 %"""


@dataclass(frozen=True)
class ShiftedToken:
    """A token at shifted positions: the untouched student ranks it below its third choice."""

    text: str
    positions: int
    median_rank: float


@dataclass(frozen=True)
class FitRow:
    """How well one pool's traces fit one untouched student."""

    student: str
    pool: str
    traces: int
    scores: Mapping[str, Spread]
    """`mean_nll`, `rsr`, and the shares `unshifted`, `marginal` and `shifted`."""
    tokens: tuple[ShiftedToken, ...]


@dataclass(frozen=True)
class Curve:
    """Training loss by optimiser step."""

    steps: tuple[int, ...]
    losses: tuple[float, ...]


@dataclass(frozen=True)
class CellAttempt:
    """One attempt at a training cell, from the start of its workers to their end."""

    started_at: float
    """Seconds since the first worker of any cell started, as is the end."""
    ended_at: float
    outcome: str
    """`done`, `failed`, `lost` (its workers died) or `running` (still, or its end was never recorded)."""
    host: str
    pid: int
    num_workers: int
    first_step: int
    """Steps that earlier attempts had done."""
    detail: str


@dataclass(frozen=True)
class HeldOut:
    """Loss on a pool's traces of prompts that no arm teaches, nats per token."""

    before: float
    """Of the weights that its training starts from."""
    after: float


@dataclass(frozen=True)
class PairsRow:
    """What a cell learnt of pairs: means over its last steps."""

    pairs: int
    without_pair: Mapping[str, int]
    """Prompts that its arm might teach, by the reason why they have no pair."""
    margin: float
    """Nats."""
    positive: float
    """Share of the pairs with a positive margin."""
    chosen_nll: float
    """Loss per token of the chosen traces, nats."""
    rejected_nll: float


@dataclass(frozen=True)
class MatchRow:
    """What a cell learnt of its teacher on the student's own answers: before the training, and over its last steps."""

    answers: int
    mean_tokens: float
    cut_share: float
    """Of the answers, at the token limit."""
    self_difference: float
    """Of our log-probabilities of the student from those that its engine sampled with, nats per token."""
    start: Mapping[str, float]
    """Sampled reverse KL before the training, nats per token: `kl`, and `first`, `middle`, `last` third of answers."""
    last: Mapping[str, float]
    """The same over the last steps, on the same answers."""
    drift: float
    """By how much less likely the answers are in the last steps than when they were written, nats per token."""
    end_before: float | None
    """Probability of the token that ends an answer, by the student that wrote it; None where none was finished."""
    end_teacher: float | None
    """By the teacher."""
    end_after: float | None
    """By the student in the last steps."""


@dataclass(frozen=True)
class CellCost:
    """What a cell took in all: steps alone do not compare objectives."""

    objective: str
    trained: int | None
    """Supervised tokens of its steps."""
    written: int
    """Tokens that its student wrote for its training."""
    scored: int
    """Of these, tokens that a teacher scored before."""
    train_s: float
    """Seconds of the steps."""
    write_s: float
    score_s: float
    rest_s: float
    """Of starting, loading and saving."""
    device_s: float
    """All seconds times the GPUs (CPU: threads) of the cell."""


@dataclass(frozen=True)
class CellRow:
    """One training cell."""

    cell: str
    student: str
    mix: str
    seed: int | None
    steps: int | None
    supervised_tokens: int | None
    after: tuple[str, ...]
    """The cells that it starts from; empty: the untouched student."""
    total_steps: int | None
    """With those of all cells that its weights come from."""
    total_tokens: int | None
    """Supervised ones, counted likewise."""
    first_loss: float | None
    last_loss: float | None
    wall_s: float | None
    peak_memory: str | None
    flops: float | None
    tokens_per_s: float | None
    mfu: float | None
    """Only where the device's peak is known."""
    held_out: Mapping[str, HeldOut]
    """By pool; empty where no prompt was held out."""
    pairs: PairsRow | None
    """None unless it learns preferences."""
    match: MatchRow | None
    """None unless it matches a teacher."""
    cost: CellCost | None
    """None where it was not recorded."""
    curve: Curve
    attempts: tuple[CellAttempt, ...]


@dataclass(frozen=True)
class StageRow:
    """A stage's manifest in numbers."""

    stage: str
    wall_s: float
    rows_in: int
    rows_out: int
    drops: Mapping[str, int]
    finished_at: str
    code_version: str
    peak_memory: str | None


@dataclass(frozen=True)
class FunnelStep:
    """How many are left after a step, and what it dropped."""

    name: str
    count: int
    drops: Mapping[str, int]


@dataclass(frozen=True)
class Answer:
    """One model's completion, or one pool's trace."""

    label: str
    verdict: str
    extracted: str
    tokens: int | None
    completion: str


@dataclass(frozen=True)
class Sample:
    """One problem with the answers of several models, or the traces of several pools."""

    source: str
    problem: str
    reference: str
    answers: tuple[Answer, ...]


@dataclass(frozen=True)
class ModelSource:
    """Which weights were used."""

    name: str
    source: str
    num_parameters: int | None
    skipped: tuple[str, ...]
    """Sources tried before it, and why they were not used."""


@dataclass(frozen=True)
class Provenance:
    """What is needed to reproduce the report."""

    recipe_json: str
    models: tuple[ModelSource, ...]
    commits: Mapping[str, str]
    """`data set@revision` -> the commit of the hub that was read, where it is known."""
    sampling: Mapping[str, str]
    """What applied to the answers, in words -> the scores: `all`, or `model on benchmark, ...`."""
    code_versions: tuple[str, ...]
    written_at: str
    machine: Mapping[str, str]
    packages: Mapping[str, str]
    run_uri: str


@dataclass(frozen=True)
class Trial:
    """One mix in one round of a search."""

    round: int
    weights: Mapping[str, float]
    num_steps: int
    num_seeds: int
    accuracy: float
    """On the development set."""
    interval: Interval
    is_kept: bool
    kept_share: float
    """Share of bootstrap resamples of the problems in which it would have been kept."""


@dataclass(frozen=True)
class Search:
    """How the weights of an arm were searched."""

    mix: str
    student: str
    benchmark: str
    num_problems: int
    weights: Mapping[str, float]
    trials: tuple[Trial, ...]

    @property
    def certainty(self) -> float:
        """Share of resamples in which the last round would have chosen the same mix."""
        return next(one.kept_share for one in reversed(self.trials) if one.is_kept)


@dataclass(frozen=True)
class Report:
    """Everything that the page, the terminal tables and the JSON show."""

    name: str
    description: str
    question: QuestionResult | None
    """None where the recipe asks none."""
    headline: str
    findings: tuple[str, ...]
    caveats: tuple[str, ...]
    benchmarks: tuple[str, ...]
    students: tuple[str, ...]
    student_sizes: Mapping[str, int | None]
    """Parameters of each student's weights."""
    mixes: tuple[str, ...]
    models: tuple[ModelScore, ...]
    arms: tuple[ArmScore, ...]
    macros: tuple[MacroScore, ...]
    comparisons: tuple[Comparison, ...]
    regressions: tuple[Regression, ...]
    """What training broke; these benchmarks are in nothing else but the models' scores."""
    gap_changes: tuple[GapChange, ...]
    steps_changes: tuple[StepsChange, ...]
    detectable: tuple[Detectable, ...]
    benchmark_rows: tuple[BenchmarkRow, ...]
    sweeps: tuple[Sweep, ...]
    budget_curves: tuple[BudgetCurve, ...]
    answering: tuple[AnsweringCurve, ...]
    quantised: tuple[QuantisedScore, ...]
    """Published GGUF files that were scored."""
    families: Mapping[str, str]
    """Arm -> name of those that are equal but for how much they are trained on, or how they are made to answer."""
    groups: tuple[GroupScore, ...]
    languages: tuple[LanguageScore, ...]
    levels: tuple[LevelScore, ...]
    mode_choices: tuple[ModeChoice, ...]
    costs: tuple[Cost, ...]
    trace_costs: tuple[TraceCost, ...]
    paper: tuple[PaperRow, ...]
    pools: tuple[PoolRow, ...]
    edits: tuple[EditRow, ...]
    mix_rows: tuple[MixRow, ...]
    fits: tuple[FitRow, ...]
    searches: tuple[Search, ...]
    cells: tuple[CellRow, ...]
    stages: tuple[StageRow, ...]
    funnel: tuple[FunnelStep, ...]
    answers: tuple[Sample, ...]
    traces: tuple[Sample, ...]
    provenance: Provenance

    @property
    def made_to_answer(self) -> frozenset[str]:
        """The evaluation arms: what has a section of its own."""
        return frozenset(point.mix for curve in self.answering for point in curve.points if point.change)

    def answering_alone(self, benchmark: str) -> list[ArmScore]:
        """The arms of a benchmark that answer by themselves: none of the evaluation arms, measured or not."""
        return [arm for arm in self.arms if arm.benchmark == benchmark and "+" not in arm.mix]

    def gaps(self, purpose: str = "gap") -> tuple[Comparison, ...]:
        """The paper's quantities per student and benchmark: `gap` long minus short, `large_gap` large minus small."""
        return tuple(one for one in self.comparisons if one.purpose == purpose)

    def attempts(self) -> tuple[tuple[CellRow, CellAttempt], ...]:
        """All attempts of all cells, in the order of their starts."""
        pairs = [(cell, attempt) for cell in self.cells for attempt in cell.attempts]
        return tuple(sorted(pairs, key=lambda pair: pair[1].started_at))
