"""Config of the mixes: one section per policy, merges, and the filters that traces must pass first."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from distill.config.base import Name, Section, Share
from distill.config.decides import EXTENT, IF_SET, from_stage
from distill.config.objectives import Objective
from distill.core.schema import Style
from serve.api.modes import opening_of
from serve.api.template_options import OptionName, OptionValue


class Mode(Section):
    """How one style of an arm is asked for: a line of the system turn, the model's own switch, or both."""

    line: str = ""
    """Added below the system text of `student_chat`."""
    template_options: dict[OptionName, OptionValue] = Field(default={}, json_schema_extra=IF_SET)
    """Variables of the chat template, beside those of `student_chat`: `{ enable_thinking = false }`."""


def _mode(value: Any) -> Any:
    """A mode that is written as its line alone."""
    return {"line": value} if isinstance(value, str) and value else value


class Mix(Section):
    """Base of the arms: the pools that one draws from and their requested shares."""

    name: Name
    """Name of the arm."""
    students: tuple[str, ...] = ()
    """Only these students are trained on the arm. Absent: all."""
    num_prompts: int | None = Field(default=None, ge=1, json_schema_extra=IF_SET)
    """The arm teaches only so many of the common prompts, drawn by `seed`; those of a smaller number are among those of
    a larger one. Absent: all."""
    num_steps: int | None = Field(default=None, ge=1, json_schema_extra=from_stage("train", IF_SET))
    """Optimiser steps of this arm alone, where a comparison is meant to be unequal: with `train.budget = "steps"` and
    `train.unmatched = true`. Absent: `train.num_steps`, as for every arm."""
    sources: tuple[str, ...] = Field(default=(), json_schema_extra=from_stage("generate", IF_SET))
    """Names of `prompts.sources`: the arm teaches their prompts only, those that every pool of the arms with the same
    `sources` solved. Absent: prompts of all sources."""
    after: str | None = Field(default=None, json_schema_extra=from_stage("train", IF_SET))
    """Training in stages: the mix or merge whose student, of the same model and training seed, this arm starts from.
    Absent: the untouched student."""
    total_steps: Literal["with_parent"] | None = Field(default=None, json_schema_extra=from_stage("train", IF_SET))
    """`with_parent` makes the arm the control of one that comes `after` the same parent: it starts from the untouched
    student, and takes in one stage as many steps as the parent (with all before it) and such an arm together; with
    `train.budget` `steps` or `tokens`. Absent: an arm of its own."""
    objective: Objective | None = Field(default=None, json_schema_extra=from_stage("train", IF_SET))
    """What is learnt from the rows. Absent: each is imitated (`{ kind = "imitate" }`)."""
    modes: dict[Style, Annotated[Mode, BeforeValidator(_mode)]] = Field(default={})
    """Style -> how it is asked for in every row of that style: a line below the system line of `student_chat`
    (`short = "Answer briefly."`), or the model's own switch (`short = { template_options = { enable_thinking = false }
    }`). One student then learns all styles of the arm, is scored once in each, and answers in the one that is asked for
    (`distill ask --mode`); the first is the default. Absent: all styles are asked for alike."""

    modes_in: Literal["completion"] | None = Field(default=None, json_schema_extra=IF_SET)
    """`completion`: a mode's line is not asked for but written by the student, as the first line of its completion, and
    learnt (the control tokens of Thinkless, arXiv 2505.13379). A mode that is asked for begins the completion; with
    `mode = "auto"`, the default of such a student, it chooses by itself. Absent: modes are in the prompt."""
    mode_weight: float | None = Field(default=None, ge=0.0, json_schema_extra=from_stage("train", IF_SET))
    """With `modes_in`: weight in the loss of each token of a mode's line, where every other token has 1: a line is few
    tokens of a long completion. Absent: 1."""

    @property
    def prompt_modes(self) -> dict[Style, Mode]:
        """The modes as prompts ask for them: with nothing where they are in the completion."""
        return dict.fromkeys(self.modes, Mode()) if self.modes_in else self.modes

    @property
    def openings(self) -> dict[Style, str]:
        """Mode -> the text that begins its completions; empty where modes are in the prompt."""
        return {style: opening_of(mode.line) for style, mode in self.modes.items()} if self.modes_in else {}

    @property
    def arms(self) -> dict[str, str]:
        """Name that its students are scored under -> mode: `NAME` without modes, else `NAME:MODE` for each."""
        return {f"{self.name}:{mode}": str(mode) for mode in self.modes} or {self.name: ""}

    @property
    def shares(self) -> dict[str, float | None]:
        """Pool -> requested share, by rows (by tokens for `weighted_tokens`)."""
        raise NotImplementedError

    @property
    def drawn(self) -> tuple[str, ...]:
        """The pools that rows are drawn from: a blend has several."""
        return tuple(pool for pool, share in self.shares.items() if share != 0)

    @property
    def comes_after(self) -> tuple[str, ...]:
        """The arm whose steps are counted with its own."""
        return () if self.after is None else (self.after,)

    @property
    def starts_from(self) -> tuple[str, ...]:
        """The arm whose student it starts from; none for the untouched student's."""
        return self.comes_after if self.total_steps is None else ()


