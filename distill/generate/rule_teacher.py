"""Teachers without a model: what they read is rewritten by rules."""

import asyncio

import pyarrow as pa
from ray.data import ActorPoolStrategy, Dataset

from distill.config.teachers import RuleTeacher
from distill.generate.asker import Asker, Completion, RequestRefused, TeacherJob
from distill.generate.dataset_teacher import token_counter
from distill.generate.edits import rewritten
from distill.generate.pools import Request
from distill.run.pools import Pool


class RuleActor:
    """The actor that rewrites traces; they are stored and verified as if a model had written them."""

    def __init__(self, job: TeacherJob) -> None:
        self.asker = Asker(job, self.write)
        job.progress.engine_ready.remote()

    async def __call__(self, batch: pa.Table) -> pa.Table:
        """Rewrite the traces of a chunk of prompts; returns its row with the new states."""
        return await self.asker.answer_table(batch)

    async def write(self, request: Request, pool: Pool, problem: str) -> Completion:
        """One edit."""
        assert isinstance(pool.teacher, RuleTeacher)
        text = await asyncio.to_thread(rewritten, pool.teacher, request.read)
        if not text:
            raise RequestRefused("the rules leave nothing of the trace")
        tokens = token_counter(pool.source)(text)  # not in a thread: a tokenizer serves one at a time
        return Completion(text, "stop", prompt_tokens=0, completion_tokens=tokens, engine="rule")


def ask_rule(chunks: Dataset, job: TeacherJob) -> Dataset:
    """Rewrite chunk by chunk, lazily; the chunks come back with their new states."""
    return chunks.map_batches(
        RuleActor,
        fn_constructor_args=(job,),
        batch_size=1,
        batch_format="pyarrow",
        compute=ActorPoolStrategy(size=1),
        max_concurrency=2,
        num_cpus=0.1,
    )
