"""The mix stage on a run directory: files that do not depend on shards, filters that count, errors with numbers."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from distill.config.recipe import Recipe
from distill.core.errors import InputError, StageError
from distill.core.manifest import Manifest
from distill.core.schema import Example, IndexRow, Prompt, Trace, content_hash
from distill.mix import text_buckets
from distill.mix.accounting import NO_SOURCE, RESERVED
from distill.mix.reasoning_marks import check_marks, unmarked_arms
from distill.mix.stage import mix_stage
from distill.mix.trace_fates import HELD_OUT as FATE_OF_HELD_OUT
from distill.mix.trace_fates import find_traces
from distill.run.context import RunContext
from tests.fixtures.byte_tokenizer import tokenizer
from tests.fixtures.mix_run import MODES, RECIPE, make_run, prompt, trace

POOLS = ("long", "short")
TRACES = [trace(number, pool, sample) for number in range(20) for pool in POOLS for sample in (0, 1)]


def files(run: RunContext) -> dict[str, bytes]:
    names = [mix.name for mix in run.recipe.mixes]
    return {name: run.run_dir.local_path("mix", f"{name}.parquet").read_bytes() for name in names}


def rows(run: RunContext, mix: str) -> list[dict[str, Any]]:
    return list(run.run_dir.read_table("mix", f"{mix}.parquet", row_type=Example).to_pylist())


def with_filters(**filters: Any) -> Any:
    return lambda raw: raw | {"filters": filters}


def mixed(folder: Path, traces: list[Any], **options: Any) -> tuple[RunContext, Manifest]:
    run = make_run(folder, traces, num_prompts=20, **options)
    return run, mix_stage(run)


def test_the_same_seed_gives_the_same_bytes_whatever_the_shards(tmp_path: Path) -> None:
    one, manifest = mixed(tmp_path / "a", TRACES)
    many, other = mixed(tmp_path / "b", TRACES[::-1], shards=5)
    assert files(one) == files(many)
    assert manifest.details == other.details
    assert (manifest.rows_in, manifest.rows_out) == (20, 20)
    assert sum(one["pool"] == "long" for one in rows(many, "mix-long")) == 4


def test_a_student_sees_its_own_format_around_the_teachers_words(tmp_path: Path) -> None:
    run, _ = mixed(tmp_path, TRACES)
    found = {one["prompt_id"]: one for one in rows(run, "long")}[content_hash("p3")]
    sample = {content_hash("p3", "long", sample): sample for sample in (0, 1)}[found["trace_id"]]
    assert found["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": f"Q: {prompt(3).problem}"},
        {"role": "assistant", "content": trace(3, "long", sample).completion.strip()},
    ]


def test_every_filter_counts_what_it_leaves_out(tmp_path: Path) -> None:
    loop = "and again we say that it is so, " * 8
    bad = [
        trace(0, "long", 2, finish_reason="length"),
        trace(1, "long", 2, completion=loop),
        trace(2, "long", 2, completion="数学问题的答案是三 so it is 3"),
        trace(3, "long", 2, completion="Long words. " + " ".join(str(number) for number in range(200))),
        trace(4, "long", 2, completion=trace(4, "long", 0).completion.replace(" ", "  ")),
        trace(5, "long", 2, completion="6"),
        trace(6, "long", 2, completion="it is <|im_end|> 7"),
        trace(7, "long", 2, completion="  "),
        trace(8, "long", 2, verdict="INCORRECT"),
    ]
    _, manifest = mixed(tmp_path, [*TRACES, *bad], change=with_filters(min_tokens=5))
    assert manifest.details["traces"]["long"] == {
        "usable": 40,
        "cut by the token limit": 1,
        "no_completion": 1,
        "end_of_turn_inside": 1,
        "too long for a student": 1,
        "fewer than filters.min_tokens": 1,
        "repetition": 1,
        "foreign script": 1,
        "duplicate": 1,
    }
    assert manifest.details["traces"]["short"] == {"usable": 40}
    assert manifest.rows_out == 20


TOO_LONG = [
    *(trace(number, "long", completion=" ".join(str(one) for one in range(200))) for number in (0, 1, 2)),
    *(trace(number, "long") for number in range(3, 20)),
    *(trace(number, "short") for number in range(20)),
]


def as_edits(run: RunContext, **changes: Any) -> None:
    """Changes columns of the verify stage's index, for the traces of `long`."""
    table = run.run_dir.read_table("verify", "verdicts.parquet", row_type=IndexRow).to_pylist()
    index = [IndexRow(**(row | (changes if row["pool"] == "long" else {}))) for row in table]
    run.run_dir.write_rows(index, IndexRow, "verify", "verdicts.parquet")


