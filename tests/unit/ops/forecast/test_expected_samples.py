"""Traces that asking until solved will write."""

import pytest

from distill.ops.forecast.expected_samples import expected_samples


def test_asking_matches_a_simulation() -> None:
    import random

    chance, traces, solved = random.Random(0), 0, 0
    for _ in range(20_000):
        done = right = 0
        while done < 4 and right < 2:
            done, right = done + 1, right + (chance.random() < 0.4)
        traces, solved = traces + done, solved + (right > 0)
    expected = expected_samples(0.4, 4, 2, stop_early=True)
    assert expected.traces == pytest.approx(traces / 20_000, rel=0.01)
    assert expected.solved == pytest.approx(solved / 20_000, rel=0.01)
