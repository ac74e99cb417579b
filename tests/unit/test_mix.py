"""The mix: exact counts, one trace per prompt, common prompts only, nested selection, same prompts in every arm."""

import pytest

from distill.config import MixConfig
from distill.config_teachers import ChatFormat
from distill.errors import StageError
from distill.mix import assign, candidates, common_prompts, largest_remainder, mix_details, select, to_example
from distill.schema import IndexRow, Prompt


def row(prompt: str, pool: str, sample: int = 0, verdict: str = "CORRECT", finish: str = "stop") -> IndexRow:
    return IndexRow(
        trace_id=f"{prompt}/{pool}/{sample}",
        prompt_id=prompt,
        pool=pool,
        style="long" if pool == "long" else "short",
        fingerprint="f",
        sample_index=sample,
        verdict=verdict,
        rule="exact",
        prompt_tokens=10,
        completion_tokens=30 if pool == "long" else 10,
        finish_reason=finish,
    )


def full_index(num_prompts: int) -> list[IndexRow]:
    return [
        row(f"p{number}", pool, sample)
        for number in range(num_prompts)
        for pool in ("long", "short")
        for sample in (0, 1)
    ]


MIXES = (
    MixConfig(name="long", weights={"long": 1.0}),
    MixConfig(name="short", weights={"short": 1.0}),
    MixConfig(name="mix", weights={"long": 0.2, "short": 0.8}),
)


@pytest.mark.parametrize("total", [0, 1, 7, 10, 4999])
@pytest.mark.parametrize("weight", [0.0, 0.1, 0.2, 1 / 3, 0.5, 1.0])
def test_counts_are_exact(total: int, weight: float) -> None:
    counts = largest_remainder({"long": weight, "short": 1 - weight}, total)
    assert sum(counts.values()) == total
    assert abs(counts["long"] - weight * total) < 1


def test_every_arm_has_the_same_prompts_once_and_the_asked_share() -> None:
    chosen = select(candidates(full_index(50), 0), MIXES, 0)
    prompts = [[one.prompt_id for one in rows] for rows in chosen.values()]
    assert prompts[0] == prompts[1] == prompts[2]
    assert len(set(prompts[0])) == 50
    assert sum(one.pool == "long" for one in chosen["mix"]) == 10


def test_only_prompts_that_every_pool_solved_are_used() -> None:
    index = [row("a", "long"), row("a", "short"), row("b", "long"), row("b", "short", verdict="INCORRECT")]
    assert common_prompts(candidates(index, 0), ["long", "short"]) == ["a"]


def test_a_trace_cut_by_the_token_limit_stands_for_no_pool() -> None:
    index = [row("a", "long", finish="length"), row("a", "short")]
    assert common_prompts(candidates(index, 0), ["long", "short"]) == []


def test_selection_is_nested_and_independent_of_row_order() -> None:
    prompts = [f"p{number}" for number in range(40)]
    few, many = (assign(prompts, {"long": weight, "short": 1 - weight}, 3) for weight in (0.2, 0.5))
    long_few = {prompt for prompt, pool in few.items() if pool == "long"}
    long_many = {prompt for prompt, pool in many.items() if pool == "long"}
    assert long_few < long_many
    assert assign(prompts[::-1], {"short": 0.8, "long": 0.2}, 3) == few
    forward, backward = (select(candidates(rows, 5), MIXES, 5) for rows in (full_index(9), full_index(9)[::-1]))
    assert forward == backward


def test_no_survivor_names_the_numbers() -> None:
    index = [row("a", "long"), row("b", "short")]
    with pytest.raises(StageError, match="prompts solved: long 1, short 1"):
        select(candidates(index, 0), MIXES, 0)


def test_details_tell_the_share_by_tokens_too() -> None:
    details = mix_details(MIXES[2], select(candidates(full_index(10), 0), MIXES, 0)["mix"])
    assert details["realised_rows"] == {"long": 0.2, "short": 0.8}
    assert details["realised_tokens"]["long"] == pytest.approx(60 / 140)


def test_an_example_is_the_students_own_format_around_the_teachers_completion() -> None:
    prompt = Prompt("a", "1 + 1?", "2", "number", "s", "", "", "")
    example = to_example(
        row("a", "long"), "mix", prompt, " It is 2. ", ChatFormat(system="Be brief.", template="Q: {problem}")
    )
    assert [(turn.role, turn.content) for turn in example.messages] == [
        ("system", "Be brief."),
        ("user", "Q: 1 + 1?"),
        ("assistant", "It is 2."),
    ]
