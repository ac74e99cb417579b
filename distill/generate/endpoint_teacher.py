"""Teachers behind an address that speaks the OpenAI protocol: rate limit, retries with backoff, a budget."""

import asyncio
import time
from typing import Any

import openai
import pyarrow as pa
from ray.data import ActorPoolStrategy, Dataset

from distill.config.teachers import EndpointTeacher
from distill.generate.asker import CHUNK_ROWS, Asker, Completion, Faulty, Refused, TeacherJob
from distill.generate.pools import Request, sampling_params
from distill.models.api_key import endpoint_key
from distill.models.chat_template import chat_messages
from distill.run.pools import Pool
from serve.errors import fault_label

RETRIED = (openai.APIConnectionError, openai.RateLimitError, openai.InternalServerError, openai.ConflictError)
"""Faults of the moment; the client itself tries these again first, and heeds Retry-After."""


class Pace:
    """Lets one request begin every `60 / requests_per_minute` seconds."""

    def __init__(self, requests_per_minute: float | None) -> None:
        self.interval_s = 60.0 / requests_per_minute if requests_per_minute else 0.0
        self._next = 0.0

    def wait_s(self, now: float) -> float:
        """Seconds until the next request may begin; takes that place."""
        begin = max(now, self._next)
        self._next = begin + self.interval_s
        return begin - now


class EndpointActor:
    """The one actor that asks an address: its window, pace and budget hold for the whole run."""

    def __init__(self, job: TeacherJob) -> None:
        pool = job.pools[0]
        assert isinstance(pool.teacher, EndpointTeacher)
        self.teacher, self.tally = pool.teacher, job.tally
        self.client = openai.AsyncOpenAI(
            base_url=self.teacher.base_url, api_key=_key(self.teacher), timeout=self.teacher.timeout_s, max_retries=4
        )
        self.window = asyncio.Semaphore(self.teacher.max_in_flight)
        self.pace = Pace(self.teacher.requests_per_minute)
        self.asker = Asker(job, self.write)
        job.tally.engine_ready.remote()

    async def __call__(self, batch: pa.Table) -> pa.Table:
        """Ask a chunk of prompts; the same row with their new states."""
        return await self.asker.answer_table(batch)

    async def write(self, request: Request, pool: Pool, problem: str) -> Completion:
        """One completion by the address."""
        async with self.window:
            await self._check_budget()
            await asyncio.sleep(self.pace.wait_s(time.monotonic()))
            response = await self._send(request, problem)
        usage = response.usage
        await self.tally.spend.remote(pool.name, usage.completion_tokens if usage else 0)
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
            raise Faulty(_reason(error)) from error
        except openai.APIStatusError as error:
            raise Refused(_reason(error)) from error
        except (openai.APIError, ValueError) as error:  # a reply that is no JSON, or not of the protocol
            raise Faulty(_reason(error)) from error

    async def _check_budget(self) -> None:
        spent = await self.tally.spent.remote(self.teacher.name)
        if problem := over_budget(self.teacher, spent):
            raise Refused(problem)


def over_budget(teacher: EndpointTeacher, spent_tokens: int) -> str:
    """Why no further request may begin; empty while one may."""
    if teacher.max_tokens_total is not None and spent_tokens >= teacher.max_tokens_total:
        return f"budget: {spent_tokens} of {teacher.max_tokens_total} completion tokens are used"
    spent_usd = spent_tokens / 1e6 * teacher.usd_per_million_tokens
    if teacher.max_usd_total is not None and spent_usd >= teacher.max_usd_total:
        return f"budget: {spent_usd:.2f} of {teacher.max_usd_total:.2f} USD are used"
    return ""


def to_completion(response: Any) -> Completion:
    """A reply of the protocol as a completion; reasoning that came in a field of its own is put back in front.

    Raises:
        Faulty: the reply has no choice, no text or no reason why it ended.
    """
    choice = response.choices[0] if response.choices else None
    if choice is None or choice.message is None or choice.finish_reason not in ("stop", "length"):
        ended = None if choice is None else choice.finish_reason
        raise Faulty(f"malformed reply: choices {len(response.choices or [])}, finish_reason {ended!r}")
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
    """Chunks of prompts past an address, lazily; their states afterwards."""
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
