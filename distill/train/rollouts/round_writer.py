"""The engine of a cell's rounds: an actor that stays up, writes with the student's newest adapter, and grades.

The first training process starts it on its own machine, and it ends with that process. An adapter is handed over as a
folder under a name and an id of its own: vLLM serves the old one where an id is used again. It is never merged: bf16
weights would lose most of a step.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from cluster.session import Device
from cluster.storage import local_folder
from cluster.vllm_args import engine_env, single_worker_env
from distill.core.run_dir import PROMPTS, RunDir
from distill.core.schema import Prompt
from distill.grading import GraderPool, grade_request
from distill.models.chat_template import end_of_turn, has_special_tags
from distill.models.resolve import load_tokenizer
from distill.train.rollouts.engine_watch import ends_with_engine, started_engine
from distill.train.rollouts.rewards import OwnAnswer
from distill.train.rollouts.rounds_plan import RoundsPlan
from distill.train.rollouts.write import llm_arguments

if TYPE_CHECKING:
    from ray.actor import ActorHandle

GPU_SHARE = 0.3
"""Of a GPU's memory, for the engine beside the training process on it, unless `serve.engine.kwargs` says otherwise."""


class Question(NamedTuple):
    """One answer that is asked for."""

    answer_id: str
    trace_id: str
    """Of the row whose prompt it is."""
    prompt_id: str
    tokens: list[int]
    """Of the prompt."""
    is_opened: bool
    """Whether the prompt puts the student inside its reasoning."""
    room: int
    """Most tokens of the answer."""
    seed: int


class RoundWriter:
    """The actor. `model`: address of the weights that the adapters are on; `rank`: of these."""

    def __init__(self, run_uri: str, plan: RoundsPlan, model: str, rank: int, device: Device, seed: int) -> None:
        from vllm import LLM

        tokenizer = load_tokenizer(local_folder(model))
        self._plan, self._end = plan, end_of_turn(tokenizer)[-1]
        self._skips_special = not has_special_tags(tokenizer)
        self._prompts = read_prompts(RunDir(run_uri))
        self._graders = GraderPool.from_config(plan.verify)
        arguments = llm_arguments(plan.engine, device, seed=seed, rank=rank)
        self._engine, self._processes = started_engine(lambda: LLM(model=local_folder(model), **arguments))

    def is_up(self) -> bool:
        """Whether it can write; answered once it can."""
        return True

    def write(self, number: int, adapter: str, questions: Sequence[Question]) -> list[OwnAnswer]:
        """The graded answers of a round. `adapter`: folder of the student's newest adapter."""
        from vllm import SamplingParams
        from vllm.inputs.llm import TokensPrompt
        from vllm.lora.request import LoRARequest

        params = [
            SamplingParams(
                temperature=1.0,
                top_p=1.0,
                max_tokens=one.room,
                seed=one.seed,
                stop_token_ids=[self._end],
                skip_special_tokens=self._skips_special,
            )
            for one in questions
        ]
        with ends_with_engine(self._processes):
            outputs = self._engine.generate(
                [TokensPrompt(prompt_token_ids=one.tokens) for one in questions],
                params,
                use_tqdm=False,
                lora_request=LoRARequest(f"round-{number}", number + 1, adapter),
            )
        return self._graded(questions, [output.outputs[0] for output in outputs])

    def _graded(self, questions: Sequence[Question], answers: Sequence[Any]) -> list[OwnAnswer]:
        requests = [
            grade_request(
                self._prompts[one.prompt_id],
                answer.text,
                finish_reason=answer.finish_reason,
                reasoning_end=self._plan.reasoning_end,
                must_reason=one.is_opened,
            )
            for one, answer in zip(questions, answers, strict=True)
        ]
        grades = self._graders.grade_batch(requests)
        return [
            OwnAnswer(
                answer_id=one.answer_id,
                trace_id=one.trace_id,
                tokens=list(answer.token_ids),
                text=answer.text,
                is_finished=answer.finish_reason == "stop",
                verdict=grade.verdict.value,
            )
            for one, answer, grade in zip(questions, answers, grades, strict=True)
        ]


def read_prompts(run_dir: RunDir) -> Mapping[str, Prompt]:
    """Prompt id -> training prompt, with what its answers are graded by."""
    rows = run_dir.read_table(*PROMPTS, row_type=Prompt).to_pylist()
    return {row["prompt_id"]: Prompt(**row) for row in rows}


def start_writer(
    run_uri: str, plan: RoundsPlan, *, model: str, rank: int, device: Device, threads: int, seed: int
) -> ActorHandle[RoundWriter]:
    """Start the actor on this machine, without a reservation of its own: while it writes the training waits, and while
    the training steps it waits. On a GPU it shares that of this process."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    environment = engine_env(device, model, threads) | single_worker_env(device, plan.engine.num_gpus)
    if device == "gpu":
        # Without a reservation Ray hides all GPUs from a process, unless it is told to leave the variable alone.
        visible = {"CUDA_VISIBLE_DEVICES": os.environ.get("CUDA_VISIBLE_DEVICES", "0")}
        environment |= visible | {"RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
        kwargs = {"gpu_memory_utilization": GPU_SHARE, **plan.engine.kwargs}
        plan = replace(plan, engine=plan.engine.model_copy(update={"kwargs": kwargs}))
    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    actor = ray.remote(RoundWriter).options(num_cpus=0, scheduling_strategy=here, runtime_env={"env_vars": environment})
    return actor.remote(run_uri, plan, model, rank, device, seed)