def test_edits_that_are_dropped_are_used_by_no_arm_and_counted(tmp_path: Path) -> None:
    run = make_run(tmp_path, TRACES, num_prompts=20)
    as_edits(run, drop="not shorter than its source")
    with pytest.raises(StageError, match="long 40 not shorter than its source"):
        mix_stage(run)


@pytest.mark.parametrize(("teach", "given"), [(None, 0), ("suffix", 5)])
def test_a_student_learns_what_was_read_unless_the_teacher_says_otherwise(
    tmp_path: Path, teach: str | None, given: int
) -> None:
    def reading(raw: dict[str, Any]) -> dict[str, Any]:
        long, short = raw["teachers"]
        return raw | {"teachers": [long | {"reads": "short", "continues": "Wait,", "teach": teach}, short]}

    run = make_run(tmp_path, TRACES, num_prompts=20, change=reading)
    as_edits(run, given=5)
    digest = mix_stage(run).details["mixes"]["mix-long"]["digest"]
    assert {(row["pool"], row["given"]) for row in rows(run, "mix-long")} == {("long", given), ("short", 0)}
    plain = mix_stage(make_run(tmp_path / "plain", TRACES, num_prompts=20)).details["mixes"]["mix-long"]["digest"]
    assert (digest == plain) == (teach is None), "a cell is trained again where it learns something else"


def test_a_prompt_whose_trace_is_too_long_leaves_every_arm(tmp_path: Path) -> None:
    run, manifest = mixed(tmp_path, TOO_LONG)
    assert manifest.drops == {"filtered out in a pool": 3}
    assert {len(rows(run, name)) for name in ("long", "short", "mix-long")} == {17}


def test_a_prompt_whose_trace_is_too_long_can_be_routed_to_another_pool(tmp_path: Path) -> None:
    run, manifest = mixed(tmp_path, TOO_LONG, change=with_filters(too_long_takes="short"))
    assert {len(rows(run, name)) for name in ("long", "short", "mix-long")} == {20}
    assert manifest.details["mixes"]["long"]["routed"] == 3
    assert manifest.details["mixes"]["long"]["realised_rows"] == {"long": 0.85, "short": 0.15}
    routed = [one for one in rows(run, "long") if one["pool"] == "short"]
    assert {one["prompt_id"] for one in routed} == {content_hash(f"p{number}") for number in (0, 1, 2)}


def test_only_a_pool_whose_trace_is_too_long_takes_that_of_another(tmp_path: Path) -> None:
    unsolved = [trace(number, "long", verdict="INCORRECT") for number in (0, 1, 2)]
    longer = [trace(number, "short", 1, completion=TOO_LONG[0].completion) for number in (0, 1, 2)]
    traces = [*unsolved, *longer, *TOO_LONG[3:]]
    _, manifest = mixed(tmp_path, traces, change=with_filters(too_long_takes="short"))
    assert manifest.drops == {"not solved by every pool": 3}
    assert manifest.details["mixes"]["long"]["routed"] == 0


def test_of_a_trace_that_two_shards_hold_the_text_that_was_graded_is_taught(tmp_path: Path) -> None:
    run = make_run(tmp_path, TRACES, num_prompts=20)
    for shard in ("!first", "~last"):
        texts = [replace(one, completion=f"{one.completion} {shard}") for one in TRACES if one.pool == "long"]
        run.run_dir.write_rows(texts, Trace, "generate", "long-f", f"{shard}.parquet")
    mix_stage(run)
    assert {one["messages"][-1]["content"].split()[-1] for one in rows(run, "long")} == {"~last"}


