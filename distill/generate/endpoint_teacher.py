"""Teachers behind an OpenAI-compatible endpoint: rate limit, retries with backoff, token and cost budgets."""

import asyncio
import re
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

import openai
import pyarrow as pa
from ray.data import ActorPoolStrategy, Dataset

from distill.config.teachers import EndpointTeacher
from distill.core.errors import InputError
from distill.core.events import log_event
from distill.core.run_dir import StageName
from distill.generate.asker import Asker, Completion, RequestFailed, RequestRefused, TeacherJob
from distill.generate.chunks import CHUNK_ROWS
from distill.generate.edits import begun_answer
from distill.generate.pools import Request, endpoint_params
from distill.generate.traces import ENDPOINT_ENGINE
from distill.models.api_key import ApiKey, endpoint_key
from distill.models.chat_template import chat_messages
from distill.run.pools import Pool
from serve.api.reasoning_parser import opening_line
from serve.chat_reply import DEFAULT_END, LENGTH, REFUSED, end_of, read_message, whole_text
from serve.errors import fault_label
from serve.loopback import bounded_client

RETRIED = (openai.APIConnectionError, openai.RateLimitError, openai.InternalServerError, openai.ConflictError)
"""Transient faults. The client retries these itself first, and honours Retry-After."""

CLIENT_WAITS_S = 120.0
"""The longest Retry-After that the client waits for by itself."""
MAX_WAIT_S = 3600.0
"""As long is waited at once for an endpoint that asks for more than the client waits; then it is asked again."""
MAX_WAITS = 24
"""Such waits of one request."""
_FLAGGED = re.compile(r"moderat|flagged|polic|safety|harm", re.IGNORECASE)
"""In a 403 that is about one request's text, as routers send it, and not about the key."""

WRONG_FIELD = (400, 422)
"""Statuses with which servers refuse a field of a request."""
_REFUSES = re.compile(
    r"(?:not|n't) support|unsupported|unknown|unrecognized|unexpected|not (?:permitted|allowed)|forbidden|deprecated|"
    r"cannot both|only the default|not accept|(?:invalid|additional) (?:argument|field|parameter|propert)",
    re.IGNORECASE,
)
_REMEDIES = {
    "max_tokens": 'set token_limit_field = "max_completion_tokens"',
    "max_completion_tokens": 'set token_limit_field = "max_tokens"',
    "temperature": 'add "temperature" to omit_sampling',
    "top_p": 'add "top_p" to omit_sampling',
    "stop": 'add "stop" to omit_sampling, or remove sampling.stop',
    "seed": "set sends_seed = false",
}


class RateLimiter:
    """Spaces requests evenly: one every `60 / requests_per_minute` seconds."""

    def __init__(self, requests_per_minute: float | None) -> None:
        self.interval_s = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._next = 0.0

    def wait_s(self, now: float) -> float:
        """Seconds until the next request may start; reserves that slot."""
        start = max(now, self._next)
        self._next = start + self.interval_s
        return start - now


