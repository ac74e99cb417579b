"""Evaluation arms: a student that is made to answer in another way, scored beside itself as it answers by itself."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, ValidationError, model_validator

from distill.config.base import Name, Section, items_of, one_of, repeated, section_of
from distill.config.benchmarks import DEFINITIONS
from distill.config.decides import identity
from distill.config.mix import MergeConfig, MixConfig
from distill.config.teachers import GreedySampling
from distill.core.errors import Problem
from distill.core.languages import KNOWN_LANGUAGES
from serve.api.forcing import Bias, Extension, ForcedLanguage, HelperShare, Language
from serve.api.modes import AUTO
from serve.api.thinking import Speculation

REQUEST_FIELDS = {
    "helper": "speculative",
    "budget": "thinking_budget",
    "share": "share",
    "extend": "extend",
    "end_bias": "end_bias",
    "language": "language",
    "mode": "mode",
    "think": "think",
}
"""Key of an arm -> the field of a chat request that asks for it."""

NEED_MARKS = ("budget", "share", "extend", "end_bias", "think")
"""Keys that act on the end of the reasoning, and need to know what marks it."""
STOPPING = ("helper", "share", "extend", "end_bias")
"""Keys whose requests stop at texts of their own."""

Budget = Annotated[int, Field(ge=1, le=1_000_000)]


@dataclass(frozen=True)
class AnsweringPlan:
    """One way to answer: one point of an arm."""

    key: str
    """Key of the arm."""
    value: Any
    """What the arm has there; of a budget one number."""
    suffix: str
    """Suffix of the student's name where it answers in this way."""

    @property
    def request(self) -> dict[str, Any]:
        """The field of a chat request that asks for it."""
        value = self.value.model_dump(mode="json") if isinstance(self.value, BaseModel) else self.value
        return {REQUEST_FIELDS[self.key]: value}

    @property
    def partner(self) -> str:
        """The other model that writes a part of the answer; empty where there is none."""
        return str(getattr(self.value, "model", ""))

    @property
    def budget(self) -> int | None:
        """The budget of the reasoning, tokens; None where it has none."""
        return int(self.value) if self.key == "budget" else None

    @property
    def opening(self) -> str:
        """The sentence of a forced language, which begins the answer; empty without one."""
        return self.value.text if isinstance(self.value, Language) else ""

    @property
    def identity(self) -> list[Any]:
        """What of it decides the answers, beside the models."""
        return [self.key, identity(self.value) if isinstance(self.value, BaseModel) else self.value]

    def with_partner(self, name: str) -> "AnsweringPlan":
        """With the partner under the name that it is served under."""
        return replace(self, value=self.value.model_copy(update={"model": name})) if name else self


