"""Seeded sampling: the right distribution, from the own generator only, and never a word without probability."""

import pytest
import torch

from serve.engines.cpu_sampling import drawn


def generators(*seeds: int) -> dict[int, torch.Generator]:
    return {row: torch.Generator().manual_seed(seed) for row, seed in enumerate(seeds)}


def test_words_come_as_often_as_they_are_probable() -> None:
    torch.manual_seed(0)
    probabilities = torch.tensor([0.0, 0.5, 0.0, 0.3, 0.2, 0.0])
    seeded = generators(*range(100))
    counts = torch.zeros(6)
    for _ in range(200):
        counts += torch.bincount(drawn(probabilities.repeat(100, 1), seeded), minlength=6)
    assert counts[[0, 2, 5]].sum() == 0
    expected = 20_000 * probabilities[[1, 3, 4]]
    chi_square = ((counts[[1, 3, 4]] - expected) ** 2 / expected).sum()
    assert chi_square < 13.8  # 0.1 % of two degrees of freedom


def test_a_row_depends_on_its_own_generator_only() -> None:
    probabilities = torch.rand(3, 50_000, generator=torch.Generator().manual_seed(1))
    together = drawn(probabilities, generators(5, 6, 7))
    alone = drawn(probabilities[1:2], generators(6))
    assert together[1] == alone[0]
    assert len(set(together.tolist())) == 3
    torch.manual_seed(3)
    with_others = drawn(probabilities, {1: torch.Generator().manual_seed(6)})
    assert with_others[1] == alone[0]


def test_the_last_number_below_one_draws_the_last_word_with_probability(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "rand", lambda *_, **__: torch.tensor([1 - 2.0**-53], dtype=torch.float64))
    assert drawn(torch.tensor([[0.7, 0.3, 0.0, 0.0]]), {}).tolist() == [1]


@pytest.mark.parametrize("words", [7, 1024, 1025, 5000])
def test_the_word_is_that_of_the_cumulative_sum_whatever_the_size_of_the_vocabulary(words: int) -> None:
    probabilities = torch.rand(200, words, generator=torch.Generator().manual_seed(1))
    probabilities[:, words // 3 : words // 2] = 0.0
    cumulative = probabilities.double().cumsum(-1)
    uniform = torch.stack(
        [torch.rand((), generator=one, dtype=torch.float64) for one in generators(*range(200)).values()]
    )
    expected = (cumulative <= (uniform * cumulative[:, -1])[:, None]).sum(-1)
    assert drawn(probabilities, generators(*range(200))).tolist() == expected.tolist()