class EndpointActor:
    """The single actor that sends an endpoint's requests: its limits and budgets hold for the whole run."""

    def __init__(self, job: TeacherJob, key: ApiKey) -> None:
        pool = job.pools[0]
        assert isinstance(pool.teacher, EndpointTeacher)
        self.teacher, self.progress, self.run_uri = pool.teacher, job.progress, job.run_uri
        self.resumes_at = 0.0
        """Until when the endpoint has asked not to be asked, by the monotonic clock, seconds."""
        self.client = openai.AsyncOpenAI(
            base_url=self.teacher.base_url,
            api_key=key.value,
            timeout=self.teacher.timeout_s,
            max_retries=4,
            http_client=bounded_client(self.teacher.base_url, self.teacher.timeout_s),
        )
        self.window = asyncio.Semaphore(self.teacher.max_in_flight)
        self.rate_limiter = RateLimiter(self.teacher.requests_per_minute)
        self.asker = Asker(job, self.write)
        job.progress.engine_ready.remote()

    async def __call__(self, batch: pa.Table) -> pa.Table:
        """Ask a chunk of prompts; returns its row with the new states."""
        return await self.asker.answer_table(batch)

    async def write(self, request: Request, pool: Pool, problem: str) -> Completion:
        """One completion by the endpoint."""
        async with self.window:
            self.asker.require_no_fault()
            await self._check_budget()
            await asyncio.sleep(self.rate_limiter.wait_s(time.monotonic()))
            response = await self._send(request, problem)
        await self.progress.spend.remote(pool.name, _count(response, "completion_tokens"))
        completion = to_completion(response, self.teacher.reasoning_end)
        if self.teacher.continues is None:
            return completion
        return continued(completion, begun_answer(self.teacher, request.read, opens=True), self.teacher.reasoning_end)

    async def _send(self, request: Request, problem: str) -> Any:
        """The endpoint's reply. Where it asks for a longer wait than the client keeps, all requests wait."""
        num_waits = 0
        while True:
            await self._resumed()
            try:
                return await self.client.chat.completions.create(
                    model=self.teacher.remote_model,
                    messages=sent_messages(self.teacher, problem, request.read),
                    **endpoint_params(self.teacher, request.seed),
                )
            except openai.APIStatusError as error:
                wait_s = long_wait_s(error.response.headers)
                if not wait_s or num_waits == MAX_WAITS or not isinstance(error, RETRIED):
                    raise self._fault(error) from error
                num_waits += 1
                self._pause(wait_s)
            except (openai.APIError, ValueError) as error:  # broken, not JSON, or not as the protocol has it
                raise RequestFailed(_reason(error)) from error

    def _fault(self, error: openai.APIStatusError) -> Exception:
        """What an error is worth: InputError ends the stage, RequestFailed is tried again, RequestRefused is not."""
        text, param = _complaint(error)
        if remedy := shut_out(self.teacher, error.status_code, text, error.code):
            what = f"{self.teacher.base_url} answers {error.status_code}: {text[:300]}"
            return InputError(f"teachers[{self.teacher.name}]: {what} -> {remedy}".replace("\n", " "))
        if isinstance(error, RETRIED):
            return RequestFailed(_reason(error))
        if error.status_code in WRONG_FIELD and (remedy := refused_field(self.teacher, text, param)):
            return InputError(f"teachers[{self.teacher.name}]: {text[:300]} -> {remedy}".replace("\n", " "))
        return RequestRefused(f"{fault_label(error)}: {text}"[:500])

    def _pause(self, wait_s: float) -> None:
        self.resumes_at = max(self.resumes_at, time.monotonic() + min(wait_s, MAX_WAIT_S))
        about = {"teacher": self.teacher.name, "asked_s": wait_s, "waits_s": min(wait_s, MAX_WAIT_S)}
        log_event("endpoint asks to wait", run=self.run_uri, stage=StageName.GENERATE, **about)

    async def _resumed(self) -> None:
        while (wait_s := self.resumes_at - time.monotonic()) > 0:
            await asyncio.sleep(wait_s)

    async def _check_budget(self) -> None:
        spent = await self.progress.spent.remote(self.teacher.name)
        if problem := over_budget(self.teacher, spent):
            raise RequestRefused(problem)


def long_wait_s(headers: Mapping[str, str]) -> float:
    """Seconds that a server asks to wait (Retry-After), where they are more than the client waits by itself; else 0."""
    text = headers.get("retry-after", "")
    try:
        wait_s = float(text)
    except ValueError:
        try:
            wait_s = parsedate_to_datetime(text).timestamp() - time.time()
        except ValueError:  # no date either
            return 0.0
    return wait_s if CLIENT_WAITS_S < wait_s < float("inf") else 0.0


def shut_out(teacher: EndpointTeacher, status: int, text: str, code: str | None = None) -> str:
    """The remedy where an endpoint refuses not this request but all: a wrong key, no credit, no such model; else empty.

    Args:
        teacher: whose request it was.
        status: of the reply.
        text: of the error.
        code: the error's own code, if it has one.
    """
    key = f"the key in {teacher.api_key_env}" if teacher.api_key_env else "no key (api_key_env is not set)"
    end = "; what was written stays, and the same command goes on"
    if status == 401:
        return f"it was asked with {key}: export one that it takes{end}"
    if status == 402 or code == "insufficient_quota":
        return f"the account behind {key} has no credit there: add some{end}"
    if status == 403 and not _FLAGGED.search(text):
        return (
            f"it was asked for {teacher.remote_model!r} with {key}, which may not use it: take another of either{end}"
        )
    if status == 404:
        return f"check base_url (up to and including /v1) and remote_model {teacher.remote_model!r}{end}"
    return ""


def sent_messages(teacher: EndpointTeacher, problem: str, read: str) -> Any:
    """The turns of a request; a teacher that continues gets the beginning of its answer as the last one."""
    turns = chat_messages(problem, teacher.chat, read or None)
    if teacher.continues is None:
        return turns
    return [*turns, {"role": "assistant", "content": begun_answer(teacher, read, opens=True)}]


def continued(completion: Completion, begun: str, reasoning_end: str) -> Completion:
    """The whole answer of a teacher that continued: what it was given, then what it wrote.

    A server that separates the reasoning sends it without its opening, which `to_completion` puts back: here it is in
    `begun` already.
    """
    text = completion.text.removeprefix(opening_line(reasoning_end)) if reasoning_end else completion.text
    return completion._replace(text=begun + text, given=len(begun))


