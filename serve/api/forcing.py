"""Ways to have a model answer: longer or shorter reasoning, a helper's beginning, a language, no reasoning. Pure.

`extended_thinking`: where the model ends its reasoning, a cue takes the place of the end (s1, arXiv 2501.19393).
`biased_end`: the token that ends the reasoning gets a bias until the reasoning is closed (after arXiv 2505.07961, which
scales that token's logit). `shared_reasoning`: another model writes the first share of the reasoning, and this one goes
on (the prefixes of arXiv 2605.28913). `language_opening`: the reasoning begins with a sentence in the language that it
is to be in (the prefixes of arXiv 2505.05408). `empty_thinking`: an empty block of reasoning stands before the answer,
as hybrid models are asked not to think (arXiv 2505.09388; compare arXiv 2504.09858).

The end of the reasoning is text, several tokens for most tokenizers. All of these find it as text but `biased_end`: a
bias applies to one token, so it is refused where the end is more than one.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictFloat, StrictInt, StrictStr, model_validator

from serve.api.reasoning_parser import Delimiters, split
from serve.api.thinking import (
    MAX_SEGMENTS,
    AnswerSoFar,
    NextRequest,
    Segment,
    asked,
    is_reasoning,
    requested_tokens,
    stop_at,
)
from serve.api.word_ends import word_end

NEED_REASONING = frozenset({"thinking_budget", "share", "extend", "end_bias", "think"})
"""Request fields that a model without delimiters of its reasoning has no use for."""

OPENINGS = {
    "ar": "حسنًا، سأفكر في هذه المسألة باللغة العربية.",
    "bn": "ঠিক আছে, আমি এটি নিয়ে বাংলায় ভাবছি।",
    "de": "Okay, ich denke auf Deutsch darüber nach.",
    "en": "Okay, I will think about this in English.",
    "es": "De acuerdo, voy a pensarlo en español.",
    "fr": "D'accord, je vais y réfléchir en français.",
    "hi": "ठीक है, मैं इस पर हिंदी में सोचता हूँ।",
    "it": "Va bene, ci penso in italiano.",
    "ja": "はい、この問題を日本語で考えます。",
    "ko": "좋아요, 이 문제를 한국어로 생각해 보겠습니다.",
    "nl": "Oké, ik denk hier in het Nederlands over na.",
    "pt": "Certo, vou pensar nisto em português.",
    "ru": "Хорошо, я подумаю над этим по-русски.",
    "sw": "Sawa, nitafikiri kuhusu hili kwa Kiswahili.",
    "te": "సరే, నేను దీని గురించి తెలుగులో ఆలోచిస్తాను.",
    "th": "โอเค ฉันจะคิดเรื่องนี้เป็นภาษาไทย",
    "zh": "好的，我用中文来思考这个问题。",
}
"""Language (ISO 639-1) -> a sentence in it that begins the reasoning: those of MGSM, and some more."""


class Extension(BaseModel):
    """The request option `extend`: how often the end of the reasoning is put off, and by which cue."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    times: StrictInt | None = Field(default=None, ge=1, lt=MAX_SEGMENTS)
    """How often: required. The next end of the reasoning counts."""

    cue: StrictStr = Field(default="Wait", max_length=200)
    """Text in the place of the end of the reasoning."""

    @model_validator(mode="after")
    def _validate_end(self) -> Self:
        if self.times is None:
            raise ValueError(
                f"the cue {self.cue!r} would take the place of every end of the reasoning, and no answer would come: "
                "set times"
            )
        if not self.cue.strip():
            raise ValueError("the cue is empty: the model would end its reasoning again at once")
        return self


class HelperShare(BaseModel):
    """The request option `share`: which model writes the first share of the reasoning."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    model: StrictStr = Field(min_length=1, max_length=256)
    """The helper: another model served at the same address."""

    share: StrictInt | StrictFloat = Field(gt=0, le=1)
    """Which part of the helper's own reasoning the model is given, by characters, cut at the end of a word."""

    max_tokens: StrictInt = Field(default=4096, ge=1, le=1_000_000)
    """Most tokens of the helper's reasoning, all of which it writes and all of which count."""


