"""Optional LLM judges: for traces that the rules reject, and for answers to questions that might be refused. Their
verdict is stored beside that of the rules and never replaces it.

The judge is any OpenAI-compatible endpoint: a paid one, or a model served by `distill serve` or `vllm serve`. A failed
request is "no judgement", with the reason; the next run of the verify stage asks again.
"""

import asyncio
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

from distill.config.verify import JUDGE_SYSTEM, JUDGE_USER, REFUSAL_SYSTEM, REFUSAL_USER, JudgeConfig
from distill.core.schema import Verdict
from serve.chat_reply import read_message
from serve.errors import fault_label
from serve.loopback import bounded_client

if TYPE_CHECKING:
    import openai

MAX_SOLUTION_CHARS = 4_000
"""As much of the answer part is sent: its end, which holds the final answer, or its beginning, which refuses."""
MAX_REPLY_CHARS = 500
MAX_REASON_CHARS = 200


class Rubric(NamedTuple):
    """What a judge is asked to decide."""

    system: str
    user: str
    """With `{problem}`, `{reference}` and `{solution}`."""
    verdicts: Mapping[str, Verdict]
    """By the word that ends its reply."""
    shows_end: bool
    """Whether it is shown the end of a long answer, not the beginning."""

    def found(self, reply: str) -> list[str]:
        """The words of all verdict lines."""
        words = "|".join(self.verdicts)
        return re.findall(rf"VERDICT:[\s*]*({words})\b", reply)


COMPARISON = Rubric(
    JUDGE_SYSTEM,
    JUDGE_USER,
    {"SAME": Verdict.CORRECT, "DIFFERENT": Verdict.INCORRECT, "NO ANSWER": Verdict.NO_ANSWER},
    shows_end=True,
)
"""Whether an answer agrees with the reference."""
REFUSAL = Rubric(
    REFUSAL_SYSTEM,
    REFUSAL_USER,
    {"ANSWERED": Verdict.CORRECT, "REFUSED": Verdict.INCORRECT, "NO ANSWER": Verdict.NO_ANSWER},
    shows_end=False,
)
"""Whether an answer refuses."""


class Question(NamedTuple):
    """What the judge is shown of one trace or answer."""

    problem: str
    reference: str
    solution: str
    """The answer part of the completion."""


class Judgement(NamedTuple):
    """The judge's verdict and reply; or no verdict ("") and the reason."""

    verdict: str
    detail: str


def judge_messages(question: Question, rubric: Rubric = COMPARISON) -> list[dict[str, str]]:
    """The chat turns that ask for one judgement."""
    shown = slice(-MAX_SOLUTION_CHARS, None) if rubric.shows_end else slice(MAX_SOLUTION_CHARS)
    user = rubric.user.format(problem=question.problem, reference=question.reference, solution=question.solution[shown])
    return [{"role": "system", "content": rubric.system}, {"role": "user", "content": user}]


def request_options(config: JudgeConfig) -> dict[str, Any]:
    """Arguments of a request beside model and messages."""
    options: dict[str, Any] = {"temperature": 0.0, config.token_limit_field: config.max_tokens}
    sent = {name: value for name, value in options.items() if name not in config.omit_sampling}
    return sent | ({"extra_body": dict(config.extra_body)} if config.extra_body else {})


def parse_reply(reply: str, rubric: Rubric = COMPARISON) -> Judgement:
    """The last verdict line after any reasoning; a reply without one is no judgement."""
    answer = reply.rpartition("</think>")[2].strip()
    found = rubric.found(answer)
    if not found:
        return Judgement("", f"no verdict in the reply: {answer[-MAX_REASON_CHARS:]!r}")
    return Judgement(rubric.verdicts[found[-1]], answer[-MAX_REPLY_CHARS:])


class Judge:
    """Sends a bounded number of questions at once to one endpoint, until too many requests in a row have failed."""

    def __init__(self, config: JudgeConfig, key: str, rubric: Rubric = COMPARISON) -> None:
        self.config = config
        self.rubric = rubric
        self._key = key
        self._num_unanswered = 0

    @property
    def is_given_up(self) -> bool:
        """Whether too many requests in a row have failed: what is left gets no judgement."""
        return self._num_unanswered >= self.config.max_unanswered

    def judge_batch(self, questions: Sequence[Question]) -> list[Judgement]:
        """One judgement per question, in order. The time is bounded, since retries, waits and timeouts are."""
        with ThreadPoolExecutor(1) as thread:  # a notebook's thread has a loop of its own
            return thread.submit(asyncio.run, self._judge_all(questions)).result()

    async def _judge_all(self, questions: Sequence[Question]) -> list[Judgement]:
        import openai  # takes most of a second, and most runs have no judge

        window = asyncio.Semaphore(self.config.max_in_flight)
        async with openai.AsyncOpenAI(
            base_url=self.config.base_url,
            api_key=self._key,
            timeout=self.config.timeout_s,
            max_retries=self.config.max_retries,
            http_client=bounded_client(self.config.base_url, self.config.timeout_s),
        ) as client:
            return list(await asyncio.gather(*(self._judge(client, window, question) for question in questions)))

    async def _judge(self, client: "openai.AsyncOpenAI", window: asyncio.Semaphore, question: Question) -> Judgement:
        from openai import APIError

        async with window:
            if self.is_given_up:
                return Judgement("", f"not asked: {self._num_unanswered} requests in a row had failed")
            try:
                response = await client.chat.completions.create(
                    model=self.config.model,
                    messages=judge_messages(question, self.rubric),
                    **request_options(self.config),
                )
            except APIError as error:
                self._num_unanswered += 1
                return Judgement("", fault_label(error))  # not its message: that could hold anything
        self._num_unanswered = 0
        choices = response.choices or []
        return parse_reply(read_message(choices[0].message).text if choices else "", self.rubric)
