"""`distill eval`'s command line becomes a checked config, or all of its problems in one go."""

import json
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest

import distill.cli.evaluate
import distill.evaluate.score
from distill.cli.evaluate import endpoint_key, eval_config, eval_model
from distill.core.errors import ConfigError


def test_a_hub_id_becomes_a_name_that_can_be_served_and_filed() -> None:
    config = eval_config("Qwen/Qwen2.5-0.5B-Instruct", ["gsm8k", "svamp"], "", [])
    assert (config.name, config.model.sources) == ("Qwen2.5-0.5B-Instruct", ("Qwen/Qwen2.5-0.5B-Instruct",))
    assert eval_config("/models/my model/", ["gsm8k"], "", []).name == "my-model"
    assert eval_config("s3://bucket/.hidden", ["gsm8k"], "", []).name == "hidden"


def test_overrides_reach_sections_that_nobody_began() -> None:
    overrides = [
        "evaluate.sampling.max_tokens=99",
        "evaluate.repeated.aime24.num_samples=16",
        'benchmarks.mine.source={kind="file", path="mine.jsonl"}',
        "student_chat.system=Think.",
    ]
    config = eval_config("m", ["aime24", "mine"], "", overrides)
    assert config.evaluate.sampling.max_tokens == 99 and config.evaluate.repeated["aime24"].num_samples == 16
    assert config.student_chat.system == "Think." and "mine" in config.benchmarks


def test_an_endpoint_is_named_without_its_version() -> None:
    config = eval_config("org/model-7b", ["gsm8k"], "http://host:8000/v1/", [])
    assert (config.url, config.served_name, config.name) == ("http://host:8000", "org/model-7b", "model-7b")


REASONING_MODEL = [
    "token_limit_field=max_completion_tokens",
    'omit_sampling=["temperature", "top_p"]',
    'extra_body={ reasoning_effort = "high" }',
]


def test_an_endpoint_may_take_other_fields_and_what_changes_answers_is_another_model() -> None:
    def key(*overrides: str) -> str:
        return endpoint_key(eval_config("m", ["gsm8k"], "http://host", overrides))

    config = eval_config("m", ["gsm8k"], "http://host", [*REASONING_MODEL, "evaluate.num_samples=4"])
    assert (config.token_limit_field, config.omit_sampling) == ("max_completion_tokens", ("temperature", "top_p"))
    assert config.extra_body == {"reasoning_effort": "high"}
    assert key() == key(REASONING_MODEL[0])
    assert len({key(), key(REASONING_MODEL[1]), key(REASONING_MODEL[2])}) == 3
    assert key() == key("seed=5"), "the seed is part of the answers' key where they are sampled"
    assert key(REASONING_MODEL[1]) != key(REASONING_MODEL[1], "seed=5"), "sampled as the endpoint likes"


@pytest.mark.parametrize("override", REASONING_MODEL)
def test_fields_of_an_endpoint_need_one(override: str) -> None:
    with pytest.raises(ConfigError, match=f"{override.partition('=')[0]}: only for an endpoint"):
        eval_config("m", ["gsm8k"], "", [override])


def test_a_body_may_not_hold_what_requests_have() -> None:
    with pytest.raises(ConfigError, match="holds 'temperature', which requests have already"):
        eval_config("m", ["gsm8k"], "http://host", ["extra_body={ temperature = 1 }"])


def test_all_problems_are_reported_at_once() -> None:
    with pytest.raises(ConfigError) as caught:
        eval_config("m", ["gsm9k", "svamp"], "", ["evaluate.num_samples=4", "evaluate.repeated.aime24.num_samples=2"])
    said = str(caught.value)
    assert "'gsm9k'" in said and "gsm8k" in said and "'aime24'" in said and "num_samples 4" in said
    with pytest.raises(ConfigError, match=r"evaluate\.nonsense"):
        eval_config("m", ["gsm8k"], "", ["evaluate.nonsense=1"])


ANSWERS = {
    "en": "<think>\nLet me look at every option in turn.\n</think>\n\nThe answer is (B).",
    "zh": "<think>\nLet me look at every option in turn.\n</think>\n\n患者需要维生素B的治疗。",
}
SUITE = [
    "evaluate.suite=['choices']",
    *(
        f'benchmarks.levels-{code}={{suite=["choices"], source={{kind="file", path="{code}.jsonl", language="{code}", '
        'answer_kind="choice", columns={problem="question", reference="target", choices=["A", "B", "C"], '
        'level="category"}}}'
        for code in ANSWERS
    ),
]


def test_a_suite_of_choices_is_scored_by_level_and_language(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    for code in ANSWERS:
        rows = [
            {"question": f"{code} {n}?", "A": "x", "B": "y", "target": "AB"[n % 2], "category": n % 2 + 1}
            for n in range(6)
        ]
        (tmp_path / f"{code}.jsonl").write_text("\n".join(map(json.dumps, rows)))

    def complete(rows: Any, url: str, config: Any) -> Any:
        done = {"finish_reason": "stop", "prompt_tokens": 3, "completion_tokens": 5, "error": ""}
        answered = [row | done | {"completion": ANSWERS[row["benchmark"][-2:]]} for row in rows]
        return SimpleNamespace(iter_rows=lambda: iter(answered))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(distill.evaluate.score, "complete", complete)
    monkeypatch.setattr(distill.cli.evaluate, "connect", lambda device: nullcontext())
    config = eval_config("m", [], "http://host", SUITE)
    assert config.evaluate.benchmarks == ("levels-en", "levels-zh")
    assert eval_model(config, str(tmp_path / "run")) == 0
    said = capfd.readouterr().out
    assert "levels-zh (zh)" in said and "3 of 6" in said and "6 without answer" in said
    english, chinese = (
        pq.read_table(tmp_path / f"run/evaluate/m/levels-{code}.parquet").to_pylist() for code in ANSWERS
    )
    assert sorted(row["verdict"] for row in english) == ["CORRECT"] * 3 + ["INCORRECT"] * 3
    assert {row["verdict"] for row in chinese} == {"NO_ANSWER"}, "a letter within a sentence is none"
    assert {(row["reasoning_language"], row["answer_language"]) for row in chinese} == {("en", "zh")}
    assert all(row["own_letters"] == row["told_letters"] > 0 for row in english)
