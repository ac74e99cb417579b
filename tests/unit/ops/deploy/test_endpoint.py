"""How a served student is asked."""

import pytest

from distill.config.load import parse_recipe
from distill.ops.deploy.endpoint import chat_card
from serve.api.prepare import prepared_chat
from serve.client import chosen_mode, question_turns
from serve.config import Endpoint
from serve.errors import ServeError
from tests.fixtures.mix_run import RECIPE, with_modes


def test_a_reader_chooses_the_mode_and_gets_the_first_without_choosing() -> None:
    card = chat_card(parse_recipe(with_modes(RECIPE)), "s@mix-long")
    assert [chosen_mode(card), chosen_mode(card, "short")] == ["long", "short"]
    endpoint = Endpoint(name="s@mix-long", source="s", metadata=card)
    asked = {"messages": question_turns("?", card)}
    for mode, system in {"long": "Be brief.\nThink step by step.", "short": "Be brief.\nBe brief and quick."}.items():
        assert prepared_chat({**asked, "mode": mode}, endpoint)["messages"][0]["content"] == system
    with pytest.raises(ServeError, match="long, short"):
        chosen_mode(card, "medium")
    with pytest.raises(ServeError, match="without modes"):
        chosen_mode(chat_card(parse_recipe(RECIPE), "s"), "short")
