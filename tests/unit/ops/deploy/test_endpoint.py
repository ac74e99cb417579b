"""How a served student is asked."""

import pytest

from distill.config.load import parse_recipe
from distill.ops.deploy.endpoint import chat_card
from serve.client import question_turns
from serve.errors import ServeError
from tests.fixtures.mix_run import RECIPE, with_modes


def test_a_reader_chooses_the_mode_and_gets_the_first_without_choosing() -> None:
    card = chat_card(parse_recipe(with_modes(RECIPE)), "s@mix-long")
    assert question_turns("?", card)[0]["content"] == "Be brief.\nThink step by step."
    assert question_turns("?", card, "short")[0]["content"] == "Be brief.\nBe brief and quick."
    with pytest.raises(ServeError, match="long, short"):
        question_turns("?", card, "medium")
    with pytest.raises(ServeError, match="without modes"):
        question_turns("?", chat_card(parse_recipe(RECIPE), "s"), "short")
