"""Config of the mixes: one section per policy, merges, and the filters that traces must pass first."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Discriminator, Field, Tag

from distill.config.base import Name, Section, Share, one_of
from distill.config.decides import EXTENT, IF_SET, from_stage
from distill.core.errors import Problem
from distill.core.schema import Style
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
    modes: dict[Style, Annotated[Mode, BeforeValidator(_mode)]] = Field(default={})
    """Style -> how it is asked for in every row of that style: a line below the system line of `student_chat`
    (`short = "Answer briefly."`), or the model's own switch (`short = { template_options = { enable_thinking = false }
    }`). One student then learns all styles of the arm, is scored once in each, and answers in the one that is asked for
    (`distill ask --mode`); the first is the default. Absent: all styles are asked for alike."""

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
    """Name of a pool. Where all correct traces that another pool has for a prompt are too long for a student, the
    prompt takes its trace from this pool instead, and is counted as routed. Absent: it is left out of every arm. No
    trace is ever truncated."""
    max_repetition: Share = 0.5
    """Largest share of a completion's 8-word runs that occur earlier in it. Of 1,468 correct and finished traces of
    five models on MATH-500 none is above 0.47; loops are between 0.7 and 1."""
    max_foreign: Share = 0.1
    """Largest share of a completion's letters in a script that neither its problem nor mathematics uses (Latin and
    Greek are always allowed): it finds a teacher that switches to another language."""
    keep_duplicates: bool = False
    """Keep traces of a prompt and pool that are the same text, apart from white space."""


def mix_problems(mix: MixConfig, pools: Mapping[str, int], students: Sequence[str]) -> Iterator[Problem]:
    """Unknown pools and students, weights that do not add up to 1, an order that does not match the weights.

    Args:
        mix: an arm.
        pools: name -> most traces per prompt.
        students: their names.
    """
    field = "weights" if isinstance(mix, PoolWeights | HardGetsLongMix) else "pool"
    where = f"mixes[{mix.name}].{'pools' if isinstance(mix, AutoMix | BothMix | StudentFitMix) else field}"
    for pool in mix.shares:
        if pool not in pools:
            yield Problem(where, f"no teacher is called {pool!r}", one_of(pool, pools))
    if isinstance(mix, PoolWeights | HardGetsLongMix):
        yield from _weight_problems(mix.name, mix.weights)
    if isinstance(mix, StudentFitMix) and mix.student not in students:
        what = f"no student is called {mix.student!r}"
        yield Problem(f"mixes[{mix.name}].student", what, one_of(mix.student, students))
    if isinstance(mix, AutoMix | BothMix | StudentFitMix) and len(set(mix.pools)) < len(mix.pools):
        yield Problem(where, f"{', '.join(mix.pools)} names a pool twice", "name each pool once")
    for student in mix.students:
        if student not in students:
            yield Problem(f"mixes[{mix.name}].students", f"no student is called {student!r}", one_of(student, students))
    is_by_rate = isinstance(mix, HardGetsLongMix) and mix.hardness == "pass_rate"
    if is_by_rate and all(pools.get(pool) == 1 for pool in mix.shares):
        what = "hardness is pass_rate, but every pool has one trace per prompt: all common prompts have a rate of 100 %"
        remedy = 'raise teachers[].num_samples, or use hardness = "level" or "length"'
        yield Problem(f"mixes[{mix.name}].hardness", what, remedy)
    if isinstance(mix, CurriculumMix | HardGetsLongMix) and sorted(mix.order) != sorted(mix.weights):
        what = f"{', '.join(mix.order)} are not the pools of weights ({', '.join(mix.weights)})"
        yield Problem(f"mixes[{mix.name}].order", what, "name every pool of weights once")


def mode_problems(mix: MixConfig, styles: Mapping[str, str], routes_to: str | None) -> Iterator[Problem]:
    """Modes whose style no pool of the arm has, pools whose style has no mode, and two modes with the same line.

    Args:
        mix: an arm.
        styles: pool -> its style.
        routes_to: `filters.too_long_takes`.
    """
    if not mix.modes:
        return
    drawn = [pool for pool in [*mix.shares, *filter(None, [routes_to])] if pool in styles]
    for style in mix.modes:
        if style not in {styles[pool] for pool in drawn}:
            what = f"no pool of the arm has the style {style}: {', '.join(drawn)}"
            yield Problem(
                f"mixes[{mix.name}].modes.{style}", what, "remove the line, or draw from a pool of that style"
            )
    for pool in drawn:
        if styles[pool] not in mix.modes:
            what = f"pool {pool!r} has the style {styles[pool]}, and no mode asks for {styles[pool]}"
            yield Problem(f"mixes[{mix.name}].modes", what, f'add {styles[pool]} = "..."')
    modes = list(mix.modes.values())
    for style, mode in mix.modes.items():
        where = f"mixes[{mix.name}].modes.{style}"
        if mode == Mode():
            yield Problem(where, "asks for nothing", "give it a line or template_options")
        elif modes.count(mode) > 1:
            yield Problem(where, "asks as another mode does", "give each its own line or template_options")


def _weight_problems(name: str, weights: Mapping[str, float]) -> Iterator[Problem]:
    total = sum(weights.values())
    if abs(total - 1.0) > 1e-9:
        terms = " + ".join(f"{weight:g}" for weight in weights.values())
        yield Problem(f"mixes[{name}].weights", f"{terms} = {total:g}, not 1", "make the weights add up to 1")


def merge_problems(merges: Sequence[MergeConfig], mixes: Sequence[MixConfig]) -> Iterator[Problem]:
    """Unknown parents, weights that do not match them, and a name that a mix has already."""
    names = [mix.name for mix in mixes]
    for merge in merges:
        where = f"merges[{merge.name}]"
        for parent in merge.of:
            if parent not in names:
                yield Problem(f"{where}.of", f"no mix is called {parent!r}", one_of(parent, names))
        if len(set(merge.of)) < len(merge.of):
            yield Problem(f"{where}.of", f"{', '.join(merge.of)} names a mix twice", "name each mix once")
        if merge.name in names:
            yield Problem(where, f"a mix is also called {merge.name!r}", "give it another name")
        if merge.weights and len(merge.weights) != len(merge.of):
            what = f"{len(merge.weights)} weights for {len(merge.of)} mixes"
            yield Problem(f"{where}.weights", what, "give one per mix of `of`, or none")
        if merge.method == "linear" and abs(sum(merge.factors) - 1) > 1e-9:
            what = f"{' + '.join(f'{weight:g}' for weight in merge.weights)} = {sum(merge.weights):g}, not 1"
            yield Problem(f"{where}.weights", what, 'make them add up to 1, or use method = "task_arithmetic"')


def filter_problems(filters: Mapping[str, Any], mixes: Sequence[MixConfig], max_length: Any) -> Iterator[Problem]:
    """Bounds that no trace can meet, and a pool that no arm draws from."""
    target, pools = filters.get("too_long_takes"), {pool for mix in mixes for pool in mix.shares}
    if target is not None and mixes and target not in pools:
        what = f"no arm draws from a pool {target!r}"
        yield Problem("filters.too_long_takes", what, one_of(str(target), pools))
    low, high = filters.get("min_tokens", 1), filters.get("max_tokens") or max_length
    if isinstance(low, int) and isinstance(high, int) and low > high:
        what = f"no completion has at least {low} and at most {high} tokens"
        yield Problem("filters.min_tokens", what, "lower min_tokens, or raise max_tokens or train.max_length")