class EvaluationArm(Section):
    """A way to have a student answer, scored as an arm of its own: exactly one of the keys from `helper` on."""

    of: str | Annotated[tuple[str, ...], Field(min_length=1)]
    """Who answers: `student` (untouched), `student@arm` or `student@arm:mode`, as the report names it; all its training
    seeds. A list: each of them in the same way."""
    name: Name | None = None
    """Name of the arm in the report, `student@arm+NAME`; a budget's number is put behind it. Absent: the name of its
    key; that of the helper for `helper`, `auto` for `mode`."""
    helper: Speculation | None = None
    """Speculative thinking (arXiv 2504.12329): `model` (`student` or `student@arm`) writes the steps at which the
    student doubts. Of several training seeds the one of the same seed."""
    budget: tuple[Budget, ...] = Field(default=())
    """Budget forcing (arXiv 2501.19393): tokens after which the reasoning is closed and the answer written. A list is a
    sweep: a curve with a point for each, and the plain student as its end."""
    share: HelperShare | None = None
    """Another model writes its reasoning, and the student goes on from the first `share` of it (the prefixes of arXiv
    2605.28913)."""
    extend: Extension | None = None
    """Longer reasoning (arXiv 2501.19393): the first `times` ends of the reasoning are replaced by `cue`."""
    end_bias: Bias | None = None
    """Added to the logit of the token that ends the reasoning, until it is closed: above 0 for shorter reasoning (after
    arXiv 2505.07961, which scales that logit). Refused where the end is several tokens of the student."""
    language: ForcedLanguage | None = None
    """The reasoning begins with a sentence in this language (the prefixes of arXiv 2505.05408): a code (`de`) whose
    sentence is known, or `{ name = "...", opening = "..." }`."""
    mode: Literal["auto"] | None = None
    """`auto`: a student of a mix with modes is asked for none of them (`of = "student@arm"`)."""
    think: Literal[False] | None = None
    """`false`: an empty block of reasoning stands before the answer, as hybrid models are asked not to think (arXiv
    2505.09388)."""

    @model_validator(mode="after")
    def _validate_one_key(self) -> Self:
        if len(self._keys) != 1:
            given = f"has {' and '.join(self._keys)}" if self._keys else "has none"
            raise ValueError(f"an evaluation arm needs exactly one of {', '.join(REQUEST_FIELDS)}; this one {given}")
        return self

    @property
    def answering(self) -> tuple[str, ...]:
        """Everybody in `of`."""
        return (self.of,) if isinstance(self.of, str) else self.of

    @property
    def _keys(self) -> list[str]:
        return [key for key in REQUEST_FIELDS if getattr(self, key) not in (None, ())]

    @property
    def key(self) -> str:
        """The one key that it has."""
        return self._keys[0]

    @property
    def plans(self) -> tuple[AnsweringPlan, ...]:
        """The ways to answer: one, or one for each budget."""
        value = getattr(self, self.key)
        suffix = f"+{self.name or (self.helper.model if self.helper else self.mode or self.key)}"
        if self.key == "budget":
            return tuple(AnsweringPlan(self.key, one, f"{suffix}-{one}") for one in value)
        return (AnsweringPlan(self.key, value, suffix),)


def arm_problems(
    raw: Mapping[str, Any], mixes: Sequence[MixConfig], merges: Sequence[MergeConfig], students: Sequence[str]
) -> Iterator[Problem]:
    """Arms of students or helpers that the recipe does not have, that change nothing, or that no student can follow.

    Args:
        raw: the recipe as it was written.
        mixes: those that parse.
        merges: those that parse.
        students: names of the students.
    """
    evaluate = section_of(raw, "evaluate")
    trained = {
        f"{student}@{one.name}": list(one.arms.values())
        for student in students
        for one in (*mixes, *merges)
        if _takes(student, one, mixes)
    }
    arms = list(_parsed_arms(evaluate))
    for where, arm in arms:
        yield from _name_problems(where, arm, trained, students)
        yield from _marks_problems(where, arm, evaluate)
        yield from _limit_problems(where, arm, section_of(evaluate, "sampling"))
        yield from _language_problems(where, arm, raw)
    names = Counter((of, suffix) for _, arm in arms for of in arm.answering for suffix in _suffixes(arm))
    for (of, suffix), count in names.items():
        if count > 1:
            what = f"{count} arms of {of!r} are named {suffix.removeprefix('+')!r}"
            yield Problem("evaluate.arms", what, "give each its own name, or keep one: both would be scored under it")


def _suffixes(arm: EvaluationArm) -> set[str]:
    return {plan.suffix for plan in arm.plans}


def _takes(student: str, arm: MixConfig | MergeConfig, mixes: Sequence[MixConfig]) -> bool:
    """Whether a student is trained on a mix, or on all that are merged."""
    parents = arm.of if isinstance(arm, MergeConfig) else (arm.name,)
    return all(not mix.students or student in mix.students for mix in mixes if mix.name in parents)


def _parsed_arms(evaluate: Mapping[str, Any]) -> Iterator[tuple[str, EvaluationArm]]:
    """The arms that are valid by themselves, with where they stand; the others are reported as field problems."""
    for index, arm in enumerate(items_of(evaluate.get("arms"))):
        name = arm.get("name", index) if isinstance(arm, dict) else index
        try:
            yield f"evaluate.arms[{name}]", EvaluationArm.model_validate(arm)
        except ValidationError:
            continue


