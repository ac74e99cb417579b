"""Tokens per verified pair: early stopping against n samples of everything from every teacher, then filter.

    python -m tests.benchmarks.pairs [--real-prompts N] [--no-real] [--readers]

Simulated: the policy itself over solve rates recorded on MATH-500 by level for three pairs of teachers, every sample's
outcome fixed beforehand, so that both ways find the very same pairs. A level's problems either share its rate or
differ widely around it (Beta distribution, concentration 1); the worse of the two is reported. With `--readers` a third
teacher edits the traces of the dear one, and a prompt counts once it has an edit that is correct, too.
Real: the quickstart's teachers (SmolLM2-135M on vLLM) on its own prompts, both ways through the generate stage.
The last line is a JSON object; goal <= 0.6 for `token_ratio_real` and `token_ratio_simulated`.
"""

import argparse
import json
import random
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from rich.console import Console

from distill.config.load import find_recipe, load_recipe
from distill.config.mix import SingleMix
from distill.config.recipe import Recipe
from distill.config.teachers import ChatFormat, VllmTeacher
from distill.core.run_dir import RunDir
from distill.generate.ask_policy import AskPlan, PoolPlan, PoolState, edit_of, is_complete, next_samples
from distill.generate.stage import generate_stage
from distill.prompts.stage import prompts_stage
from distill.run.context import RunContext

LEVEL_SIZES = (43, 90, 105, 128, 134)
"""Problems of MATH-500 per level, 1 to 5."""

RATES: dict[str, tuple[float, ...]] = {
    "gemma-2-27b-it": (0.930, 0.822, 0.724, 0.469, 0.269),
    "Qwen2.5-14B-Instruct": (0.977, 0.922, 0.914, 0.812, 0.575),
    "Qwen2.5-Math-7B": (0.581, 0.633, 0.571, 0.523, 0.396),
    "Sky-T1-27B": (0.302, 0.422, 0.438, 0.344, 0.187),
}
"""Share of correct and finished traces by level, one sample per problem (the SkyThought project's released traces)."""

TOKENS: dict[str, tuple[int, ...]] = {
    "gemma-2-27b-it": (176, 227, 277, 334, 401),
    "Qwen2.5-14B-Instruct": (303, 360, 399, 606, 649),
    "Qwen2.5-Math-7B": (1369, 987, 1189, 1107, 1009),
    "Sky-T1-27B": (1290, 1378, 1709, 2052, 2445),
}
"""Mean length of the same traces, at 3.3 characters a token."""

PAIRS = (
    ("gemma-2-27b-it", "Sky-T1-27B"),
    ("Qwen2.5-14B-Instruct", "Sky-T1-27B"),
    ("gemma-2-27b-it", "Qwen2.5-Math-7B"),
)
EDIT_RATE, EDIT_TOKENS = 0.8, 0.5
"""Assumed of the reader: share of its edits of a correct trace that are correct, and their length over its length."""
NUM_SAMPLES = 4
EDITOR = "editor"
NUM_COPIES = 20
"""Each problem stands for as many with the same rate: the noise of the simulation falls under 1 %."""


class Cost(NamedTuple):
    """What a way of asking cost and found."""

    tokens: int
    pairs: int

    @property
    def per_pair(self) -> float:
        """Tokens per verified pair."""
        return self.tokens / max(1, self.pairs)


def simulate(pair: tuple[str, str], *, stop_early: bool, is_spread: bool, readers: bool = False) -> Cost:
    """Ask two teachers for all problems, the cheap one first, and with `readers` a third one that edits."""
    teachers = [PoolPlan(name, NUM_SAMPLES) for name in pair]
    edits = [PoolPlan(EDITOR, 1, reads=pair[1])] if readers else []
    names = [plan.name for plan in (*teachers, *edits)]
    plan = AskPlan((*teachers, *edits), (frozenset(names),), stop_early)
    tokens = pairs = 0
    for level, size in enumerate(LEVEL_SIZES):
        for problem in range(size * NUM_COPIES):
            draw = random.Random(f"{pair} {level} {problem}")
            outcomes = {name: _outcomes(draw, RATES[name][level], is_spread=is_spread) for name in pair}
            outcomes[EDITOR] = [draw.random() < EDIT_RATE for _ in range(NUM_SAMPLES)]
            states: dict[str, PoolState] = {}
            while wanted := next_samples(plan, states, names):
                for name, number in wanted:
                    index = int(edit_of(number)[0], 16) if name == EDITOR else number
                    tokens += round(EDIT_TOKENS * TOKENS[pair[1]][level]) if name == EDITOR else TOKENS[name][level]
                    is_correct = outcomes[name][index]
                    source = f"{'c' if is_correct else 'w'}{index:016x}"
                    states[name] = states.get(name, PoolState()).add(number, is_correct=is_correct, source=source)
            pairs += is_complete(plan, states)
    return Cost(tokens, pairs)