def over_budget(teacher: EndpointTeacher, spent_tokens: int) -> str:
    """Which budget is used up; empty while requests may be sent."""
    if teacher.max_tokens_total is not None and spent_tokens >= teacher.max_tokens_total:
        return f"budget: {spent_tokens} of {teacher.max_tokens_total} completion tokens are used"
    spent_usd = spent_tokens / 1e6 * teacher.usd_per_million_tokens
    if teacher.max_usd_total is not None and spent_usd >= teacher.max_usd_total:
        return f"budget: {spent_usd:.2f} of {teacher.max_usd_total:.2f} USD are used"
    return ""


def refused_field(teacher: EndpointTeacher, message: str, param: str | None = None) -> str:
    """The remedy where a provider's error says that it does not take a field of our requests; empty where it says
    something else. Every further request would be refused alike.

    Args:
        teacher: whose requests they are.
        message: text of the error.
        param: the field that the error blames in a field of its own, if it does.
    """
    if not _REFUSES.search(message):
        return ""
    sent = endpoint_params(teacher, 0)
    names = [*(name for name in sent if name in _REMEDIES), *teacher.extra_body]
    blamed = [name for name in names if name == param or _blames(message, name)]
    if len(blamed) > 2:  # the error repeats the request: it does not say which
        return ""
    # Where two exclude each other, the temperature is the one to keep.
    name = "top_p" if {"temperature", "top_p"} <= set(blamed) else next(iter(blamed), "")
    return _REMEDIES.get(name, f"remove {name!r} from extra_body") if name else ""


def _blames(message: str, name: str) -> bool:
    """Whether an error names a field as one. Not wherever the word occurs: some errors repeat the problem's text."""
    field = re.escape(name)
    as_field = rf"['\"`]{field}['\"`]|(?:argument|field|param|parameter)s?(?: supplied)?:? {field}\b"
    as_subject = rf"(?:^|[.:-] ){field} (?:is|are|does)\b"
    return re.search(f"{as_field}|{as_subject}", message, re.IGNORECASE) is not None


def _complaint(error: openai.APIStatusError) -> tuple[str, str | None]:
    """(text, field that it names) of a refusal; servers made with FastAPI say both in `detail`, which the client's
    message leaves out."""
    detail = error.body.get("detail") if isinstance(error.body, dict) else None
    first = detail[0] if isinstance(detail, list) and detail else None
    if isinstance(first, dict) and first.get("loc"):
        return f"{error.message}: {first.get('msg')}: {first['loc'][-1]}", str(first["loc"][-1])
    return f"{error.message}: {detail}" if detail else error.message, error.param


def to_completion(response: Any, reasoning_end: str = DEFAULT_END) -> Completion:
    """An API reply as a completion; reasoning that came apart is put in front of the text, as models write it.

    Args:
        response: the client's reply.
        reasoning_end: the teacher's delimiter; empty: the usual one.

    Raises:
        RequestFailed: the reply has no choice or message, or does not say that it ended by stop or by length.
        RequestRefused: the provider's filter ended it, or the model declined.
    """
    choices = getattr(response, "choices", None) or []
    if not choices or choices[0].message is None:
        error = getattr(response, "error", None)
        raise RequestFailed(f"malformed reply: choices {len(choices)}, error {error!r}"[:500])
    choice, ended = choices[0], end_of(choices[0].finish_reason)
    if not ended:
        raise RequestFailed(f"malformed reply: finish_reason {choice.finish_reason!r}")
    if ended == REFUSED or getattr(choice.message, "refusal", None):
        why = getattr(choice.message, "refusal", None) or choice.finish_reason
        raise RequestRefused(f"the provider or the model declined: {why}"[:500])
    message = read_message(choice.message)
    return Completion(
        text=whole_text(message, reasoning_end or DEFAULT_END, is_truncated=ended == LENGTH),
        finish_reason=ended,
        prompt_tokens=_count(response, "prompt_tokens"),
        completion_tokens=_count(response, "completion_tokens"),
        engine=f"{ENDPOINT_ENGINE}{response.model}",
    )


def _count(response: Any, name: str) -> int:
    """A count of tokens of a reply; 0 where it has none."""
    return int(getattr(getattr(response, "usage", None), name, None) or 0)


def _reason(error: Exception) -> str:
    return f"{fault_label(error)}: {getattr(error, 'message', error)}"[:500]


def _key(teacher: EndpointTeacher) -> ApiKey:
    return ApiKey(endpoint_key(teacher.api_key_env, f"teachers[{teacher.name}].api_key_env"))


def ask_endpoint(chunks: Dataset, job: TeacherJob) -> Dataset:
    """Ask an endpoint chunk by chunk, lazily; the chunks come back with their new states."""
    teacher = job.pools[0].teacher
    assert isinstance(teacher, EndpointTeacher)
    return chunks.map_batches(
        EndpointActor,
        # Not as a variable of a runtime environment: Ray's agent logs those.
        fn_constructor_args=(job, _key(teacher)),
        batch_size=1,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=1),
        max_concurrency=max(2, -(-2 * teacher.max_in_flight // CHUNK_ROWS)),
        num_cpus=0.1,
    )