def test_arms_that_are_asked_for_otherwise_have_other_digests(tmp_path: Path) -> None:
    arms = [RECIPE["mixes"][2], RECIPE["mixes"][2] | {"name": "tagged", "modes": MODES}]
    _, manifest = mixed(tmp_path, TRACES, change=lambda raw: raw | {"mixes": arms})
    plain, tagged = manifest.details["mixes"].values()
    assert plain["counts"] == tagged["counts"] and plain["digest"] != tagged["digest"]


def test_smaller_arms_hold_a_part_of_the_prompts_and_what_no_arm_teaches_is_counted(tmp_path: Path) -> None:
    sizes = {"long": 6, "short": 15, "mix-long": 15}

    def sized(raw: dict[str, Any]) -> dict[str, Any]:
        return raw | {"mixes": [mix | {"num_prompts": sizes[mix["name"]]} for mix in raw["mixes"]]}

    run, manifest = mixed(tmp_path, TRACES, change=sized)
    taught = {name: {one["prompt_id"] for one in rows(run, name)} for name in sizes}
    assert {name: len(found) for name, found in taught.items()} == sizes
    assert taught["long"] < taught["short"] == taught["mix-long"]
    assert sum(one["pool"] == "long" for one in rows(run, "mix-long")) == 3
    assert (manifest.rows_in, manifest.rows_out) == (20, 15)
    assert manifest.drops == {"more than any arm teaches": 5}
    assert manifest.details["common_prompts"] == 20
    with pytest.raises(StageError, match="num_prompts = 21, but only 20 prompts"):
        mixed(tmp_path / "more", TRACES, change=lambda raw: raw | {"mixes": [raw["mixes"][0] | {"num_prompts": 21}]})


def test_another_weight_reads_no_text_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, manifest = mixed(tmp_path, TRACES)
    monkeypatch.setattr("distill.mix.feature_store.trace_features", None)
    assert mix_stage(run).details == manifest.details


def test_tokens_are_counted_as_the_student_counts_them(tmp_path: Path) -> None:
    run, manifest = mixed(tmp_path, TRACES)
    letters = sum(len(one["messages"][-1]["content"]) + 1 for one in rows(run, "mix-long"))
    assert manifest.details["mixes"]["mix-long"]["tokens"] == letters


def test_an_arm_that_acts_on_the_end_of_reasoning_is_refused_where_no_trace_has_one(tmp_path: Path) -> None:
    arms = [{"of": ["s", "s@short", "s@again"], "budget": [8]}, {"of": "s@long", "think": False}]
    after = {"name": "again", "weights": {"short": 1.0}, "after": "short"}

    def change(raw: dict[str, Any]) -> dict[str, Any]:
        return raw | {"mixes": [*raw["mixes"], after], "evaluate": {"benchmarks": ["gsm8k"], "arms": arms}}

    thought = [
        trace(number, "long", 0, completion=f"<think>\n{number} and 1\n</think>\n\nIt is {number + 1}.")
        for number in range(20)
    ]
    plain = [trace(number, "short") for number in range(20)]
    with pytest.raises(InputError) as told:
        mixed(tmp_path, [*thought, *plain], change=change)
    assert "evaluate.arms[0].budget: no trace of s@short, s@again ends its reasoning with '</think>'" in str(told.value)
    assert "arms[1]" not in str(told.value)

    arms[:] = [{"of": "s@long", "share": {"model": "s@short", "share": 0.5}}]
    with pytest.raises(InputError, match=r"arms\[0\].share: no trace of s@short ends"):
        mixed(tmp_path / "helper", [*thought, *plain], change=change)

    run, arms[:] = make_run(tmp_path / "opened", [], num_prompts=20), [{"of": "s@short", "budget": [8]}]
    recipe = Recipe.model_validate(change(RECIPE))
    check_marks(recipe, {"short": {"reasoning_rows": 3}}, run.models)
    with pytest.raises(InputError, match="no trace of s@short"):
        check_marks(recipe, {"short": {"reasoning_rows": 0}}, run.models)
    opening = tokenizer()
    opening.chat_template += "{% if add_generation_prompt %}<think>{% endif %}"
    opening.save_pretrained(tmp_path / "opening")
    opened = {name: replace(one, path=str(tmp_path / "opening")) for name, one in run.models.items()}
    check_marks(recipe, {"short": {"reasoning_rows": 0}}, opened)