class SingleMix(Mix):
    """One pool alone."""

    policy: Literal["single"] = "single"
    pool: str
    """Name of a teacher."""

    @property
    def shares(self) -> dict[str, float | None]:
        """All rows from the one pool."""
        return {self.pool: 1.0}


class PoolWeights(Mix):
    """Base of the arms with a weight for each pool."""

    weights: dict[str, Share] = Field(min_length=1)
    """Pool name -> share; they add up to 1. A weight of 0 adds no rows, but prompts must still be solved by that
    teacher."""
    stratify: tuple[Literal["level", "subject"], ...] = ()
    """Keep the shares within every level, every subject, or every pair of both."""

    @property
    def shares(self) -> dict[str, float | None]:
        """The weights."""
        return dict(self.weights)


class WeightedMix(PoolWeights):
    """The mix of arXiv 2502.12143: one trace per prompt; a pool's weight is its exact share of the prompts."""

    policy: Literal["weighted"] = "weighted"


class WeightedTokensMix(PoolWeights):
    """One trace per prompt; a pool's weight is its share of the completions' tokens, to within one trace."""

    policy: Literal["weighted_tokens"] = "weighted_tokens"


class HardGetsLongMix(Mix):
    """One trace per prompt; harder prompts take theirs from the pools that are named first."""

    policy: Literal["hard_gets_long"] = "hard_gets_long"
    weights: dict[str, Share] = Field(min_length=1)
    """Pool name -> share of the prompts; they add up to 1."""
    order: tuple[str, ...] = Field(min_length=2)
    """The pools of `weights`, the one for the hardest prompts first."""
    hardness: Literal["pass_rate", "level", "length"] = "pass_rate"
    """What makes a prompt hard: few of its traces are correct, its level is high (the number in it), or the correct
    traces are long (mean over the pools, tokens)."""

    @property
    def shares(self) -> dict[str, float | None]:
        """The weights."""
        return dict(self.weights)


class BothMix(Mix):
    """A trace of every named pool for each prompt: with N pools, N times the rows of the other arms."""

    policy: Literal["both"] = "both"
    pools: tuple[str, ...] = Field(min_length=2)
    """Names of teachers."""

    @property
    def shares(self) -> dict[str, float | None]:
        """Equal shares of the rows."""
        return dict.fromkeys(self.pools, 1 / len(self.pools))


class CurriculumMix(PoolWeights):
    """The rows of `weighted`, taught pool by pool: all epochs of the first pool's rows, then those of the next."""

    policy: Literal["curriculum"] = "curriculum"
    order: tuple[str, ...] = Field(min_length=2)
    """The pools of `weights` in the order in which they are taught, usually the short one first."""


class StudentFitMix(Mix):
    """One trace per prompt: of the named pools' traces the one that fits an untrained student best.

    All students of the run are trained on the arm, also those that it was not chosen for.
    """

    policy: Literal["student_fit"] = "student_fit"
    pools: tuple[str, ...] = Field(min_length=2)
    """Names of teachers."""
    student: str
    """Name of the student whose fit decides."""
    score: Literal["rsr", "mean_nll", "shifted"] = "rsr"
    """Which score is minimised: rank-surprisal ratio, mean negative log-likelihood, or share of shifted positions."""

    @property
    def shares(self) -> dict[str, float | None]:
        """No shares are requested: the scores decide."""
        return dict.fromkeys(self.pools, None)


class PairsMix(Mix):
    """A pair of traces for each prompt, one chosen over the other, from all traces of the named pools together.

    Of the prompts that the arms have in common those with a pair are taught; the others are counted with the reason.
    """

    policy: Literal["pairs"] = "pairs"
    pools: tuple[str, ...] = Field(min_length=1)
    """Names of teachers."""
    by: tuple[Literal["verdict", "length"], ...] = Field(default=("verdict",), min_length=1)
    """What decides; of several the first that finds a pair. `verdict`: a correct trace over a wrong one that the token
    limit did not cut; each is the first in a seeded order. `length`: the shortest correct trace over the longest."""

    @property
    def shares(self) -> dict[str, float | None]:
        """No shares are requested: the pairs decide."""
        return dict.fromkeys(self.pools, None)


