"""Throughput of the generate stage against the same vLLM driven directly, in one run.

    python -m tests.benchmarks.generate [--prompts N] [--sweep]

Both sides take the quickstart's short teacher (SmolLM2-135M), the same engine arguments, prompts, sampling and seeds;
ours also verifies and writes every trace. Direct means AsyncLLM in a process of its own, all requests handed over at
once: as vLLM sets it up, once more with the model in the core process, as our engines on CPU have it, and once with
our sampler as well (`serve/engines/cpu_sampling.py`). A last direct engine has the engine arguments that this project
had before (`BEFORE`), in the place of today's. Steady state: completion tokens over the seconds from the first request
to the last answer; the start of the engine is told on a line of its own. The last line is a JSON object; goals
`ratio_vs_asyncllm` >= 0.98, `ratio_vs_before` >= 1.8.
`--sweep` tries engine arguments one after another instead, each in a direct engine of its own.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from cluster.vllm_args import engine_arguments, engine_env, single_worker_env
from distill.config.load import find_recipe, load_recipe
from distill.config.teachers import VllmTeacher
from distill.core.run_dir import RunDir
from distill.generate.pools import build_request, sampling_params
from distill.generate.stage import generate_stage
from distill.prompts.stage import prompts_stage
from distill.run.context import RunContext, read_prompts
from distill.run.pools import Pool

NUM_SAMPLES = 2
WORKER_NICENESS = 15
"""Ray's for its workers. The direct engine gets the same: what else runs on the machine disturbs both alike."""


CORES = os.cpu_count() or 1

NO_PLUGINS: dict[str, Any] = {"plugins": ""}
"""vLLM's own sampler."""
BEFORE: dict[str, Any] = {"block_size": 128, "dtype": "bfloat16", "threads": max(1, CORES - 1), **NO_PLUGINS}
"""Engine arguments of commit eac3b4a5 on CPU, where they may be others than today's."""

SWEEP: tuple[dict[str, Any], ...] = (
    {},
    {"block_size": 64},
    {"block_size": 128},
    {"max_num_batched_tokens": 2048},
    {"max_num_batched_tokens": 4096},
    {"max_num_seqs": 32},
    {"max_num_seqs": 128},
    {"threads": max(1, CORES - 1)},
    {"dtype": "bfloat16"},
    {"dtype": "float32"},
    {"enforce_eager": False},
    {"malloc": "tcmalloc"},
    {"plugins": "mix_cpu_lora,mix_cpu_sampling"},
    {"plugins": "mix_cpu_lora"},
)
"""Changes of the engine's arguments, its threads, its memory allocator and our plugins that `--sweep` tries."""


class Speed(NamedTuple):
    """What one side did."""

    tokens: int
    busy_s: float
    start_s: float
    prefix_cache_hits: float

    @property
    def tokens_per_s(self) -> float:
        """Steady state."""
        return self.tokens / self.busy_s


def build_run(folder: Path, num_prompts: int, resources: ExitStack) -> RunContext:
    """The quickstart with one teacher that writes every sample."""
    path = find_recipe("quickstart")
    overrides = [f"prompts.num_prompts={num_prompts}", "generate.stop_early=false"]
    recipe = load_recipe(path, [*overrides, f"teachers.short.num_samples={NUM_SAMPLES}"])
    only = recipe.model_copy(update={"teachers": recipe.teachers[:1], "mixes": recipe.mixes[:1]})
    return RunContext(only, path.parent, RunDir(str(folder)), Console(stderr=True), resources)


def ours(folder: Path, num_prompts: int) -> Speed:
    """The generate stage."""
    started = time.monotonic()
    with ExitStack() as resources:
        current = build_run(folder, num_prompts, resources)
        prompts_stage(current)
        details = generate_stage(current).details
    session, wall_s = details["this_session"], time.monotonic() - started
    return Speed(session["tokens"], details["busy_s"], wall_s - details["busy_s"], details["prefix_cache_hits"] or 0.0)


def direct(folder: Path, num_prompts: int, extra: Mapping[str, Any]) -> Speed:
    """AsyncLLM, in the process that calls this. `extra`: engine arguments beside ours."""
    with ExitStack() as resources:
        current = build_run(folder, num_prompts, resources)
        (pool,) = current.pools
        return asyncio.run(_drive(pool, current, extra))


