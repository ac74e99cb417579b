"""Asks prompts of an engine, whatever the kind of teacher: request, grade, store, and retry only where it is useful.

All requests of a prompt are made from the engine's own actor, so no round trip to the driver and no barrier between
rounds leaves the engine idle.
"""

import asyncio
import dataclasses
import functools
import json
import time
import uuid
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence, Set
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, NamedTuple

import pyarrow as pa

from distill.config.teachers import AskedTeacher, EndpointTeacher, GenerateConfig, Reader
from distill.config.verify import VerifyConfig
from distill.core.errors import DistillError, StageError
from distill.core.events import log_event
from distill.core.run_dir import PROMPTS, RunDir, StageName
from distill.core.schema import Dropped, Style, Trace
from distill.core.verifier_version import verifier_version
from distill.generate.ask_policy import AskPlan, PoolState, is_complete, is_solved, next_samples
from distill.generate.async_grader import AsyncGrader
from distill.generate.chunks import COLUMNS, PAGE_ROWS, Chunk, PromptRow, batch_key, chunk_table
from distill.generate.edits import (
    PART_MISSING,
    SOURCE_MISSING,
    graded_text,
    growth_of,
    keep_if_of,
    may_be_used,
    read_of,
)
from distill.generate.pool_index import decode_states, encode_states, merge_traces, read_rows, with_trace
from distill.generate.pools import FAILED, REFUSED, Request, build_request, failure, sent_sampling, split_reasoning
from distill.generate.progress_actor import MAX_STARTS
from distill.generate.trace_shards import BatchShards, read_texts, whole_shard
from distill.grading import Grade, GraderPool, grade_request, reference_identity
from distill.run.pools import Pool

REPORT_S = 1.0
"""Interval of an engine's progress reports. Not one per trace: a single actor receives those of all engines."""
HEARTBEAT_S = 10.0
"""Interval of an engine's heartbeats, sent also while none of its completions has finished."""
MAX_GIVEN_UP = 20
"""Requests that an engine may give up in a row before the stage ends."""
DRAIN_S = 300.0
"""As long is waited, when an error ends the stage, for the requests that are under way: they are paid for."""
BACKOFF_S = 0.5
"""Wait before the second attempt of a request; it doubles with every further one."""


class Completion(NamedTuple):
    """What a teacher wrote."""

    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    engine: str
    cached_tokens: int = 0
    """Prompt tokens served from the prefix cache."""
    given: int = 0
    """Characters at the beginning of the text that the teacher continued and did not write."""


class RequestRefused(Exception):
    """The teacher rejects this request however often it is sent (too long, malformed)."""


class RequestFailed(Exception):
    """The teacher failed to answer; another attempt may succeed."""


Write = Callable[[Request, Pool, str], Awaitable[Completion]]
"""(request, its pool, problem) -> completion; raises RequestRefused or RequestFailed."""


# Producer: the driver. Consumer: every engine actor. Travels by pickle.
@dataclass(frozen=True)
class TeacherJob:
    """What an actor needs to ask the pools of one engine."""

    run_uri: str
    pools: tuple[Pool, ...]
    """Pools that this engine can fill."""
    plan: AskPlan
    """Covers all pools of the run."""
    read: Mapping[str, Pool]
    """The pools that these read, by name."""
    generate: GenerateConfig
    verify: VerifyConfig
    seed: int
    progress: Any
    """Handle of the `ProgressActor`."""


class Answered(NamedTuple):
    """Outcome of a request: a trace, or the reason why there is none."""

    trace: Trace | None
    failure: Dropped | None = None
    cached_tokens: int = 0


class Batch(NamedTuple):
    """A batch at work."""

    shards: BatchShards
    texts: dict[str, str]
    """Trace id -> text of the traces that can be read."""