def _name_problems(
    where: str, arm: EvaluationArm, trained: Mapping[str, Sequence[str]], students: Sequence[str]
) -> Iterator[Problem]:
    served = [*students, *trained]
    in_modes = [name for name, modes in trained.items() if any(modes)]
    scored = [*students, *(f"{name}:{mode}" if mode else name for name, modes in trained.items() for mode in modes)]
    for of in arm.answering:
        if arm.mode == AUTO and of in scored:
            what = f"mode = {AUTO!r} leaves the mode to the student, and {of!r} is asked for one or knows none"
            yield Problem(f"{where}.of", what, f"name a student of a mix with modes; {one_of(of, in_modes)}")
        elif of not in (in_modes if arm.mode == AUTO else scored):
            known = in_modes if arm.mode == AUTO else scored
            yield Problem(f"{where}.of", f"no model is scored as {of!r}", one_of(of, known))
    for plan in arm.plans:
        if plan.partner and plan.partner not in served:
            what = f"no model is served as {plan.partner!r}"
            yield Problem(f"{where}.{arm.key}.model", what, one_of(plan.partner, served))


def _marks_problems(where: str, arm: EvaluationArm, evaluate: Mapping[str, Any]) -> Iterator[Problem]:
    """What acts on the end of the reasoning, where nothing marks it."""
    end = evaluate.get("reasoning_end", "</think>")
    if arm.key in NEED_MARKS and end == "":
        whose = " and ".join(map(repr, arm.answering))
        what = f"evaluate.reasoning_end is empty, so nothing marks where the reasoning of {whose} ends"
        yield Problem(f"{where}.{arm.key}", what, "set evaluate.reasoning_end to what the traces end it with")
    if arm.extend and isinstance(end, str) and end and end in arm.extend.cue:
        what = f"the cue {arm.extend.cue!r} holds the end of the reasoning, {end!r}, which it is to put off"
        yield Problem(f"{where}.extend.cue", what, "take it out")


def _language_problems(where: str, arm: EvaluationArm, raw: Mapping[str, Any]) -> Iterator[Problem]:
    """A forced language that is not told apart, where the report is to say in which language the reasoning is."""
    if arm.language is None or arm.language.name in KNOWN_LANGUAGES:
        return
    for name in items_of(section_of(raw, "evaluate").get("benchmarks")):
        if _has_language(str(name), section_of(raw, "benchmarks")):
            what = f"the detector knows no language {arm.language.name!r}, and benchmark {name!r} asks for languages"
            yield Problem(f"{where}.language", what, "name it by a code that it knows: docs/suites.md")
            return


def _has_language(name: str, own: Mapping[str, Any]) -> bool:
    """Whether prompts of a benchmark have languages."""
    if name not in own:
        return name in DEFINITIONS and DEFINITIONS[name].config.source.language is not None
    source = section_of(section_of(own, name), "source")
    return bool(source.get("language") or section_of(source, "columns").get("language"))


def _limit_problems(where: str, arm: EvaluationArm, sampling: Mapping[str, Any]) -> Iterator[Problem]:
    limit = sampling.get("max_tokens", GreedySampling.model_fields["max_tokens"].default)
    if doubled := sorted(repeated(arm.budget)):
        yield Problem(f"{where}.budget", f"{doubled[0]} is listed twice", "keep one")
    if isinstance(limit, int) and (idle := [one for one in arm.budget if one >= limit]):
        what = f"{idle[0]} is not below evaluate.sampling.max_tokens = {limit}: the plain student has that budget"
        yield Problem(f"{where}.budget", what, "leave it out: the plain student is the end of every curve")
    if isinstance(limit, int) and arm.extend and (arm.extend.times or 0) >= limit:
        what = f"the cue never ends: {arm.extend.times} times in evaluate.sampling.max_tokens = {limit}"
        yield Problem(f"{where}.extend.times", what, "lower it, or raise max_tokens")
    if arm.end_bias == 0:
        yield Problem(f"{where}.end_bias", "0 changes nothing", "set a number above 0 to end the reasoning earlier")
    if sampling.get("stop") and arm.key in STOPPING:
        what = f"{arm.key} stops at texts of its own and cannot be combined with evaluate.sampling.stop"
        yield Problem(where, what, "leave evaluate.sampling.stop out: a student ends its turn by itself")
