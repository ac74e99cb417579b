"""A JSONL file through an endpoint, probes, and the file that deploys elsewhere. No server and no Ray."""

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml
from pydantic import ValidationError

from serve import file_client as file
from serve.api.limits import Limits
from serve.api.reasoning_parser import Delimiters
from serve.config import Endpoint, ServeConfig
from serve.config_file import config_file, read_arguments
from serve.dataset_client import Answer, BatchConfig
from serve.errors import ServeError
from serve.file_client import Line, Target, answer_file, read_partial, request_row
from serve.keys import KEYS_VARIABLE, Key, hash_key
from serve.smoke_check import agreement, is_same

TARGET = Target("http://test", "m", {"template": "Q: {problem}"}, {"max_tokens": 9}, "key")


class FakeSender:
    """Answers with the question, fails on "bad", and stops everything at "stop"."""

    asked: ClassVar[list[str]] = []
    stops = False

    def __init__(self, base_url: str, config: BatchConfig, api_key: str) -> None:
        assert (base_url, api_key) == (TARGET.base_url, TARGET.api_key)

    async def answer(self, row: dict[str, Any]) -> Answer:
        text = row["messages"][-1]["content"]
        if "stop" in text and FakeSender.stops:
            raise KeyboardInterrupt
        FakeSender.asked.append(text)
        return Answer(error="too bad") if "bad" in text else Answer(completion=text.upper())


@pytest.fixture
def paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    monkeypatch.setattr(file, "Sender", FakeSender)
    FakeSender.asked, FakeSender.stops = [], False
    return tmp_path / "in.jsonl", tmp_path / "out.jsonl"


def write(path: Path, *problems: str) -> None:
    path.write_text("".join(json.dumps({"problem": text, "id": text}) + "\n" for text in problems))


def answer(paths: tuple[Path, Path]) -> tuple[int, int]:
    return answer_file(*paths, TARGET, BatchConfig(max_in_flight=2), lambda done, total: None)


def output(paths: tuple[Path, Path]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in paths[1].read_text().splitlines()]


def test_every_row_has_one_line_in_order_with_its_columns(paths: tuple[Path, Path]) -> None:
    write(paths[0], "a", "bad", "a", "c")
    assert answer(paths) == (4, 1)
    assert [(row["id"], row["completion"], row["error"]) for row in output(paths)] == [
        ("a", "Q: A", ""),
        ("bad", "", "too bad"),
        ("a", "Q: A", ""),
        ("c", "Q: C", ""),
    ]


def test_a_stopped_file_goes_on_where_it_was_and_a_torn_line_is_asked_again(paths: tuple[Path, Path]) -> None:
    write(paths[0], *"abcdef", "stop", *"ghi")
    FakeSender.stops = True
    with pytest.raises(KeyboardInterrupt):
        answer(paths)
    partial = paths[1].with_name("out.jsonl.partial")
    partial.write_bytes(partial.read_bytes()[:-5])
    asked_before, FakeSender.asked, FakeSender.stops = len(FakeSender.asked), [], False
    assert answer(paths) == (10, 0)
    assert len(FakeSender.asked) == 10 - asked_before + 1
    assert [row["id"] for row in output(paths)] == [*"abcdef", "stop", *"ghi"]
    assert not partial.exists()


def test_an_answer_to_a_line_that_was_edited_since_is_not_taken(paths: tuple[Path, Path]) -> None:
    write(paths[0], "a", "bad")
    answer(paths)
    write(paths[0], "b", "bad")
    answer(paths)
    assert [row["completion"] for row in output(paths)] == ["Q: B", ""]


def test_an_answer_of_another_model_or_to_another_sampling_is_not_taken(paths: tuple[Path, Path]) -> None:
    write(paths[0], "a", "bad")
    answer(paths)
    for other in (TARGET._replace(model="other"), TARGET._replace(sampling={"max_tokens": 5})):
        FakeSender.asked = []
        answer_file(*paths, other, BatchConfig(), lambda done, total: None)
        assert sorted(FakeSender.asked) == ["Q: a", "Q: bad"]


def test_failed_rows_are_asked_again(paths: tuple[Path, Path]) -> None:
    write(paths[0], "a", "bad")
    answer(paths)
    FakeSender.asked = []
    answer(paths)
    assert FakeSender.asked == ["Q: bad"]


@pytest.mark.parametrize("line", ["{", "[]", "{}", '{"problem": 3}', '"x"'])
def test_a_wrong_line_is_named(paths: tuple[Path, Path], line: str) -> None:
    paths[0].write_text('{"problem": "a"}\n' + line + "\n")
    with pytest.raises(ServeError, match="line 2"):
        answer(paths)


def test_the_input_is_never_overwritten(paths: tuple[Path, Path]) -> None:
    write(paths[0], "a")
    with pytest.raises(ServeError, match="is the input"):
        answer((paths[0], paths[0]))


def test_a_rows_own_turns_and_sampling_win() -> None:
    turns = [{"role": "user", "content": "?"}]
    row = request_row(Line(0, "", {"messages": turns, "sampling": {"max_tokens": 3, "seed": 1}}), TARGET)
    assert row == {"model": "m", "messages": turns, "sampling": {"max_tokens": 3, "seed": 1}}


def test_nothing_is_read_where_nothing_was_written(tmp_path: Path) -> None:
    assert read_partial(tmp_path / "none") == {}


@pytest.mark.parametrize(
    ("expected", "found", "share"), [("abcd", "abcd", 1.0), ("abcd", "abxx", 0.5), ("ab", "abcd", 0.5), ("", "", 1.0)]
)
def test_agreement_is_the_share_that_begins_alike(expected: str, found: str, share: float) -> None:
    assert agreement(expected, found) == share


def test_one_equal_answer_is_enough_and_late_turns_are_forgiven() -> None:
    assert is_same([0.0, 1.0, 0.1]) and is_same([0.6, 0.5])
    assert not is_same([0.2, 0.3, 0.4])


CONFIG = ServeConfig(
    max_replicas=3, min_replicas=0, keys=[Key(name="a", sha256=hash_key("s"))], limits=Limits(max_choices=2)
)
ENDPOINTS = (
    Endpoint(name="m", source="base", metadata={"accuracy": 0.5}),
    Endpoint(name="m@x", source="base", adapter="a", reasoning=Delimiters(is_open=True)),
)


def test_a_config_file_is_what_serve_deploy_takes_and_holds_no_key() -> None:
    from ray.serve.schema import ServeDeploySchema

    text = yaml.safe_dump(config_file(ENDPOINTS, CONFIG))
    assert hash_key("s") not in text
    schema = ServeDeploySchema.model_validate(yaml.safe_load(text))
    assert schema.applications[0].import_path == "serve.app:from_config_file"
    keys = f'[[keys]]\nname = "a"\nsha256 = "{hash_key("s")}"'
    assert read_arguments(schema.applications[0].args, {KEYS_VARIABLE: keys}) == (ENDPOINTS, CONFIG)


def test_a_deployment_for_other_machines_needs_keys_from_its_environment() -> None:
    content = config_file(ENDPOINTS, CONFIG.model_copy(update={"host": "0.0.0.0"}))
    with pytest.raises(ValidationError, match="no API keys"):
        read_arguments(content["applications"][0]["args"], {})


def test_replicas_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValidationError, match="min_replicas = 4"):
        ServeConfig(min_replicas=4, max_replicas=2)
