"""The table in front of the library: the library's own ids, for any text and any BERT-style tokenizer."""

from __future__ import annotations

import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers
from tokenizers.models import WordPiece

from shudun import wordpiece
from shudun.wordpiece import LibraryEncoder, TableEncoder, segment_encoder
from shudun_training.vocabulary import train_tokenizer

SAMPLES = "加我微信，。！1２Ⅲ9aZéßİΣς😀➕\u200b\u0301\u0338\u202e\x00\t\n ,<>=≠「」ﬁｶﾞ각\u3099゛\ufe0f\u20e3\u200d🇨①ﷺ豈"
TEXT = st.text(
    st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from(SAMPLES)),
    max_size=40,
)
TEXTS = ["加微信demo_0000看主页，30天瘦10斤！！", "Hello world, 小红薯 ➕V", "𝟙𝟚 ①② é ñ ǆ", "好😀😀的"]


def bert(**options):
    letters = [form + char for char in "abcdefghijklmnopqrstuvwxyz0123456789é" for form in ("", "##")]
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "hello", "##llo", "加", "微", "信", "，", "!", "=", "豈", *letters]
    vocabulary = {word: i for i, word in enumerate(dict.fromkeys(words))}
    tokenizer = Tokenizer(WordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))  # noqa: S106
    tokenizer.normalizer = normalizers.BertNormalizer(**options)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.add_special_tokens(["[PAD]", "[UNK]", "[CLS]", "[SEP]"])
    tokenizer.encode_special_tokens = True
    return tokenizer


def own():
    tokenizer = train_tokenizer(TEXTS, vocab_size=400, min_frequency=1)
    tokenizer.encode_special_tokens = True
    return tokenizer


TOKENIZERS = {
    "own": own(),
    "uncased": bert(lowercase=True),
    "cased": bert(lowercase=False),
    "cased, accents stripped": bert(lowercase=False, strip_accents=True),
    "uncased, accents kept": bert(lowercase=True, strip_accents=False),
    "not cleaned": bert(clean_text=False),
}
ENCODERS = {name: segment_encoder(tokenizer) for name, tokenizer in TOKENIZERS.items()}


def assert_same(name, texts):
    got, expected = ENCODERS[name].encode(texts), LibraryEncoder(TOKENIZERS[name]).encode(texts)
    assert got.counts.tolist() == expected.counts.tolist()
    assert got.ids.tolist() == expected.ids.tolist()
    assert got.ids.dtype == got.counts.dtype == np.int64


@pytest.mark.parametrize("name", TOKENIZERS)
@given(texts=st.lists(TEXT, max_size=4))
def test_the_ids_are_the_librarys_own(name, texts):
    assert_same(name, [*texts, *TEXTS])


@pytest.mark.parametrize("name", TOKENIZERS)
def test_every_character_of_the_first_planes_between_others(name):
    characters = [chr(code) for code in range(0x32000) if not 0xD800 <= code < 0xE000]
    sample = random.Random(0).sample(characters, 4000) + characters[:0x500]  # noqa: S311
    assert_same(name, [f"{a}{c}{b}" for c in sample for a, b in (("a", "1"), ("微", "\u0301"))])


@pytest.mark.slow
@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_million_random_texts(name):
    rng = random.Random(1)  # noqa: S311
    planes = [(0x20, 0x370), (0x2E80, 0xA000), (0x1F000, 0x1FB00), (0x20, 0xD800), (0xE000, 0x110000)]

    def character():
        return rng.choice(SAMPLES) if rng.random() < 0.6 else chr(rng.randrange(*rng.choice(planes)))

    for _ in range(50):
        texts = ["".join(character() for _ in range(rng.randint(0, 9))) for _ in range(20_000)]
        assert_same(name, texts)


def test_long_words_long_texts_and_many_passes(monkeypatch):
    texts = ["a" * 99, "a" * 100, "a" * 101, "b" * 5000, "微" * 3000, "", " ", "\n\n", "微 " * 500]
    assert_same("uncased", texts)
    monkeypatch.setattr(wordpiece, "PASS_CHARACTERS", 64)
    assert_same("uncased", texts)


def test_the_cache_of_words_stays_bounded(monkeypatch):
    monkeypatch.setattr(wordpiece, "CACHED_WORDS", 50)
    encoder = TableEncoder(TOKENIZERS["uncased"], LibraryEncoder(TOKENIZERS["uncased"]))
    for start in range(0, 400, 40):
        texts = [f"w{number}x" for number in range(start, start + 40)]
        assert encoder.encode(texts).ids.tolist() == LibraryEncoder(TOKENIZERS["uncased"]).encode(texts).ids.tolist()
        assert len(encoder._words) <= 50 + 40
    before = len(encoder._words)
    encoder.encode(["c" * 33])
    assert len(encoder._words) == before


def test_threads_share_an_encoder():
    encoder = segment_encoder(TOKENIZERS["own"])
    texts = [f"加微{number}信 word{number}" for number in range(2000)]
    expected = LibraryEncoder(TOKENIZERS["own"]).encode(texts).ids.tolist()
    with ThreadPoolExecutor(4) as pool:
        assert all(got.ids.tolist() == expected for got in pool.map(encoder.encode, [texts] * 8))


def with_part(**parts):
    tokenizer = bert()
    for part, value in parts.items():
        setattr(tokenizer, part, value)
    return tokenizer


def with_plain_added_token():
    tokenizer = bert()
    tokenizer.add_tokens(["微信"])
    return tokenizer


@pytest.mark.parametrize(
    "tokenizer",
    [
        with_part(normalizer=normalizers.NFC()),
        with_part(pre_tokenizer=pre_tokenizers.Whitespace()),
        with_part(pre_tokenizer=pre_tokenizers.Sequence([pre_tokenizers.Whitespace()])),
        with_part(
            pre_tokenizer=pre_tokenizers.Sequence(
                [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Split(Regex("微信"), "isolated")]
            )
        ),
        with_part(
            pre_tokenizer=pre_tokenizers.Sequence(
                [pre_tokenizers.BertPreTokenizer(), pre_tokenizers.Digits(individual_digits=False)]
            )
        ),
        with_part(encode_special_tokens=False),
        with_plain_added_token(),
    ],
)
def test_what_is_not_character_by_character_goes_to_the_library(tokenizer):
    encoder = segment_encoder(tokenizer)
    assert isinstance(encoder, LibraryEncoder)
    assert encoder.encode(["微信 [SEP]", ""]).counts.tolist()[1] == 0


def test_bert_style_tokenizers_take_the_table():
    assert all(isinstance(encoder, TableEncoder) for encoder in ENCODERS.values())
