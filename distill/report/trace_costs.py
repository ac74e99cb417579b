"""What a verified trace costs, and what a prompt costs that all pools solved: by teacher, and by the prompts' level."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from distill.config.asking_order import price as price_of
from distill.config.recipe import Recipe
from distill.config.teachers import AskedTeacher, TeacherConfig
from distill.core.manifest import Manifest
from distill.core.run_dir import PROMPTS, RunDir
from distill.core.schema import Prompt, Verdict
from distill.report.groups import listed_groups
from distill.report.pools import Traces, common_prompts
from distill.report.score_data import TraceCost


def read_levels(run_dir: RunDir) -> dict[str, str]:
    """Training prompt -> level."""
    table = run_dir.read_table(*PROMPTS, row_type=Prompt, columns=("prompt_id", "level"))
    return dict(zip(table["prompt_id"].to_pylist(), table["level"].to_pylist(), strict=True))


def trace_costs(
    recipe: Recipe, traces: Traces, levels: Mapping[str, str], generate: Manifest | None
) -> list[TraceCost]:
    """A line per teacher and one for all, then the same within every level that is listed.

    Tokens are completion tokens, those of wrong traces included: a verified trace costs all that was written for it.

    Args:
        recipe: names the teachers, their prices and the pools that must all solve a prompt.
        traces: all that were written and graded.
        levels: training prompt -> level.
        generate: the stage's manifest; it records the time of the engines.
    """
    if not len(traces.tokens):
        return []
    common = common_prompts(recipe, traces)
    engine_s = _engine_s(recipe, generate)
    everything = np.ones(len(traces.tokens), dtype=np.bool_)
    found = list(_lines(recipe.teachers, traces, "", everything, len(common), engine_s))
    of_trace = np.asarray([levels.get(prompt, "") for prompt in traces.prompt_ids.tolist()], dtype=np.str_)
    for level in listed_groups(levels.values()):
        num_common = sum(levels.get(prompt) == level for prompt in common)
        found += _lines(recipe.teachers, traces, level, of_trace == level, num_common, None)
    return found


def _engine_s(recipe: Recipe, generate: Manifest | None) -> float | None:
    """Seconds in which engines wrote the traces; None unless one session wrote all of them, which is what is timed."""
    details = generate.details if generate else {}
    asked = [teacher.name for teacher in recipe.teachers if isinstance(teacher, AskedTeacher)]
    pools = details.get("pools", {})
    on_disk = sum(pools.get(name, {}).get("completion_tokens", 0) for name in asked)
    is_whole = bool(on_disk) and details.get("this_session", {}).get("tokens") == on_disk
    return float(details["busy_s"]) if is_whole and details.get("busy_s") else None


def _lines(
    teachers: Sequence[TeacherConfig],
    traces: Traces,
    level: str,
    is_inside: NDArray[np.bool_],
    num_common: int,
    engine_s: float | None,
) -> Iterator[TraceCost]:
    """A line per teacher with traces, and one for all of them together."""
    present = [teacher for teacher in teachers if (is_inside & (traces.pools == teacher.name)).any()]
    asked = [teacher for teacher in present if isinstance(teacher, AskedTeacher)]
    for teacher in present:
        # Engines may work at once: their time belongs to one teacher only where no other was asked.
        own_s = engine_s if asked == [teacher] else None
        mine = is_inside & (traces.pools == teacher.name)
        yield _line(teacher.name, level, traces, mine, num_common, own_s, _usd(teacher, traces, mine))
    if len(present) > 1:
        paid = [_usd(teacher, traces, is_inside & (traces.pools == teacher.name)) for teacher in asked]
        known = [usd for usd in paid if usd is not None]
        total = sum(known) if known and len(known) == len(paid) else None
        yield _line("", level, traces, is_inside, num_common, engine_s, total)


def _usd(teacher: TeacherConfig, traces: Traces, mine: NDArray[np.bool_]) -> float | None:
    """None where no price is set."""
    price = price_of(teacher)
    return int(traces.tokens[mine].sum()) / 1e6 * price if price else None


def _line(
    pool: str,
    level: str,
    traces: Traces,
    mine: NDArray[np.bool_],
    num_common: int,
    engine_s: float | None,
    usd: float | None,
) -> TraceCost:
    verified = int(((traces.verdicts == Verdict.CORRECT.value) & ~traces.is_dropped)[mine].sum())
    tokens = int(traces.tokens[mine].sum())
    return TraceCost(
        pool=pool,
        level=level,
        traces=int(mine.sum()),
        verified=verified,
        tokens=tokens,
        common_prompts=num_common,
        tokens_per_verified=_per(tokens, verified),
        engine_s_per_verified=_per(engine_s, verified),
        usd_per_verified=_per(usd, verified),
        tokens_per_common=_per(tokens, num_common),
        engine_s_per_common=_per(engine_s, num_common),
        usd_per_common=_per(usd, num_common),
    )


def _per(amount: float | None, count: int) -> float | None:
    return None if amount is None or not count else amount / count
