"""Teachers behind an OpenAI-compatible endpoint: rate limit, retries with backoff, token and cost budgets."""

import asyncio
import time
from typing import Any

import openai
import pyarrow as pa
from ray.data import ActorPoolStrategy, Dataset

from distill.config.teachers import EndpointTeacher
from distill.generate.asker import CHUNK_ROWS, Asker, Completion, RequestFailed, RequestRefused, TeacherJob
from distill.generate.pools import Request, sampling_params
from distill.models.api_key import endpoint_key
from distill.models.chat_template import chat_messages
from distill.run.pools import Pool
from serve.errors import fault_label

RETRIED = (openai.APIConnectionError, openai.RateLimitError, openai.InternalServerError, openai.ConflictError)
"""Transient faults. The client retries these itself first, and honours Retry-After."""


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

    def __init__(self, job: TeacherJob) -> None:
        pool = job.pools[0]
        assert isinstance(pool.teacher, EndpointTeacher)
        self.teacher, self.progress = pool.teacher, job.progress
        self.client = openai.AsyncOpenAI(
            base_url=self.teacher.base_url, api_key=_key(self.teacher), timeout=self.teacher.timeout_s, max_retries=4
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
            await self._check_budget()
            await asyncio.sleep(self.rate_limiter.wait_s(time.monotonic()))
            response = await self._send(request, problem)
        usage = response.usage
        await self.progress.spend.remote(pool.name, usage.completion_tokens if usage else 0)
        return to_completion(response)

    async def _send(self, request: Request, problem: str) -> Any:
        seed = request.seed if self.teacher.sends_seed else None
        try:
            return await self.client.chat.completions.create(
                model=self.teacher.remote_model,
                messages=chat_messages(problem, self.teacher.chat),
                **sampling_params(self.teacher.sampling, seed),
            )
        except RETRIED as error:
            raise RequestFailed(_reason(error)) from error
        except openai.APIStatusError as error:
            raise RequestRefused(_reason(error)) from error
        except (openai.APIError, ValueError) as error:  # a reply that is not JSON, or does not follow the protocol
            raise RequestFailed(_reason(error)) from error

    async def _check_budget(self) -> None:
        spent = await self.progress.spent.remote(self.teacher.name)
        if problem := over_budget(self.teacher, spent):
            raise RequestRefused(problem)


def over_budget(teacher: EndpointTeacher, spent_tokens: int) -> str:
    """Which budget is used up; empty while requests may be sent."""
    if teacher.max_tokens_total is not None and spent_tokens >= teacher.max_tokens_total:
        return f"budget: {spent_tokens} of {teacher.max_tokens_total} completion tokens are used"
    spent_usd = spent_tokens / 1e6 * teacher.usd_per_million_tokens
    if teacher.max_usd_total is not None and spent_usd >= teacher.max_usd_total:
        return f"budget: {spent_usd:.2f} of {teacher.max_usd_total:.2f} USD are used"
    return ""


def to_completion(response: Any) -> Completion:
    """An API reply as a completion; reasoning that came in a separate field is put back in front of the text.

    Raises:
        RequestFailed: the reply has no choice or message, or ended for another reason than stop or length.
    """
    choice = response.choices[0] if response.choices else None
    if choice is None or choice.message is None or choice.finish_reason not in ("stop", "length"):
        ended = None if choice is None else choice.finish_reason
        raise RequestFailed(f"malformed reply: choices {len(response.choices or [])}, finish_reason {ended!r}")
    text = choice.message.content or ""
    reasoning = getattr(choice.message, "reasoning_content", None) or getattr(choice.message, "reasoning", None)
    usage = response.usage
    return Completion(
        text=f"<think>{reasoning}</think>{text}" if reasoning else text,
        finish_reason=choice.finish_reason,
        prompt_tokens=usage.prompt_tokens if usage else 0,
        completion_tokens=usage.completion_tokens if usage else 0,
        engine=f"endpoint {response.model}",
    )


def _reason(error: Exception) -> str:
    return f"{fault_label(error)}: {getattr(error, 'message', error)}"[:500]


def _key(teacher: EndpointTeacher) -> str:
    return endpoint_key(teacher.api_key_env, f"teachers[{teacher.name}].api_key_env")


def ask_endpoint(chunks: Dataset, job: TeacherJob) -> Dataset:
    """Ask an endpoint chunk by chunk, lazily; the chunks come back with their new states."""
    teacher = job.pools[0].teacher
    assert isinstance(teacher, EndpointTeacher)
    variables = {teacher.api_key_env: _key(teacher)} if teacher.api_key_env else {}
    return chunks.map_batches(
        EndpointActor,
        fn_constructor_args=(job,),
        batch_size=1,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=1),
        max_concurrency=max(2, -(-2 * teacher.max_in_flight // CHUNK_ROWS)),
        num_cpus=0.1,
        runtime_env={"env_vars": variables},
    )
