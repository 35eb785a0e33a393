"""Word borders on tokens: through normalisation, truncation and both segments."""

from __future__ import annotations

import re
import sys
from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from shudun import Comment, Note
from shudun.errors import MissingExtraError, ShudunError
from shudun.rendering import render
from shudun.tokenization import ItemTokenizer
from shudun_training.pretraining.words import Jieba, WordMarks
from shudun_training.vocabulary import train_tokenizer


class Dictionary:
    """A segmenter that knows a few words; all else stands alone."""

    name = "dictionary 1"

    def borders(self, text):
        pattern = "晚霞|好吃|面馆|小红书|[a-z]+|[0-9]+|."
        return [match.start() for match in re.finditer(pattern, text, re.DOTALL)]


@pytest.fixture(scope="module")
def letters():
    texts = ["今天晚霞好吃面馆小红书路上看到 abc demo 0123456789，。😂" * 3]
    return train_tokenizer(texts, vocab_size=300).to_str()


@cache
def marks_of(tokenizer_json, max_length):
    tokenizer = ItemTokenizer(tokenizer_json, max_length=max_length)
    return tokenizer, WordMarks(tokenizer, Dictionary())


def marked(items, tokenizer_json, max_length=32):
    tokenizer, marks = marks_of(tokenizer_json, max_length)
    rendered = [render(item) for item in items]
    encoded = tokenizer.encode_rendered(rendered)
    return encoded, marks.mark(rendered, encoded)


def words_of(item, tokenizer_json, max_length=32):
    """The words of an item, special tokens left out."""
    encoded, begins = marked([item], tokenizer_json, max_length)
    parsed = Tokenizer.from_str(tokenizer_json)
    words = []
    for token_id, begin in zip(encoded.ids.tolist(), begins.tolist(), strict=True):
        token = parsed.id_to_token(token_id)
        if token in {"[CLS]", "[SEP]"}:
            assert begin
        elif begin:
            words.append(token)
        else:
            words[-1] += token.removeprefix("##")
    return words


def test_tokens_of_a_word_stand_together(letters):
    assert words_of(Comment("今天晚霞好吃😂，demo 12"), letters) == [
        "今",
        "天",
        "晚霞",
        "好吃",
        "😂",
        "，",
        "demo",
        "12",
    ]


def test_words_are_those_of_the_normalised_text(letters):
    # Styled letters and an invisible character: the segmenter sees what the encoder sees.
    assert words_of(Comment("晚\u200b霞𝒂𝒃𝒄"), letters) == ["晚霞", "abc"]


def test_both_segments_of_a_pair_are_marked(letters):
    assert words_of(Note("晚霞", "小红书好吃"), letters) == ["晚霞", "小红书", "好吃"]
    assert words_of(Comment("好吃", parent_text="面馆"), letters) == ["好吃", "面馆"]
    assert words_of(Note("", "好吃"), letters) == ["好吃"]


def test_what_is_cut_is_not_marked(letters):
    # Six tokens of room: the title keeps a quarter.
    assert words_of(Note("晚霞晚霞晚霞", "小红书" * 5), letters, 9) == ["晚", "小红书", "小红"]


@settings(max_examples=40)
@given(
    st.lists(
        st.one_of(
            st.builds(Comment, st.text(alphabet="晚霞好吃a1 。\u200b𝒂", max_size=60), st.text("面馆b", max_size=30)),
            st.builds(Note, st.text(alphabet="晚霞c", max_size=30), st.text(alphabet="小红书x2", max_size=60)),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_any_items_are_marked_token_by_token(letters, items):
    encoded, begins = marked(items, letters, 16)
    assert begins.shape == encoded.ids.shape
    for row, item in enumerate(items):
        start, end = encoded.starts[row], encoded.starts[row + 1]
        alone, alone_begins = marked([item], letters, 16)
        assert alone.ids.tolist() == encoded.ids[start:end].tolist()
        assert alone_begins.tolist() == begins[start:end].tolist()


def test_other_tokens_than_those_stored_are_an_error(letters):
    tokenizer = ItemTokenizer(letters, max_length=32)
    encoded = tokenizer.encode([Comment("晚霞")])
    with pytest.raises(ShudunError, match="not those that were stored"):
        WordMarks(tokenizer, Dictionary()).mark([render(Comment("好吃"))], encoded)


def test_a_missing_segmenter_is_named_with_its_install_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "rjieba", None)
    with pytest.raises(MissingExtraError, match=r"masking\.unit: word.*pip install 'shudun\[words\]'"):
        Jieba()


def test_jieba_finds_words_by_code_points():
    pytest.importorskip("rjieba", reason="the 'words' extra is not installed")
    segmenter = Jieba()
    assert segmenter.name.startswith("rjieba ")
    text = "😂昨晚做了番茄炖牛腩"
    borders = segmenter.borders(text)
    assert [text[a:b] for a, b in zip(borders, [*borders[1:], None], strict=True)][:3] == ["😂", "昨晚", "做"]
    assert "".join(text[a:b] for a, b in zip(borders, [*borders[1:], None], strict=True)) == text