def test_which_students_reason_between_delimiters_follows_from_all_that_they_were_taught() -> None:
    mixes = [
        {"name": "plain", "weights": {"short": 1.0}},
        {"name": "marked", "weights": {"long": 1.0}},
        {"name": "later", "weights": {"short": 1.0}, "after": "marked"},
    ]
    merges = [{"name": "both", "of": ["plain", "marked"]}]
    recipe = Recipe.model_validate(RECIPE | {"mixes": mixes, "merges": merges})
    entries = {name: {"reasoning_rows": count} for name, count in (("plain", 0), ("marked", 3), ("later", 0))}
    assert unmarked_arms(recipe, entries) == {"plain"}
    assert unmarked_arms(recipe, {name: {"reasoning_rows": 0} for name in entries}) == {*entries, "both"}
    assert not unmarked_arms(recipe, {name: {} for name in entries}), "of an earlier version: not known"

    objective = {"kind": "reinforce", "samples": 2}
    own = [mixes[0], *({**mixes[0], "name": name, "objective": objective} | after for name, after in
           (("own", {}), ("own-later", {"after": "plain"})))]  # fmt: skip
    tuned = {"students": [{"name": "s", "model": "m", "tune": {"kind": "lora"}}]}
    steps = {"train": {"max_length": 400, "budget": "steps", "num_steps": 4, "unmatched": True}}
    recipe = Recipe.model_validate(RECIPE | tuned | steps | {"mixes": own})
    entries = {name: {"reasoning_rows": count} for name, count in (("plain", 0), ("own", 0), ("own-later", 3))}
    assert unmarked_arms(recipe, entries) == {"plain", "own-later"}, "traces that are not looked at teach nothing"


def test_an_arm_may_have_no_row_in_a_bucket_of_prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_buckets, "BUCKET_PROMPTS", 4)
    few = {"name": "few", "weights": {"short": 1.0}, "num_prompts": 2}
    run, manifest = mixed(tmp_path, TRACES, change=lambda raw: raw | {"mixes": [*raw["mixes"], few]})
    assert len(rows(run, "few")) == 2 and len(rows(run, "short")) == 20
    assert {entry["reasoning_rows"] for entry in manifest.details["mixes"].values()} == {0}


def test_strata_and_levels_come_from_the_prompts(tmp_path: Path) -> None:
    mixes = [
        {"name": "even", "weights": {"long": 0.25, "short": 0.75}, "stratify": ["level"]},
        {"name": "hard", "policy": "hard_gets_long", "weights": {"long": 0.2, "short": 0.8},
         "order": ["long", "short"], "hardness": "level"},
    ]  # fmt: skip
    run, _ = mixed(tmp_path, TRACES, change=lambda raw: raw | {"mixes": mixes})
    level = {content_hash(f"p{number}"): number % 5 for number in range(20)}
    even = [level[one["prompt_id"]] for one in rows(run, "even") if one["pool"] == "long"]
    assert sorted(even) == [0, 1, 2, 3, 4]
    assert [level[one["prompt_id"]] for one in rows(run, "hard") if one["pool"] == "long"] == [4] * 4


def test_no_common_prompt_names_the_numbers_before_anything_is_trained(tmp_path: Path) -> None:
    traces = [trace(number, POOLS[number % 2]) for number in range(5)]
    with pytest.raises(StageError, match=r"prompts with one: long 3, short 2"):
        mixed(tmp_path, traces)
    with pytest.raises(StageError, match=r"prompts with one: long 0, short 0"):
        mixed(tmp_path, [trace(1, "long", verdict="INCORRECT")])
    with pytest.raises(StageError, match="holds no trace"):
        mixed(tmp_path, [])


