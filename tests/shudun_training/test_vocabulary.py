"""The vocabulary of compact encoders: reproducible, limited, and unknown symbols stay alone."""

from __future__ import annotations

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from shudun_training.vocabulary import SPECIAL_TOKENS, train_tokenizer

TEXTS = [
    "加我微信 demo_0000 发你链接",
    "这家面馆真的好吃，排队也值",
    "姐妹们冲啊！！最后3天🎁",
    "Hello world 世界🎁",
] * 3
LEAST = len(SPECIAL_TOKENS) + 2 * len(string.ascii_lowercase + string.digits)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(TEXTS, vocab_size=1000)


def tokens(tokenizer: Tokenizer, text: str) -> list[str]:
    return tokenizer.encode(text, add_special_tokens=False).tokens


def test_the_same_texts_in_any_order_give_the_same_tokenizer(tokenizer: Tokenizer) -> None:
    for shuffled in (TEXTS[::-1], TEXTS[5:] + TEXTS[:5], sorted(TEXTS)):
        assert train_tokenizer(iter(shuffled), vocab_size=1000).to_str() == tokenizer.to_str()


@pytest.mark.parametrize("vocab_size", [64, LEAST, 90, 100, 1000])
def test_the_size_limit_holds_and_never_drops_ascii_letters_and_digits(vocab_size: int) -> None:
    limited = train_tokenizer(TEXTS, vocab_size=vocab_size)
    assert limited.get_vocab_size() <= max(vocab_size, LEAST)
    assert "[UNK]" not in tokens(limited, string.ascii_letters + " " + string.digits)
    assert [limited.token_to_id(token) for token in SPECIAL_TOKENS] == list(range(5))


def test_a_full_vocabulary_keeps_the_commonest_characters() -> None:
    texts = ["甲乙丙丁"] * 2 + ["丙丁"] * 2 + ["丁"]
    vocabulary = train_tokenizer(texts, vocab_size=LEAST + 2).get_vocab()
    assert {"丁", "丙"} <= set(vocabulary)
    assert not {"甲", "乙"} & set(vocabulary)


def test_a_character_below_the_least_count_stays_unknown() -> None:
    once = train_tokenizer(["龘和猫", "猫和狗"], vocab_size=1000)
    assert tokens(once, "龘猫") == ["[UNK]", "猫"]


def test_digits_stand_one_by_one(tokenizer: Tokenizer) -> None:
    assert tokens(tokenizer, "微信12345") == ["微", "信", *"12345"]


@pytest.mark.parametrize(
    ("symbol", "pieces"),
    [
        pytest.param("🦄", 1, id="emoji"),
        pytest.param("❤️", 1, id="variation-selector"),
        pytest.param("👩🏽", 2, id="skin-tone"),
        pytest.param("➕", 1, id="heavy-plus"),
        pytest.param("∑", 1, id="mathematics"),
        pytest.param("€", 1, id="currency"),
    ],
)
@pytest.mark.parametrize(("before", "after"), [("微信", "链接"), ("demo", "world"), ("123", "456"), ("加v", "3天")])
def test_an_unknown_symbol_leaves_its_neighbours_alone(
    tokenizer: Tokenizer, symbol: str, pieces: int, before: str, after: str
) -> None:
    expected = [*tokens(tokenizer, before), *["[UNK]"] * pieces, *tokens(tokenizer, after)]
    assert tokens(tokenizer, before + symbol + after) == expected
    assert "[UNK]" not in tokens(tokenizer, before) + tokens(tokenizer, after)


KNOWN = st.text(alphabet="微信链接加我demo019 🎁", min_size=1, max_size=12)


@settings(max_examples=80)
@given(before=KNOWN, after=KNOWN)
def test_known_text_around_an_unknown_emoji_is_tokenised_as_without_it(
    tokenizer: Tokenizer, before: str, after: str
) -> None:
    expected = [*tokens(tokenizer, before), "[UNK]", *tokens(tokenizer, after)]
    assert tokens(tokenizer, f"{before}🦄{after}") == expected


def test_pairs_carry_special_tokens_and_segments_as_bert_does(tokenizer: Tokenizer) -> None:
    encoding = tokenizer.encode("微信", "链接")
    assert encoding.tokens == ["[CLS]", "微", "信", "[SEP]", "链", "接", "[SEP]"]
    assert encoding.type_ids == [0, 0, 0, 0, 1, 1, 1]