async def _drive(pool: Pool, current: RunContext, extra: Mapping[str, Any]) -> Speed:
    from vllm import AsyncEngineArgs, SamplingParams
    from vllm.sampling_params import RequestOutputKind
    from vllm.v1.engine.async_llm import AsyncLLM

    from distill.generate.vllm_teacher import prompt_of

    teacher = pool.teacher
    assert isinstance(teacher, VllmTeacher)
    started = time.monotonic()
    arguments = engine_arguments(
        "cpu", max_model_len=teacher.engine.max_model_len, kv_cache_gib=teacher.engine.kv_cache_gib, extra=extra
    )
    engine = AsyncLLM.from_engine_args(AsyncEngineArgs(model=pool.source, **arguments))
    start_s = time.monotonic() - started

    async def answer(prompt: Any, index: int) -> Any:
        request = build_request(prompt.prompt_id, pool, index, current.recipe.seed)
        sampling = sampling_params(teacher.sampling, request.seed)
        params = SamplingParams(**sampling, output_kind=RequestOutputKind.FINAL_ONLY)
        tokens = {"prompt_token_ids": prompt_of(pool, prompt.problem).tokens}
        async for output in engine.generate(tokens, params, request_id=request.trace_id):
            last = output
        return last

    begun = time.monotonic()
    jobs = [answer(prompt, index) for prompt in read_prompts(current.run_dir).values() for index in range(NUM_SAMPLES)]
    outputs = await asyncio.gather(*jobs)
    busy_s = time.monotonic() - begun
    engine.shutdown()
    prompted = sum(len(output.prompt_token_ids) for output in outputs)
    cached = sum(output.num_cached_tokens or 0 for output in outputs)
    return Speed(sum(len(output.outputs[0].token_ids) for output in outputs), busy_s, start_s, cached / prompted)


def direct_in_own_process(
    folder: Path, num_prompts: int, *, lone_worker: bool = True, extra: Mapping[str, Any] | None = None
) -> Speed:
    """`direct`, with the environment that our engines get.

    Args:
        folder: the run, whose prompts are asked.
        num_prompts: how many there are.
        lone_worker: the model in the core process, too.
        extra: engine arguments beside ours; `threads`, `malloc` and `plugins` go into the environment.
    """
    changes = dict(extra or {})
    environment = {**os.environ, **engine_env("cpu", str(folder), changes.pop("threads", None))}
    if (plugins := changes.pop("plugins", None)) is not None:
        environment["VLLM_PLUGINS"] = plugins
    if malloc := changes.pop("malloc", None):
        environment["LD_PRELOAD"] = library_path(malloc)
    if lone_worker:
        environment |= single_worker_env("cpu", 1)
    command = [
        *("nice", "-n", str(WORKER_NICENESS)),
        sys.executable,
        "-m",
        "tests.benchmarks.generate",
        "--direct",
        str(folder),
        "--prompts",
        str(num_prompts),
        "--extra",
        json.dumps(changes),
    ]
    result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return Speed(**json.loads(result.stdout.splitlines()[-1]))


def library_path(name: str) -> str:
    """Where the loader finds a library; empty where it does not."""
    listed = subprocess.run(["/sbin/ldconfig", "-p"], stdout=subprocess.PIPE, text=True, check=True).stdout
    return next((line.split()[-1] for line in listed.splitlines() if f"lib{name}" in line), "")


def sweep(folder: Path, num_prompts: int) -> None:
    """Print the speed of every change beside today's arguments, and the JSON line."""
    with ExitStack() as resources:
        prompts_stage(build_run(folder, num_prompts, resources))
    found: dict[str, float] = {}
    for changes in SWEEP:
        if "malloc" in changes and not library_path(changes["malloc"]):
            print(f"        {changes}: not on this machine", flush=True)
            continue
        side = direct_in_own_process(folder, num_prompts, extra=changes)
        found[json.dumps(changes)] = round(side.tokens_per_s, 1)
        ratio = side.tokens_per_s / found["{}"]
        about = f"{side.tokens_per_s:.1f} tokens/s, prefix cache hits {side.prefix_cache_hits:.1%}"
        print(f"{ratio:6.3f}  {changes or 'as it is'}: {about}, start-up {side.start_s:.1f} s", flush=True)
    print(json.dumps(found))


def main() -> None:
    """Print both sides and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=256, metavar="N")
    parser.add_argument("--sweep", action="store_true", help="try engine arguments one after another")
    parser.add_argument("--direct", metavar="DIR", help=argparse.SUPPRESS)
    parser.add_argument("--extra", type=json.loads, default={}, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.direct:
        print(json.dumps(direct(Path(arguments.direct), arguments.prompts, arguments.extra)._asdict()))
        return
    with tempfile.TemporaryDirectory() as folder:
        if arguments.sweep:
            sweep(Path(folder), arguments.prompts)
            return
        mine = ours(Path(folder), arguments.prompts)
        peers = {
            "asyncllm": direct_in_own_process(Path(folder), arguments.prompts, lone_worker=False, extra=NO_PLUGINS),
            "asyncllm_vllm_sampling": direct_in_own_process(Path(folder), arguments.prompts, extra=NO_PLUGINS),
            "asyncllm_lone_worker": direct_in_own_process(Path(folder), arguments.prompts),
            "before": direct_in_own_process(Path(folder), arguments.prompts, extra=BEFORE),
        }
    ratios = {name: mine.tokens_per_s / peer.tokens_per_s for name, peer in peers.items()}
    sides = {"ours": mine, **peers}
    for name, side in sides.items():
        print(
            f"{ratios.get(name, 1.0):6.3f}  {name}: {side.tokens_per_s:.1f} tokens/s, start-up {side.start_s:.1f} s, "
            f"prefix cache hits {side.prefix_cache_hits:.1%}"
        )
    told = {f"ratio_vs_{name}": round(ratio, 3) for name, ratio in ratios.items()}
    print(json.dumps(told | {name: side._asdict() for name, side in sides.items()}))


if __name__ == "__main__":
    main()
