"""Counts by pieces are those of whole texts, for every pattern that is taken apart."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from distill.models.chat_template import control_tokens, encode
from distill.models.token_counts import PATTERNS, Cuts, TokenCounter, known_cuts
from tests.fixtures.byte_tokenizer import CHATML

BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
CUTTERS = {
    "gpt2": pre_tokenizers.ByteLevel(add_prefix_space=False),
    "digits": pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)]),
    "llama3": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(PATTERNS[0]), "isolated"), BYTES]),
    "qwen": pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(PATTERNS[1]), "isolated"), BYTES]),
}
CORPUS = [
    "so the answer is that we add 12 to 345, don't we?\n\n  So it is.\n",
    "数学 é ½ of the\tsum\u00a0of \\frac{1}{2} ",
] * 20
WORDS = st.sampled_from(
    ["the", " of", "12", "345", "1٣2", "7²", "don't", "'s", "\n", "\n\n", " ", "  ", "\t", "\r\n", "\u00a0", "\u2028",
     "\x1c", "\x0b", "e\u0301", "\u0301", "数学", "½", "😀", "\\frac{1}", ".", "<|im_end|>", "<think>", "<", "|>"]
)  # fmt: skip
TEXTS = st.lists(st.lists(st.one_of(WORDS, st.text(max_size=3)), max_size=12).map(" ".join), min_size=1, max_size=8)


def tokenizer(cutter: Any, **end: Any) -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.BPE())
    inner.normalizer, inner.pre_tokenizer = normalizers.NFC(), cutter
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    inner.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet))
    built = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=AddedToken("<|im_end|>", special=True, **end))
    built.chat_template = CHATML
    return built


TOKENIZERS = {name: tokenizer(cutter) for name, cutter in CUTTERS.items()}


@pytest.mark.parametrize("name", CUTTERS)
@given(texts=TEXTS)
@settings(max_examples=60, deadline=None)
def test_the_pieces_of_a_text_have_its_tokens(name: str, texts: list[str]) -> None:
    counter = TokenCounter(TOKENIZERS[name])
    assert known_cuts(counter.tokenizer).at_spaces
    rows = [encode(counter.tokenizer, text) for text in texts]
    for _ in range(2):  # new pieces, then known ones
        found = counter.count(texts)
        assert found.tokens.tolist() == [len(row) for row in rows]
        control = control_tokens(counter.tokenizer).keys()
        assert found.holds_control.tolist() == [bool(control & set(row)) for row in rows]


def test_each_piece_goes_through_the_tokenizer_once() -> None:
    counter = TokenCounter(TOKENIZERS["gpt2"])
    counter.count(["so the answer is 12", "so the sum is 12"])
    assert counter.heads.keys() == {"so"}
    assert counter.tails.keys() >= {"the", "answer", "is", "12", "sum"}


@pytest.mark.parametrize(("name", "pieces"), [("digits", 1), ("qwen", 1), ("llama3", 3), ("gpt2", 3)])
def test_numbers_of_one_length_are_one_piece_where_every_digit_is_a_token(name: str, pieces: int) -> None:
    counter = TokenCounter(TOKENIZERS[name])
    counter.count(["so 12", "so 34", "so 56"])
    assert len(counter.tails.keys() - {"so"}) == pieces


def test_digits_are_not_folded_where_an_added_token_holds_one() -> None:
    built = tokenizer(CUTTERS["qwen"])
    built.add_special_tokens({"additional_special_tokens": ["<|1|>"]})
    assert known_cuts(built) == Cuts(at_spaces=True, at_digits=False)
    assert TokenCounter(built).count(["so <|1|>", "so <|2|>"]).holds_control.tolist() == [True, False]


@pytest.mark.parametrize(
    ("cutter", "end"),
    [
        (pre_tokenizers.ByteLevel(add_prefix_space=True), {}),
        (pre_tokenizers.Metaspace(), {}),
        (pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(r"\w+ ?"), "isolated"), BYTES]), {}),
        (CUTTERS["gpt2"], {"rstrip": True}),
    ],
)
def test_a_tokenizer_that_may_join_words_counts_whole_texts(cutter: Any, end: dict[str, bool]) -> None:
    counter = TokenCounter(tokenizer(cutter, **end))
    assert not known_cuts(counter.tokenizer).at_spaces
    texts = ["so the answer", "the <|im_end|> answer is 12", ""]
    assert counter.count(texts).tokens.tolist() == [len(encode(counter.tokenizer, text)) for text in texts]
    assert counter.count(texts).holds_control.tolist() == [False, True, False]
