"""Rewards of a round's answers, and when a round is a reason to stop. Pure.

An answer's reward is the verifier's word on it. ERROR means "could not tell" and is no reward, not a reward of 0: such
answers are left out, as are those that the token limit cut, of which nobody knows how they would have ended.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile

from distill.config.objectives import Reinforce
from distill.core.schema import Verdict
from distill.train.rollouts.figures import CUT_WARNING

SAME = 1e-9
"""Advantages up to this are rounding: the answers to the prompt have the same reward."""
CONSTANT_ROUNDS, CONSTANT_PROMPTS = 3, 64
"""A training stops after so many rounds, with so many prompts together, without any difference in reward. Few prompts
are often solved always or never by a student that still learns."""


# Producer: the engine's actor. Consumers: the training process, and who looks at a round.
@dataclass(frozen=True)
class OwnAnswer:
    """What a student wrote to a prompt in a round, with the verdict on it."""

    answer_id: str
    trace_id: str
    """Of the arm's row whose prompt it answers."""
    tokens: list[int]
    """With the one that ends the turn where it is finished."""
    text: str
    is_finished: bool
    """Not cut at the token limit."""
    verdict: str

    @property
    def is_usable(self) -> bool:
        """Whether it has a reward."""
        return self.is_finished and self.verdict != Verdict.ERROR


def reward(objective: Reinforce, answer: OwnAnswer) -> float:
    """Of a usable answer: 1 for a right one less what its length costs, and what an answer in the asked form gets."""
    levels = objective.length_levels
    exceeded = sum(len(answer.tokens) > level for level in levels) / max(1, len(levels))
    right = 1.0 - objective.length_cost * exceeded if answer.verdict == Verdict.CORRECT else 0.0
    return right + (objective.format_reward if answer.verdict != Verdict.NO_ANSWER else 0.0)


def advantages(objective: Reinforce, answers: Sequence[OwnAnswer]) -> dict[str, float]:
    """Usable answer -> its reward less the mean of the usable answers to the same prompt."""
    groups: dict[str, dict[str, float]] = {}
    for one in answers:
        if one.is_usable:
            groups.setdefault(one.trace_id, {})[one.answer_id] = reward(objective, one)
    return {
        name: value - sum(group.values()) / len(group) for group in groups.values() for name, value in group.items()
    }


def round_figures(objective: Reinforce, answers: Sequence[OwnAnswer]) -> dict[str, float]:
    """What is measured of a round: answers, those that are left out by reason, mean reward (of the usable), share of
    right answers (of all), mean length (tokens), and prompts whose answers differ in reward."""
    usable = [one for one in answers if one.is_usable]
    found = advantages(objective, answers)
    moved = {one.trace_id for one in usable if abs(found[one.answer_id]) > SAME}
    return {
        "answers": len(answers),
        "cut": sum(not one.is_finished for one in answers),
        "errors": sum(one.is_finished and one.verdict == Verdict.ERROR for one in answers),
        "empty": sum(not one.text.strip() for one in answers),
        "tokens": sum(len(one.tokens) for one in answers),
        "mean_tokens": sum(len(one.tokens) for one in answers) / max(1, len(answers)),
        "right": sum(one.verdict == Verdict.CORRECT for one in answers) / max(1, len(answers)),
        "reward": sum(reward(objective, one) for one in usable) / max(1, len(usable)),
        "prompts": len({one.trace_id for one in answers}),
        "prompts_that_differ": len(moved),
    }


def round_fault(rounds: Sequence[Mapping[str, float]]) -> str:
    """Why a training should stop after its newest round; empty where it should not.

    `rounds`: figures, the newest last.
    """
    last = rounds[-1]
    if last["empty"] == last["answers"]:
        return "the student writes nothing: every answer of the round is empty"
    left_out = last["cut"] + last["errors"]
    if left_out == last["answers"]:
        return (
            f"no answer of the round has a reward: {last['cut']:g} were cut at objective.max_tokens, "
            f"{last['errors']:g} could not be graded"
        )
    same = list(takewhile(lambda one: not one["prompts_that_differ"], reversed(rounds)))
    if _are_enough(same):
        prompts = sum(one["prompts"] for one in same)
        values = ", ".join(f"{one['reward']:.2f}" for one in same[CONSTANT_ROUNDS - 1 :: -1])
        return (
            f"the reward is constant: in {len(same)} rounds none of {prompts:g} prompts had answers that differ in it "
            f"(means at last {values}), so that nothing is learnt; take harder or easier prompts, or more "
            "objective.samples"
        )
    return ""


def is_told(rounds: Sequence[Mapping[str, float]]) -> bool:
    """Whether so many of the newest rounds, in any order, tell whether the reward is constant: no earlier ones could
    change it."""
    return _are_enough(rounds) or any(one["prompts_that_differ"] for one in rounds)


def _are_enough(rounds: Sequence[Mapping[str, float]]) -> bool:
    """To call their reward constant, where it is."""
    return len(rounds) >= CONSTANT_ROUNDS and sum(one["prompts"] for one in rounds) >= CONSTANT_PROMPTS


def round_words(figures: Mapping[str, float]) -> str:
    """A round in a line, for the log; a warning where much of it is left out."""
    cut = figures["cut"] / max(1.0, figures["answers"])
    left_out = f"; warning: {cut:.0%} of the answers were cut at objective.max_tokens" if cut > CUT_WARNING else ""
    return (
        f"{figures['answers']} answers of {figures['mean_tokens']:.0f} tokens, {figures['right']:.0%} right, "
        f"{figures['errors']} not graded, mean reward {figures['reward']:.3f}, {figures['prompts_that_differ']} of "
        f"{figures['prompts']} prompts differ{left_out}"
    )