def _outcomes(draw: random.Random, rate: float, *, is_spread: bool) -> list[bool]:
    own = draw.betavariate(max(rate, 1e-3), max(1 - rate, 1e-3)) if is_spread else rate
    return [draw.random() < own for _ in range(NUM_SAMPLES)]


def simulated_ratios(*, readers: bool) -> dict[str, float]:
    """Teacher pair and kind of problems -> tokens per pair, early stopping over asking everything."""
    ratios = {}
    for pair in PAIRS:
        for is_spread in (False, True):
            early = simulate(pair, stop_early=True, is_spread=is_spread, readers=readers)
            full = simulate(pair, stop_early=False, is_spread=is_spread, readers=readers)
            assert early.pairs == full.pairs, "both ways must find the same pairs"
            kind = "spread" if is_spread else "equal"
            ratios[f"{pair[0]} + {pair[1]}, {kind}"] = round(early.per_pair / full.per_pair, 3)
    return ratios


def with_reader(recipe: Recipe) -> Recipe:
    """The recipe with a teacher that shortens what the long one wrote, on the same engine, and an arm of its traces."""
    short, long = recipe.teachers
    assert isinstance(short, VllmTeacher) and isinstance(long, VllmTeacher)
    pairs = zip(short.chat.examples, long.chat.examples, strict=True)
    examples = tuple(brief.model_copy(update={"trace": whole.completion}) for brief, whole in pairs)
    chat = ChatFormat(template="{trace}\n\nThe same in fewer words:", examples=examples)
    reads = {"name": EDITOR, "reads": "long", "num_samples": 1, "chat": chat}
    reader = short.model_copy(update=reads)
    arm = SingleMix(name=EDITOR, pool=EDITOR)
    return recipe.model_copy(update={"teachers": (*recipe.teachers, reader), "mixes": (*recipe.mixes, arm)})


def generate_real(folder: Path, num_prompts: int, *, stop_early: bool, readers: bool) -> Cost:
    """The quickstart's teachers on real engines."""
    overrides = [f"prompts.num_prompts={num_prompts}", f"generate.stop_early={str(stop_early).lower()}"]
    path = find_recipe("quickstart")
    with ExitStack() as resources:
        run_dir = RunDir(str(folder / ("early" if stop_early else "full")))
        recipe = load_recipe(path, overrides)
        recipe = with_reader(recipe) if readers else recipe
        current = RunContext(recipe, path.parent, run_dir, Console(), resources)
        prompts_stage(current)
        manifest = generate_stage(current)
    tokens = sum(pool["completion_tokens"] for pool in manifest.details["pools"].values())
    return Cost(tokens, manifest.details["complete_prompts"])


def main() -> None:
    """Print the table and the JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--real-prompts", type=int, default=96, metavar="N")
    parser.add_argument("--no-real", action="store_true", help="the simulation only")
    parser.add_argument("--readers", action="store_true", help="with a teacher that edits")
    arguments = parser.parse_args()
    ratios = simulated_ratios(readers=arguments.readers)
    result: dict[str, object] = {"token_ratio_simulated": max(ratios.values())}
    for name, ratio in ratios.items():
        print(f"{ratio:6.3f}  simulated: {name} (equal rates of a level, or spread)")
    if not arguments.no_real:
        with tempfile.TemporaryDirectory() as folder:
            early, full = (
                generate_real(Path(folder), arguments.real_prompts, stop_early=stop_early, readers=arguments.readers)
                for stop_early in (True, False)
            )
        ratio = round(early.per_pair / full.per_pair, 3)
        print(f"{ratio:6.3f}  real, 135M on {arguments.real_prompts} prompts: {early} against {full}")
        result = {"token_ratio_real": ratio, **result, "real_early": early._asdict(), "real_full": full._asdict()}
    print(json.dumps({**result, "simulated": ratios}))


if __name__ == "__main__":
    main()