class Asker:
    """Asks the prompts of one engine. Lives in the engine's actor, in its event loop."""

    def __init__(self, job: TeacherJob, write: Write) -> None:
        self.job, self.write = job, write
        self.run_dir = RunDir(job.run_uri)
        self.pools = {pool.name: pool for pool in job.pools}
        self.engine = uuid.uuid4().hex[:8]
        """Identifies this engine within the run."""
        self.batches: set[str] = set()
        """Batches that this engine works on now."""
        self.grader = AsyncGrader(GraderPool.from_config(job.verify))
        self.fault: DistillError | None = None
        """What ends the stage: no request is begun any more."""
        self._num_open = 0
        self._shards: set[BatchShards] = set()
        self._given_up_in_row = 0
        self._unsent: Counter[str] = Counter()
        self._unsent_complete = 0
        self._next_report_s = 0.0
        self._reading = asyncio.Lock()
        self._last_tries = asyncio.Lock()
        self._page = functools.lru_cache(maxsize=2)(self._read_page)
        self._log("engine begins", pools=sorted(self.pools))

    async def answer(self, rows: Sequence[Mapping[str, Any]], sources: Sequence[str] = ()) -> list[str]:
        """Ask a batch of `PromptRow`s; returns their new states, in order. All traces are on disk when it returns.

        `sources`: the shards with traces that may be read.
        """
        prompts = [
            PromptRow(**{name: row[name] for name in PromptRow.__dataclass_fields__ if name in row}) for row in rows
        ]
        batch = batch_key(prompts, self.job.pools)
        starts, deaths = await self.job.progress.start_batch.remote(batch)
        # Of the batches that an engine has died with, one is the cause: alone, it takes no other with it.
        is_last_try = 0 < deaths == self.job.generate.max_attempts - 1
        turn: AbstractAsyncContextManager[None] = self._last_tries if is_last_try else nullcontext()
        async with turn:
            return await self._answer_batch(batch, prompts, sources, starts=starts, deaths=deaths)

    async def _answer_batch(
        self, batch: str, prompts: Sequence[PromptRow], sources: Sequence[str], *, starts: int, deaths: int
    ) -> list[str]:
        """The new states of a batch. `starts`: times that it was begun, of which `deaths` ended with its engine's."""
        self.batches.add(batch)
        heartbeats = asyncio.create_task(self._beat_regularly())

        async def is_ours() -> bool:
            return bool(await self.job.progress.is_newest.remote(batch, starts))

        flush_s = self.job.generate.flush_s
        try:
            async with BatchShards(self.run_dir, batch, self.pools, flush_s=flush_s, is_ours=is_ours) as shards:
                self._shards.add(shards)
                before: list[Trace] = []
                if starts > 1:
                    self._log("batch restarted", batch=batch, starts=starts, deaths=deaths, prompts=len(prompts))
                    before = await asyncio.to_thread(shards.recover)
                texts = await asyncio.to_thread(self._read_sources, sources, {prompt.prompt_id for prompt in prompts})
                texts |= {trace.trace_id: trace.completion for trace in before if trace.pool in self.job.plan.readers}
                work = Batch(shards, texts)
                states = [self._recovered(prompt, before) for prompt in prompts]
                if deaths >= self.job.generate.max_attempts or starts > MAX_STARTS:
                    why = f"its engine died or was lost {max(deaths, starts - 1)} times"
                    shards.failures += self._given_up(prompts, states, why)
                else:
                    pairs = zip(prompts, states, strict=True)
                    states = await self._all([self._ask(prompt, state, work) for prompt, state in pairs])
        finally:
            heartbeats.cancel()
            self._shards = {one for one in self._shards if one.batch != batch}
            self.batches.discard(batch)
            self._send_progress()
            self._send_heartbeat()
        return [encode_states(state) for state in states]

    async def _all(self, asks: Sequence[Coroutine[Any, Any, dict[str, PoolState]]]) -> list[dict[str, PoolState]]:
        """The new states of all prompts of a batch. An error that ends the stage leaves when what is under way is on
        disk: Ray ends this process then, with all of its batches."""
        try:
            return list(await asyncio.gather(*asks))
        except DistillError:
            until_s = time.monotonic() + DRAIN_S
            while (self._num_open or not all(map(BatchShards.is_written, self._shards))) and time.monotonic() < until_s:
                await asyncio.sleep(0.05)
            raise

    def require_no_fault(self) -> None:
        """Before a request is sent.

        Raises:
            DistillError: what ends the stage.
        """
        if self.fault is not None:
            raise self.fault

    async def _beat_regularly(self) -> None:
        """Send heartbeats until cancelled."""
        while True:
            self._send_heartbeat()
            await asyncio.sleep(HEARTBEAT_S)

    def _log(self, event: str, **about: Any) -> None:
        log_event(event, run=self.job.run_uri, stage=StageName.GENERATE, engine=self.engine, **about)

    def _send_heartbeat(self) -> None:
        self.job.progress.heartbeat.remote(self.engine, len(self.batches))

    async def answer_table(self, batch: pa.Table) -> pa.Table:
        """Ask a table of `Chunk`s; returns its rows with their new states."""
        answered = [await self._answer_chunk(Chunk(**row)) for row in batch.to_pylist()]
        return chunk_table(answered)

    async def _answer_chunk(self, chunk: Chunk) -> Chunk:
        async with self._reading:
            prompts = await asyncio.to_thread(self._prompts, chunk.start, chunk.stop)
        states = chunk.states or [""] * len(prompts)
        rows = [{**prompt, "states": state} for prompt, state in zip(prompts, states, strict=True)]
        answered = tuple(await self.answer(rows, chunk.sources))
        written = [shard for shard in self._shards_to_read(rows) if shard not in chunk.sources]
        return dataclasses.replace(chunk, states=answered, sources=(*chunk.sources, *written))

    def _shards_to_read(self, rows: Sequence[Mapping[str, Any]]) -> list[str]:
        """The shards in which a batch's traces are that a teacher may read; one that has no new trace is not there."""
        batch = batch_key([PromptRow(**row) for row in rows], self.job.pools)
        return [f"{pool.folder}/{whole_shard(batch)}" for pool in self.job.pools if pool.name in self.job.plan.readers]

    def _read_sources(self, shards: Sequence[str], prompt_ids: Set[str]) -> dict[str, str]:
        """Trace id -> text of the traces that this engine's teachers may read."""
        wanted = {self.job.read[reads].folder for name in self.pools if (reads := self.job.plan.plan(name).reads)}
        texts: dict[str, str] = {}
        for folder, name in (shard.split("/") for shard in shards):
            if folder in wanted:
                texts |= read_texts(self.run_dir, folder, name, prompt_ids)
        return texts

    def _read_page(self, start: int) -> list[dict[str, Any]]:
        return read_rows(self.run_dir, self.run_dir.path(*PROMPTS), start, start + PAGE_ROWS, COLUMNS)

    def _prompts(self, start: int, stop: int) -> list[dict[str, Any]]:
        page = start - start % PAGE_ROWS
        return self._page(page)[start - page : stop - page]

    def _recovered(self, prompt: PromptRow, traces: Sequence[Trace]) -> dict[str, PoolState]:
        mine = [trace for trace in traces if trace.prompt_id == prompt.prompt_id]
        return merge_traces(decode_states(prompt.states), mine, self.pools, self.job.plan)

    async def _ask(self, prompt: PromptRow, states: dict[str, PoolState], work: Batch) -> dict[str, PoolState]:
        """Ask one prompt until nothing more is wanted of it."""
        plan = self.job.plan.for_source(prompt.source)
        was_complete = is_complete(plan, states)
        while wanted := next_samples(plan, states, self.pools):
            if self.job.generate.enough_prompts is not None and await self.job.progress.is_full.remote():
                break
            await asyncio.gather(*(self._sample(prompt, states, pool, number, work) for pool, number in wanted))
        complete = is_complete(plan, states) and not was_complete
        self._record({"prompts": 1}, complete=complete)
        return states

    async def _sample(
        self, prompt: PromptRow, states: dict[str, PoolState], name: str, number: int, work: Batch
    ) -> None:
        """Request one trace and add it to the shards at once: the next flush writes it."""
        self.require_no_fault()
        self._num_open += 1
        try:
            await self._add_sample(prompt, states, name, number, work)
        except DistillError as error:
            self.fault = self.fault or error
            raise
        finally:
            self._num_open -= 1

    async def _add_sample(
        self, prompt: PromptRow, states: dict[str, PoolState], name: str, number: int, work: Batch
    ) -> None:
        pool, plan = self.pools[name], self.job.plan
        request = build_request(prompt.prompt_id, pool, number, self.job.seed)
        answer = await self._answered(prompt, pool, request, work.texts)
        was_solved = is_solved(plan.plan(name), plan, states)
        if answer.trace:
            work.shards.traces.append(answer.trace)
            if name in plan.readers:
                work.texts[request.trace_id] = answer.trace.completion
            states[name] = with_trace(states.get(name, PoolState()), answer.trace, pool, plan)
        else:
            states[name] = states.get(name, PoolState()).add(number, is_correct=False)
        if answer.failure:
            work.shards.failures.append(answer.failure)
            ids = {"prompt_id": prompt.prompt_id, "pool": name, "sample_index": request.sample_index}
            self._log("request given up", **ids, reason=answer.failure.reason, detail=answer.failure.detail)
        is_new = not was_solved and is_solved(plan.plan(name), plan, states)
        self._count(answer, pool, became_solved=name if is_new else "")

    def _count(self, answer: Answered, pool: Pool, *, became_solved: str) -> None:
        counts: Counter[str] = Counter({"failed": int(answer.trace is None)})
        if answer.trace:
            trace = answer.trace
            is_correct = may_be_used(trace, keep_if_of(pool.teacher))
            tokens = trace.completion_tokens if isinstance(pool.teacher, AskedTeacher) else 0  # a rule writes none
            counts.update(traces=1, correct=int(is_correct), tokens=tokens)
            counts.update(prompt_tokens=trace.prompt_tokens, cached_tokens=answer.cached_tokens)
        if became_solved:
            counts[f"solved {became_solved}"] += 1
        self._record(counts)

    def _record(self, counts: Mapping[str, int], *, complete: bool = False) -> None:
        """Add counts to the next report. Where a run stops at `enough_prompts`, a complete prompt is reported at once:
        the other engines stop asking by it."""
        self._unsent.update(counts)
        self._unsent_complete += complete
        is_urgent = complete and self.job.generate.enough_prompts is not None
        if is_urgent or time.monotonic() >= self._next_report_s:
            self._send_progress()

    def _send_progress(self) -> None:
        """Send the counts that the progress actor does not have yet."""
        if self._unsent:
            self.job.progress.add.remote(dict(self._unsent), self._unsent_complete)
            self._unsent, self._unsent_complete = Counter(), 0
        self._next_report_s = time.monotonic() + REPORT_S

    async def _answered(self, prompt: PromptRow, pool: Pool, request: Request, texts: Mapping[str, str]) -> Answered:
        """One graded trace, or why there is none; an edit is one of a trace that is in `texts`."""
        if not request.parent:
            return await self._trace(prompt, pool, request)
        source, teacher = texts.get(request.parent), pool.teacher
        assert isinstance(teacher, Reader) and teacher.reads is not None
        if source is None:
            what = f"trace {request.parent} of pool {teacher.reads!r} is in no shard"
            return Answered(None, failure(request, prompt.problem, SOURCE_MISSING, what))
        read = read_of(teacher, source, self.job.read[teacher.reads].teacher.reasoning_end)
        if not read:
            what = f"trace {request.parent} has no {teacher.part or 'text'}"
            return Answered(None, failure(request, prompt.problem, PART_MISSING, what))
        answer = await self._trace(prompt, pool, dataclasses.replace(request, read=read))
        trace = answer.trace and dataclasses.replace(answer.trace, growth=growth_of(answer.trace.completion, source))
        return answer._replace(trace=trace)

    async def _trace(self, prompt: PromptRow, pool: Pool, request: Request) -> Answered:
        """One graded trace. A failed request is retried up to `max_attempts` times, then recorded with its reason."""
        for attempt in range(1, self.job.generate.max_attempts + 1):
            self.require_no_fault()
            try:
                completion = await self.write(request, pool, prompt.problem)
            except RequestRefused as error:
                return Answered(None, failure(request, prompt.problem, REFUSED, f"attempt {attempt}: {error}"))
            except RequestFailed as error:
                if attempt == self.job.generate.max_attempts:
                    self._count_given_up(pool, error)
                    what = f"{attempt} attempts, the last: {error}"
                    return Answered(None, failure(request, prompt.problem, FAILED, what))
                await asyncio.sleep(BACKOFF_S * 2 ** (attempt - 1))
                continue
            self._given_up_in_row = 0
            ended, delimiter = completion.finish_reason, pool.teacher.reasoning_end
            text = graded_text(completion.text, completion.given, delimiter)
            asked = grade_request(prompt, text, finish_reason=ended, reasoning_end=delimiter)
            grade = await self.grader.grade(asked)
            trace = to_trace(request, pool, completion, grade, prompt, attempts=attempt)
            return Answered(trace, cached_tokens=completion.cached_tokens)
        raise AssertionError("unreachable: the last attempt returns")

    def _count_given_up(self, pool: Pool, error: RequestFailed) -> None:
        """End the stage where not a request but the engine or endpoint is at fault: none of many was answered.

        Recorded as failed, they would never be asked again.
        """
        self._given_up_in_row += 1
        if self._given_up_in_row >= MAX_GIVEN_UP:
            where = f" at {pool.teacher.base_url}" if isinstance(pool.teacher, EndpointTeacher) else ""
            raise StageError(
                f"teachers[{pool.name}]: {self._given_up_in_row} requests{where} in a row failed after "
                f"{self.job.generate.max_attempts} attempts each, the last: {error} -> see that it answers; what was "
                "written stays, and the same command goes on".replace("\n", " ")
            )

    def _given_up(self, prompts: Sequence[PromptRow], states: list[dict[str, PoolState]], why: str) -> list[Dropped]:
        """Drops for all open requests of a batch that keeps killing its engine, so that the run can continue."""
        drops = []
        for position, prompt in enumerate(prompts):
            while wanted := next_samples(self.job.plan.for_source(prompt.source), states[position], self.pools):
                for name, number in wanted:
                    request = build_request(prompt.prompt_id, self.pools[name], number, self.job.seed)
                    drops.append(failure(request, prompt.problem, FAILED, why))
                    state = states[position].get(name, PoolState())
                    states[position][name] = state.add(number, is_correct=False)
        return drops


def to_trace(
    request: Request, pool: Pool, completion: Completion, grade: Grade, prompt: PromptRow, *, attempts: int
) -> Trace:
    """The `Trace` of a graded completion."""
    teacher = pool.teacher
    reasoning, answer = split_reasoning(completion.text, teacher.reasoning_end)
    sampling = sent_sampling(teacher) if isinstance(teacher, AskedTeacher) else {}
    return Trace(
        trace_id=request.trace_id,
        prompt_id=request.prompt_id,
        pool=pool.name,
        style=Style(teacher.style),
        fingerprint=pool.fingerprint,
        sample_index=request.sample_index,
        seed=request.seed,
        completion=completion.text,
        reasoning=reasoning,
        answer=answer,
        prompt_tokens=completion.prompt_tokens,
        completion_tokens=completion.completion_tokens,
        finish_reason=completion.finish_reason,
        sampling=json.dumps(sampling, sort_keys=True),
        engine=completion.engine,
        attempts=attempts,
        verdict=grade.verdict,
        extracted=grade.extracted,
        rule=grade.rule,
        verifier=verifier_version([prompt.answer_kind]),
        detail=grade.detail,
        parent=request.parent,
        given=completion.given,
        graded_against=reference_identity(prompt),
    )