class AutoMix(Mix):
    """A `weighted` arm whose weights are searched for one student, on a development set (`[search]`).

    The search stage finds the weights before the mix stage; from there on it is a `weighted` arm.
    """

    policy: Literal["auto"] = "auto"
    name: Annotated[Name, Field(max_length=40)]
    """Name of the arm."""
    weights: Literal["auto"] = "auto"
    """The weights are searched."""
    pools: tuple[str, ...] = Field(min_length=2)
    """Names of the teachers whose weights are searched."""

    @property
    def shares(self) -> dict[str, float | None]:
        """No shares are requested: the search decides."""
        return dict.fromkeys(self.pools, None)


class MergeConfig(Section):
    """An arm that is not trained: the students of other arms, merged parameter by parameter, separately for each seed.

    An alternative to a mix that costs no training (long-to-short by merging, arXiv 2503.20641). The differences from
    the untrained student are merged.
    """

    name: Name = Field(json_schema_extra=EXTENT)
    """Name of the arm."""
    of: tuple[str, ...] = Field(min_length=2)
    """Names of the mixes whose students are merged."""
    method: Literal["linear", "task_arithmetic", "ties"] = "linear"
    """`linear`: the weighted mean. `task_arithmetic` (arXiv 2212.04089): the weighted sum of the differences. `ties`
    (arXiv 2306.01708): only the largest entries of each difference, and of those only the ones with the majority's
    sign."""
    weights: tuple[float, ...] = ()
    """One per mix of `of`; for `linear` they add up to 1. Absent: equal shares for `linear`, 1 for each otherwise."""
    density: float = Field(default=0.2, gt=0.0, le=1.0)
    """For `ties`: share of the entries of each difference that are kept, the largest by magnitude."""

    @property
    def arms(self) -> dict[str, str]:
        """Its name, without a mode."""
        return {self.name: ""}

    @property
    def comes_after(self) -> tuple[str, ...]:
        """Its parents."""
        return self.of

    @property
    def starts_from(self) -> tuple[str, ...]:
        """Its parents."""
        return self.of

    @property
    def factors(self) -> tuple[float, ...]:
        """The weights, or their default."""
        return self.weights or (1 / len(self.of) if self.method == "linear" else 1.0,) * len(self.of)


def mix_policy(value: Any) -> str | None:
    """The policy of a mix, `weighted` where the recipe names none; None for a value that is no mix."""
    if isinstance(value, Mix):
        return str(getattr(value, "policy", ""))
    if isinstance(value, dict) and value.get("weights") == "auto":
        return str(value.get("policy", "auto"))
    return str(value.get("policy", "weighted")) if isinstance(value, dict) else None


MixConfig = Annotated[
    Annotated[SingleMix, Tag("single")]
    | Annotated[WeightedMix, Tag("weighted")]
    | Annotated[WeightedTokensMix, Tag("weighted_tokens")]
    | Annotated[HardGetsLongMix, Tag("hard_gets_long")]
    | Annotated[BothMix, Tag("both")]
    | Annotated[CurriculumMix, Tag("curriculum")]
    | Annotated[StudentFitMix, Tag("student_fit")]
    | Annotated[PairsMix, Tag("pairs")]
    | Annotated[AutoMix, Tag("auto")],
    Discriminator(mix_policy),
]
"""An arm of the run. All arms teach the same prompts, those that were solved by every pool that any arm names, or
`num_prompts` of them."""


class FiltersConfig(Section):
    """Filters for correct traces, in addition to the one for truncated traces; whatever is left out is counted.

    Tokens are counted by the students' tokenizers; where they differ, the largest count applies.
    """

    min_tokens: int = Field(default=1, ge=1)
    """Shortest completion, tokens."""
    max_tokens: int | None = Field(default=None, ge=1)
    """Longest completion, tokens. Absent: only `train.max_length` limits it, together with its prompt."""
    too_long_takes: str | None = None
    """Name of a pool. Where another pool has no usable trace for a prompt, but a correct one that is too long for a
    student, the prompt takes its trace from this pool instead, and is counted as routed. Absent: it is left out of
    every arm. No trace is ever truncated."""
    max_repetition: Share = 0.5
    """Largest share of a completion's 8-word runs that occur earlier in it. Of 1,468 correct and finished traces of
    five models on MATH-500 none is above 0.47; loops are between 0.7 and 1."""
    max_foreign: Share = 0.1
    """Largest share of a completion's letters in a script that neither its problem nor mathematics uses (Latin and
    Greek are always allowed): it finds a teacher that switches to another language."""
    keep_duplicates: bool = False
    """Keep traces of a prompt and pool that are the same text, apart from white space."""
