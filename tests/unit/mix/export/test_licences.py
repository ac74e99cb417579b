"""Licences: one spelling, what they ask for, and what front matter the hub takes."""

import re

import pytest

from distill.config.preset_table import PRESETS
from distill.mix.export.licence_ids import HUB_IDS, NAMED_IDS, front_matter_fields, licence_ids
from distill.mix.export.licences import Source
from distill.mix.export.terms import ASKS, ORDER, READ, asks, carried_licence, obligations, shared_licence


def source(*licences: str, name: str = "a") -> Source:
    return Source("prompts", name, licences, "page")


@pytest.mark.parametrize(
    ("stated", "ids"),
    [
        ("MIT", ["mit"]),
        ("MIT License", ["mit"]),
        ("gplv3", ["gpl-3.0"]),
        ("GPL-3.0-only", ["gpl-3.0"]),
        ("AGPL-3.0-or-later", ["agpl-3.0"]),
        ("LGPLv2.1+", ["lgpl-2.1"]),
        ("GNU GPL v2", ["gpl-2.0"]),
        ("Apache License, Version 2.0", ["apache-2.0"]),
        ("Apache 2", ["apache-2.0"]),
        ("ODC-By-1.0", ["odc-by"]),
        ("ODbL v1.0", ["odbl"]),
        ("CC BY-SA 4.0", ["cc-by-sa-4.0"]),
        ("CC0", ["cc0-1.0"]),
        ("The Unlicense", ["unlicense"]),
        ("BSD 3-Clause License", ["bsd-3-clause"]),
        ("Llama 3.1 Community License Agreement", ["llama3.1"]),
        ("META LLAMA 3 COMMUNITY LICENSE", ["llama3"]),
        ("llama3_2", ["llama3.2"]),
        ("openrail++", ["openrail++"]),
        ("cc-by-4.0 and cc-by-sa-4.0", ["cc-by-4.0", "cc-by-sa-4.0"]),
        ("mit, apache-2.0", ["mit", "apache-2.0"]),
        ("MIT OR GPL-2.0", ["mit-or-gpl-2.0"]),
        ("my own terms", ["my-own-terms"]),
        ("", []),
    ],
)
def test_a_licence_has_one_spelling(stated: str, ids: list[str]) -> None:
    assert licence_ids(stated) == tuple(ids)


def test_every_known_identifier_is_its_own_spelling() -> None:
    for one in [*HUB_IDS, *NAMED_IDS, *ASKS, *(one for preset in PRESETS.values() for one in preset.licences)]:
        assert licence_ids(one.upper()) == (one,)
    assert ASKS.keys() <= HUB_IDS | NAMED_IDS


@pytest.mark.parametrize(
    ("licence", "fields"),
    [
        ("cc-by-4.0", {"license": "cc-by-4.0"}),
        ("qwen-research", {"license": "other", "license_name": "qwen-research"}),
        ("other", {"license": "other", "license_name": "terms-of-every-source"}),
        ("unknown", {"license": "other", "license_name": "terms-of-every-source"}),
    ],
)
def test_front_matter_has_only_names_that_the_hub_takes(licence: str, fields: dict[str, str]) -> None:
    assert front_matter_fields(licence) == fields


@pytest.mark.parametrize(
    ("licences", "carried"),
    [
        ([["mit"], ["mit"]], "mit"),
        ([["mit"], ["apache-2.0"]], "other"),
        ([["mit"], ["cc-by-sa-4.0"]], "cc-by-sa-4.0"),
        ([["mit"], ["cc-by-4.0"], ["apache-2.0"]], "cc-by-4.0"),
        ([["cc-by-4.0"], ["cc-by-sa-4.0"]], "other"),
        ([["cc-by-4.0", "cc-by-sa-4.0"]], "other"),
        ([["mit"], ["odbl"]], "odbl"),
        ([["mit"], ["llama3.2"]], "other"),
        ([["cc-by-sa-4.0"], []], "other"),
        ([["unknown"]], "unknown"),
        ([["mit"], ["unknown"]], "other"),
        ([[]], "other"),
    ],
)
def test_a_licence_that_asks_for_itself_is_carried_over(licences: list[list[str]], carried: str) -> None:
    assert carried_licence([source(*one) for one in licences]) == carried


def test_one_licence_of_all_is_shared() -> None:
    assert shared_licence([source("gemma"), source("gemma")]) == "gemma"
    assert shared_licence([source("mit"), source()]) == shared_licence([source("mit", "gemma")]) == "other"


@pytest.mark.parametrize(
    ("licence", "asked"),
    [
        ("qwen-research", ["No commercial use", "Built with Qwen"]),
        ("mrl", ["No commercial use"]),
        ("mnpl", ["No commercial use"]),
        ("apple-amlr", ["No commercial use", "research only"]),
        ("intel-research", ["research only"]),
        ("h-research", ["research only"]),
        ("llama2", ["copy of the licence", "limits of use", "no language models but their own kind"]),
        ("llama3", ["Built with Meta Llama 3", "no language models but their own kind"]),
        ("llama3.1", ['Show "Built with Llama"', 'begin the name .* with "Llama"', "copy of the licence"]),
        ("llama4", ['Show "Built with Llama"']),
        ("gemma", ["counts as their derivative", "limits of use", "copy of the licence"]),
        ("creativeml-openrail-m", ["limits of use"]),
        ("bigscience-bloom-rail-1.0", ["limits of use"]),
        ("deepseek", ["limits of use"]),
        ("odbl", ["Name these", "same licence"]),
        ("cdla-sharing-1.0", ["same licence"]),
        ("mpl-2.0", ["same licence"]),
        ("c-uda", ["computation only"]),
        ("apache-2.0", ["copyright and licence notices"]),
        ("mit", ["copyright and licence notices"]),
        ("cc-by-nc-sa-4.0", ["No commercial use", "same licence", "Name these"]),
        ("cc-by-sa-3.0-igo", ["same licence", "Name these"]),
        ("own-noncommercial", ["No commercial use", "read it first"]),
        ("other", ["read it first"]),
        ("unknown", ["read it first"]),
        ("cc", ["read it first"]),
        ("deepfloyd-if-license", ["read it first"]),
    ],
)
def test_what_a_licence_asks_for_is_told(licence: str, asked: list[str]) -> None:
    lines = obligations([source(licence)])
    for what in asked:
        (line,) = [line for line in lines if re.search(what, line)]
        assert line.endswith(f": a ({licence}).")


def test_only_what_is_known_to_ask_for_nothing_is_silent() -> None:
    assert obligations([source("cc0-1.0"), source("unlicense")]) == []
    assert obligations([source()]) == [f"{READ}: a."]
    assert all(set(asks(one)) <= set(ORDER) for one in HUB_IDS | NAMED_IDS)


def test_sources_that_ask_for_the_same_stand_in_one_line() -> None:
    lines = obligations([source("mit"), source("apache-2.0", name="b"), source("mit")])
    assert lines == ["Keep the copyright and licence notices of these: a (mit), b (apache-2.0)."]
