"""Which arms teach a student where its reasoning ends, and evaluation arms that need one which does.

The end of the reasoning is a text between delimiters. A student none of whose rows has one never writes it: a budget or
a cue would put a text into its mouth that it was not shown, and a forced sentence must not open a block.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from distill.config.arm_graph import arms_by_name, mixes_trained_before
from distill.config.eval_arms import NEED_MARKS
from distill.config.mix import Mix
from distill.config.objectives import Match, Reinforce
from distill.config.recipe import Recipe
from distill.core.errors import InputError, Problem
from distill.models.conversation import prompt_start
from distill.models.resolve import ResolvedModel
from distill.models.thinking import ENDS

REASONING_ROWS = "reasoning_rows"
"""Field of an arm's entry in the manifest: rows that reason between delimiters."""


def count_reasoning(completions: pa.Array, end: str) -> int:
    """Completions in which the reasoning ends: with `end`, or in the way of a published model."""
    has_end = pa.array([False] * len(completions), pa.bool_())
    for text in filter(None, {*ENDS, end}):
        has_end = pc.or_(has_end, pc.match_substring(completions, text))
    return int(pc.sum(has_end).as_py() or 0)


def unmarked_arms(recipe: Recipe, entries: Mapping[str, Mapping[str, Any]]) -> set[str]:
    """Mixes and merges none of whose rows reasons between delimiters, nor any row of what they start from.

    An arm that learns from its own answers is not shown the traces of its rows: it writes what it wrote before.

    `entries`: of the manifest by mix. An arm that has none, or one of an earlier version, is taken to reason.
    """
    arms, found = arms_by_name(recipe.mixes, recipe.merges), set[str]()
    for name, arm in arms.items():
        mixes = [*([arm] if isinstance(arm, Mix) else []), *mixes_trained_before(arm, arms)]
        shown = [mix for mix in mixes if not isinstance(mix.objective, Match | Reinforce)]
        if shown and all(entries.get(mix.name, {}).get(REASONING_ROWS) == 0 for mix in shown):
            found.add(name)
    return found


def check_marks(recipe: Recipe, entries: Mapping[str, Mapping[str, Any]], models: Mapping[str, ResolvedModel]) -> None:
    """Told when the rows are there, before any student is trained, and again when an evaluation arm is added later.

    Args:
        recipe: with its evaluation arms.
        entries: of the manifest by mix.
        models: of the students: one whose prompts open the reasoning is taught to end it in every row.

    Raises:
        InputError: an evaluation arm acts on the end of a reasoning that its student, or the helper whose reasoning it
            takes, was not taught.
    """
    if problems := list(_problems(recipe, entries, models)):
        raise InputError("\n".join(map(str, problems)))


def _problems(
    recipe: Recipe, entries: Mapping[str, Mapping[str, Any]], models: Mapping[str, ResolvedModel]
) -> Iterator[Problem]:
    unmarked, model_of = unmarked_arms(recipe, entries), {one.name: models[one.model] for one in recipe.students}

    def is_unmarked(name: str) -> bool:
        if _mix_of(name) not in unmarked:
            return False
        folder = str(model_of[name.partition("@")[0]].folder)
        return prompt_start(folder, recipe.student_chat).opened is None

    for number, arm in enumerate(recipe.evaluate.arms):
        asked = [*arm.answering, *([arm.share.model] if arm.share else [])]
        if arm.key in NEED_MARKS and (without := list(filter(is_unmarked, dict.fromkeys(asked)))):
            where = f"evaluate.arms[{arm.name or number}]"
            what = f"no trace of {', '.join(without)} ends its reasoning with {recipe.evaluate.reasoning_end!r}"
            remedy = (
                "take the arm out, or let the traces reason between delimiters (the worked examples of their teacher)"
            )
            yield Problem(f"{where}.{arm.key}", what, remedy)


def _mix_of(answering: str) -> str:
    """The mix or merge of `student@mix:mode`; empty for an untouched student, which may know delimiters of its own."""
    return answering.partition("@")[2].partition(":")[0]