class Language(BaseModel):
    """The request option `language`: in which language the reasoning begins."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)

    name: StrictStr = Field(min_length=1, max_length=64)
    """A code (ISO 639-1) whose opening is known, or any name together with an `opening`."""

    opening: StrictStr = Field(default="", max_length=500)
    """How the reasoning begins. Empty: the sentence that is known for `name`."""

    @model_validator(mode="after")
    def _validate_opening(self) -> Self:
        if not self.text:
            known = ", ".join(OPENINGS)
            raise ValueError(f"no opening is known for language {self.name!r}: set one, or name one of {known}")
        return self

    @property
    def text(self) -> str:
        """The sentence that begins the reasoning."""
        return self.opening.strip() or OPENINGS.get(self.name, "")


def _language(value: Any) -> Any:
    """A language that is written as its name alone."""
    return {"name": value} if isinstance(value, str) else value


ForcedLanguage = Annotated[Language, BeforeValidator(_language)]
Bias = Annotated[StrictInt | StrictFloat, Field(ge=-100, le=100)]
"""As large as engines take it."""


def extended_thinking(fields: Mapping[str, Any], option: Extension, delimiters: Delimiters) -> NextRequest:
    """The first `times` ends of the reasoning are replaced by the cue, the next one counts."""
    end, times = delimiters.end, option.times or 0

    def next_request(answer: AnswerSoFar) -> Segment | None:
        if answer.num_segments == 0:
            return Segment(asked(fields, requested_tokens(fields)) | _stop_before(end))
        rest = _rest(fields, answer.used_tokens)
        if answer.stopped_at != end or rest == 0:
            return None
        if not is_reasoning(answer.text, delimiters):  # the text of the end stands in an answer
            return Segment(asked(fields, rest), end, continues=answer.text + end)
        inserted = _new_line(answer.text) + option.cue
        stop = _stop_before(end) if answer.num_segments < times else {}
        return Segment(asked(fields, rest) | stop, inserted, continues=answer.text + inserted)

    return next_request


def biased_end(fields: Mapping[str, Any], bias: float, token: int, delimiters: Delimiters) -> NextRequest:
    """A bias on the end of the reasoning, which is one token, until it is written; then the answer without it."""

    def next_request(answer: AnswerSoFar) -> Segment | None:
        if answer.num_segments == 0:
            biased = {"logit_bias": {str(token): bias}}
            return Segment(asked(fields, requested_tokens(fields)) | stop_at([delimiters.end]) | biased)
        rest = _rest(fields, answer.used_tokens)
        if answer.num_segments > 1 or answer.stopped_at != delimiters.end or rest == 0:
            return None
        return Segment(asked(fields, rest), continues=answer.text)

    return next_request


def shared_reasoning(
    fields: Mapping[str, Any], option: HelperShare, delimiters: Delimiters, helpers: Delimiters | None
) -> NextRequest:
    """The helper's reasoning as a draft, then the model behind the first share of it.

    A helper that does not reason has none to give: the model answers alone.

    Args:
        fields: the request.
        option: the helper and its share.
        delimiters: of the model's reasoning.
        helpers: of the helper's reasoning.
    """
    requested = requested_tokens(fields)

    def next_request(answer: AnswerSoFar) -> Segment | None:
        if answer.num_segments == 0:
            draft = asked(fields, min(option.max_tokens, requested or option.max_tokens)) | {"model": option.model}
            return Segment(draft | (_stop_before(helpers.end) if helpers else {}), is_draft=True)
        if answer.num_segments > 1:
            return None
        thought = split(answer.draft, helpers, "length").reasoning if helpers else ""
        begun = _begun(first_share(thought, option.share), delimiters) if thought.strip() else ""
        given = round(answer.helper_tokens * option.share) if begun else 0
        rest = max(1, requested - given) if requested is not None else None
        return Segment(asked(fields, rest), begun, continues=begun)

    return next_request


def prefilled(fields: Mapping[str, Any], text: str) -> NextRequest:
    """The answer behind a text that is put in its mouth; the answer alone where that is empty."""

    def next_request(answer: AnswerSoFar) -> Segment | None:
        return None if answer.num_segments else Segment(asked(fields, requested_tokens(fields)), text, continues=text)

    return next_request


def language_opening(option: Language, delimiters: Delimiters | None) -> str:
    """The sentence that begins the reasoning; of a model that does not reason, or may not, it begins the answer."""
    if delimiters is None or delimiters.is_closed:
        return f"{option.text}\n"
    return f"{_begun(option.text, delimiters)}\n"


def empty_thinking(delimiters: Delimiters) -> str:
    """An empty block of reasoning, or what is missing of one behind the prompt."""
    if delimiters.is_closed:
        return ""
    opening = "" if delimiters.is_open else f"{delimiters.start}\n"
    return f"{opening}\n{delimiters.end}\n\n"


def first_share(text: str, share: float) -> str:
    """The first part of a text, cut at the end of a word: a tokenizer would split the rest of one otherwise."""
    at = round(len(text) * share)
    if at >= len(text):
        return text
    return text[: word_end(text, at)].rstrip(" ")


def _begun(thought: str, delimiters: Delimiters) -> str:
    """The beginning of a reasoning behind the prompt."""
    return thought if delimiters.is_open else f"{delimiters.start}\n{thought}"


def _new_line(text: str) -> str:
    return "" if not text or text[-1].isspace() else "\n"


def _rest(fields: Mapping[str, Any], used: int) -> int | None:
    """Tokens that are left of those requested; None: no limit."""
    requested = requested_tokens(fields)
    return None if requested is None else max(0, requested - used)


def _stop_before(end: str) -> dict[str, Any]:
    """The fields that end a segment before a text."""
    return {"stop": [end], "include_stop_str_in_output": False}