def test_a_missing_column_or_text_is_named(tmp_path: Path) -> None:
    run = make_run(tmp_path, TRACES, num_prompts=20)
    mix_stage(run)
    for pool in POOLS:
        run.run_dir.remove("generate", f"{pool}-f")
    with pytest.raises(StageError, match=r"the texts of 40 of 40 chosen traces are in no shard"):
        mix_stage(run)
    import pyarrow as pa

    run.run_dir.write_table(pa.table({"trace_id": ["x"], "pool": ["long"]}), "verify", "verdicts.parquet")
    with pytest.raises(StageError, match="lacks the columns prompt_id, style"):
        mix_stage(run)


def with_sources(raw: dict[str, Any]) -> dict[str, Any]:
    """The arms `long` and `mix-long` on sums, `short` on puzzles."""
    sources = {"long": ["sums"], "short": ["puzzles"], "mix-long": ["sums"]}
    return raw | {"mixes": [mix | {"sources": sources[mix["name"]]} for mix in raw["mixes"]]}


def sourced(folder: Path, traces: list[Any], **options: Any) -> tuple[RunContext, Manifest]:
    """Prompts 0 to 7 are puzzles, 8 to 17 sums, and two are of a source that no arm teaches."""
    run = make_run(folder, traces, num_prompts=20, change=with_sources, **options)
    names = ["puzzles"] * 8 + ["sums"] * 10 + ["rest"] * 2
    prompts = [replace(prompt(number), source=name) for number, name in enumerate(names)]
    run.run_dir.write_rows(prompts, Prompt, "prompts", "prompts.parquet")
    return run, mix_stage(run)


def test_arms_of_own_sources_teach_what_their_own_pools_solved(tmp_path: Path) -> None:
    traces = [one for one in TRACES if not (one.pool == "long" and one.prompt_id == content_hash("p0"))]
    run, manifest = sourced(tmp_path, traces)
    taught = {mix: {row["prompt_id"] for row in rows(run, mix)} for mix in ("long", "short", "mix-long")}
    sums, puzzles = ({content_hash(f"p{number}") for number in some} for some in (range(8, 18), range(8)))
    assert taught == {"long": sums, "mix-long": sums, "short": puzzles}, "the long pool need not solve the puzzles"
    assert (manifest.rows_in, manifest.rows_out, dict(manifest.drops)) == (20, 18, {NO_SOURCE: 2})
    assert manifest.details["common_prompts"] == 18
    assert [manifest.details["mixes"][mix]["common_prompts"] for mix in ("long", "short")] == [10, 8]
    assert "of sums: every arm teaches the same 10 prompts" in manifest.details["arms"]


def test_prompts_that_one_group_of_arms_holds_out_are_taught_by_none(tmp_path: Path) -> None:
    run = make_run(
        tmp_path, TRACES, num_prompts=20,
        change=lambda raw: raw | {
            "mixes": [raw["mixes"][0], raw["mixes"][1] | {"sources": ["s"]}],
            "train": {"max_length": 400, "held_out_prompts": 4},
        },
    )  # fmt: skip
    manifest = mix_stage(run)
    held = run.run_dir.read_table("mix", "held-out", row_type=Example).to_pylist()
    taught = {row["prompt_id"] for mix in ("long", "short") for row in rows(run, mix)}
    assert {row["pool"] for row in held} == {"long", "short"}
    assert not taught & {row["prompt_id"] for row in held}
    assert manifest.rows_out == 20 - len({row["prompt_id"] for row in held})
    assert manifest.drops == {RESERVED: 20 - manifest.rows_out}
    names = [one.trace_id for one in TRACES if one.prompt_id in {row["prompt_id"] for row in held}]
    assert {one["fate"] for one in find_traces(run.run_dir, names).values()} == {FATE_OF_HELD_OUT}
