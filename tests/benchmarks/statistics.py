"""The report's tests and intervals, and the sentence of power, against simulated students of known truth.

    python -m tests.benchmarks.statistics [--trials N] [--seeds N,N,...]

Students are simulated with the spread that `distill plan` assumes (tests/fixtures/outcomes.py). `wrong`: two arms that
are equally good are called different at the 5 % level; `covered`: the interval of a difference of 5 points, and of one
arm, covers the truth; `found`: a difference that `distill plan` says can be shown is shown, of two arms, and of an arm
of a question against both that it must beat, corrected over three candidates. `sizes`: the arms are one mix at several
sizes, which solve the same problems more than other arms do. The last line is a JSON object; goals: wrong 5 % +- 1,
covered 95 % +- 1, found at least 80 %.
"""

import argparse
import json
import multiprocessing
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from distill.config.question import Candidate
from distill.evaluate import statistics
from distill.evaluate.power import ALPHA, CAUTIOUS, planned_difference, planned_terms
from distill.evaluate.statistics import (
    accuracy_interval,
    macro_interval,
)
from distill.evaluate.variance import Shares
from distill.report.question import candidate_results
from tests.fixtures.outcomes import compared, difference, simulated_arms

TRUE_DIFFERENCE = 0.05
NUM_CANDIDATES = 3
SIZES_ALIKE = 0.7
"""Share of an arm's own part that sizes of one mix have in common."""


class Design(NamedTuple):
    """What is simulated."""

    seeds: int
    problems: tuple[int, ...]
    is_sizes: bool

    @property
    def words(self) -> str:
        """For a line of the table."""
        kind = ", sizes" if self.is_sizes else ""
        return f"{self.seeds} seeds, {' + '.join(map(str, self.problems))} problems{kind}"


class Found(NamedTuple):
    """Shares of the trials."""

    wrong: float
    difference_covered: float
    arm_covered: float
    difference_found: float
    question_wrong: float
    question_found: float


def measure(design: Design, trials: int, seed: int) -> Found:
    """Simulate a design `trials` times."""
    rng, counts = np.random.default_rng(seed), np.zeros(len(Found._fields))
    statistics.NUM_FLIPS = 2000  # enough to tell p = 0.05
    alike = SIZES_ALIKE if design.is_sizes else 0.0
    terms = planned_terms(design.problems, design.seeds, CAUTIOUS)
    gain, lead = planned_difference(terms), planned_difference(terms, 2, NUM_CANDIDATES)

    def arms(*means: float) -> list[list[Shares]]:
        return simulated_arms(rng, means, design.problems, design.seeds, alike=alike)

    for _ in range(trials):
        same, other, better = arms(0.475, 0.475, 0.475 + TRUE_DIFFERENCE)
        low, high = arms(0.5 - gain / 2, 0.5 + gain / 2)
        of_arm = accuracy_interval(same[0]) if len(same) == 1 else macro_interval(same)
        counts += (
            difference(same, other, rng).p_value < ALPHA,
            difference(better, same, rng).interval.covers(TRUE_DIFFERENCE),
            of_arm.covers(0.475),
            difference(high, low, rng).p_value < ALPHA,
            "better" in verdicts(arms(0.5, 0.5, 0.5, 0.5, 0.5 - lead), rng),
            verdicts(arms(0.5 + lead / 2, *[0.5 - lead / 2] * 4), rng)[0] == "better",
        )
    return Found(*(counts / trials))


def verdicts(arms: Sequence[list[Shares]], rng: np.random.Generator) -> list[str]:
    """The report's verdict on each of three candidates, which must beat the last two arms."""
    *hoped, short, long = arms
    found = [
        (
            "student",
            Candidate(f"arm-{number}", ("short", "long")),
            tuple(compared(difference(one, other, rng)) for other in (short, long)),
        )
        for number, one in enumerate(hoped)
    ]
    return [one.verdict for one in candidate_results(found)]


def main() -> None:
    """`python -m tests.benchmarks.statistics`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=4000)
    parser.add_argument("--seeds", default="1,2,3,5,8", type=lambda text: tuple(map(int, text.split(","))))
    arguments = parser.parse_args()
    designs = [
        Design(seeds, problems, is_sizes)
        for problems, is_sizes in (((200,), False), ((60, 150), False), ((200,), True))
        for seeds in arguments.seeds
    ]
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        results = pool.starmap(measure, [(design, arguments.trials, 7 + n) for n, design in enumerate(designs)], 1)
    print(f"{'design':38} {'  '.join(Found._fields)}")
    for design, found in zip(designs, results, strict=True):
        print(f"{design.words:38} " + "  ".join(f"{value:{len(name)}.1%}" for name, value in found._asdict().items()))
    print(json.dumps({design.words: found._asdict() for design, found in zip(designs, results, strict=True)}))


if __name__ == "__main__":
    main()
