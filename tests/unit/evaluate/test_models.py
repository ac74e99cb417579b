"""Engines of an evaluation: how many work at the same time, and what they know of their students' reasoning."""

from dataclasses import replace
from pathlib import Path

import pytest

from cluster.placement import Resources
from cluster.session import Device
from distill.config.teachers import ChatFormat
from distill.evaluate.models import EvaluatedModel, asked_endpoints, engines_at_work
from tests.fixtures.byte_tokenizer import tokenizer


@pytest.mark.parametrize(
    ("device", "cores", "megabytes", "at_work"),
    [
        ("cpu", [2], 270, 2),
        ("cpu", [2], 990, 1),
        ("cpu", [1], 270, 1),
        ("cpu", [8], 990, 1),
        ("cpu", [2, 2], 270, 3),
        ("cpu", [2, 2], 990, 2),
        ("gpu", [2], 990, 3),
    ],
)
def test_as_many_of_three_engines_are_asked_at_once_as_take_no_core_from_each_other(
    tmp_path: Path, device: Device, cores: list[float], megabytes: int, at_work: int
) -> None:
    with (tmp_path / "model.safetensors").open("wb") as file:
        file.truncate(megabytes * 10**6)  # a sparse file
    nodes = [Resources(cpus=count) for count in cores]
    assert engines_at_work(3, device, nodes, ["s3://elsewhere/model", str(tmp_path)]) == at_work


def test_a_student_that_was_taught_without_delimiters_has_none(tmp_path: Path) -> None:
    tokenizer().save_pretrained(tmp_path)
    models = [
        EvaluatedModel(name, str(tmp_path), None, "k", tokenizer=str(tmp_path), is_marked=is_marked)
        for name, is_marked in (("s@marked", True), ("s@plain", False))
    ]
    marked, plain = (one.reasoning for one in asked_endpoints(models, ChatFormat(), "</think>"))
    assert marked is not None and (marked.start, marked.end) == ("<think>", "</think>") and plain is None
    opening = tokenizer()
    opening.chat_template += "{% if add_generation_prompt %}<think>\n{% endif %}"
    opening.save_pretrained(tmp_path / "opening")
    taught = [replace(one, source="o", tokenizer=str(tmp_path / "opening")) for one in models]
    found = [one.reasoning for one in asked_endpoints(taught, ChatFormat(), "</think>")]
    assert all(one is not None and one.is_open for one in found), "taught to close what its prompts open"
