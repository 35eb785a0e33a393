"""Tokenisation: the checkpoint's own ids for uncut texts, one rule for cut ones, bounded cost, checked arrays."""

from __future__ import annotations

import copy
import json
import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shudun import BundleError, Comment, Note
from shudun.rendering import render
from shudun.tokenization import CHARS_PER_TOKEN, ItemTokenizer, TokenBatch

TEXT = st.text(
    st.one_of(st.characters(), st.sampled_from("加我微信，1２ⅢaZéß😀➕\u200b\u0301\u202e\ud800\x00\t\n ")), max_size=60
).filter(lambda text: not any(token in text for token in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")))
ITEM = st.one_of(
    st.builds(Note, TEXT, TEXT), st.builds(Comment, TEXT), st.builds(lambda a, b: Comment(a, parent_text=b), TEXT, TEXT)
)


@pytest.fixture(scope="module")
def wide(trained) -> ItemTokenizer:
    """The same tokenizer with room for every text of these tests."""
    return ItemTokenizer(trained.encoder.to_json(), max_length=4096)


def rows(encoder, items):
    """Ids, segment of each token and the truncation flag of each item, unpadded."""
    encoded = encoder.encode(items)
    batches = [encoded.batch(np.array([i])) for i in range(len(items))]
    assert all(batch.attention_mask.all() for batch in batches)
    return [(b.input_ids[0].tolist(), b.token_type_ids[0].tolist(), bool(b.truncated[0])) for b in batches]


def own(tokenizer, item):
    expected = tokenizer(*([segment] for segment in render(item).segments), return_token_type_ids=True)
    return expected["input_ids"][0], expected["token_type_ids"][0], False


def test_ids_equal_those_of_the_checkpoints_tokenizer(wide, trained, items):
    assert rows(wide, items) == [own(trained.tokenizer, item) for item in items]


@given(batch=st.lists(ITEM, max_size=4))
def test_ids_equal_those_of_the_checkpoints_tokenizer_for_any_text(wide, trained, batch):
    assert rows(wide, batch) == [own(trained.tokenizer, item) for item in batch]


@given(batch=st.lists(ITEM, min_size=2, max_size=5))
def test_neighbours_do_not_change_a_row(trained, batch):
    assert rows(trained.encoder, batch) == [rows(trained.encoder, [item])[0] for item in batch]


CUT_CASES = [
    # 32 tokens: three special ones and 29 of text; a quarter of those is 7.
    (100, 3, (26, 3)),
    (3, 100, (3, 26)),
    (100, 100, (22, 7)),
    (20, 100, (20, 9)),
    (22, 8, (22, 7)),
    (23, 8, (22, 7)),
    (29, 1, (28, 1)),
    (0, 30, (0, 29)),
    (19, 10, None),
    (0, 29, None),
]
NO_TITLE_CASES = [(30, 0, (29, 0)), (29, 0, None)]


@pytest.mark.parametrize(
    ("kind", "judged", "context", "kept"),
    [(kind, *case) for kind in ("note", "comment") for case in CUT_CASES]
    + [("note", *case) for case in NO_TITLE_CASES],
)
def test_the_truncation_rule(trained, kind, judged, context, kept):
    text, other = "好" * judged, "吃" * context
    item = Note(other, text) if kind == "note" else Comment(text, parent_text=other)
    ((ids, types, truncated),) = rows(trained.encoder, [item])
    good, eat = (trained.tokenizer.convert_tokens_to_ids(char) for char in "好吃")
    assert (ids.count(good), ids.count(eat)) == (kept or (judged, context))
    assert truncated == (kept is not None)
    assert ids.count(trained.tokenizer.sep_token_id) == 2
    assert ids[0] == trained.tokenizer.cls_token_id
    assert ids[-1] == trained.tokenizer.sep_token_id
    assert types == sorted(types)
    assert {types[i] for i, token in enumerate(ids) if token == good} <= {int(kind == "note")}


@pytest.mark.parametrize(("length", "truncated"), [(30, False), (31, True), (500, True)])
def test_a_lone_segment_takes_the_whole_budget(trained, length, truncated):
    ((ids, types, flag),) = rows(trained.encoder, [Comment("好" * length)])
    assert (len(ids), set(types), flag) == (min(length, 30) + 2, {0}, truncated)


@given(item=ITEM)
def test_a_cut_row_is_full_flagged_and_keeps_the_start_of_each_segment(wide, trained, item):
    ((full, full_types, _),) = rows(wide, [item])
    ((ids, types, truncated),) = rows(trained.encoder, [item])
    assert truncated == (len(full) > 32)
    assert len(ids) == min(len(full), 32)
    for segment in range(len(render(item).segments)):
        kept = [token for token, kind in zip(ids, types, strict=True) if kind == segment]
        whole = [token for token, kind in zip(full, full_types, strict=True) if kind == segment]
        assert kept[:-1] == whole[:-1][: len(kept) - 1]


def test_text_past_the_character_limit_is_not_tokenised(trained):
    limit = CHARS_PER_TOKEN * 32
    bare = rows(trained.encoder, [Comment("")])[0][0]
    ((ids, _, truncated),) = rows(trained.encoder, [Comment("\u0301" * limit + "好")])
    assert (ids, truncated) == (bare, True)
    ((ids, _, truncated),) = rows(trained.encoder, [Comment("\u0301" * (limit - 1) + "好")])
    assert (len(ids), truncated) == (len(bare) + 1, False)


@pytest.mark.parametrize("char", ["长", "a", "😀", "\u0301", " "])
@pytest.mark.parametrize("place", ["comment", "title", "parent"])
def test_ten_megabytes_of_one_character_are_cut_and_flagged(trained, char, place):
    text = char * 10_000_000
    item = {"comment": Comment(text), "title": Note(text, "好"), "parent": Comment("好", parent_text=text)}[place]
    ((ids, _, truncated),) = rows(trained.encoder, [item])
    assert truncated
    assert len(ids) <= 32


@pytest.mark.parametrize("char", ["\x00", "\u200b"])
def test_ten_megabytes_that_show_nothing_are_an_empty_text(trained, char):
    assert rows(trained.encoder, [Comment(char * 10_000_000)]) == rows(trained.encoder, [Comment("")])


def test_batches_are_padded_on_the_right(trained, items):
    encoded = trained.encoder.encode(items)
    chosen = np.array([5, 0, 17, 5])
    batch = encoded.batch(chosen)
    assert batch.input_ids.shape == (4, encoded.lengths[chosen].max())
    for row, source in zip(range(4), chosen, strict=True):
        length = encoded.lengths[source]
        assert batch.attention_mask[row].tolist() == [1] * length + [0] * (batch.input_ids.shape[1] - length)
        assert (batch.input_ids[row, length:] == trained.tokenizer.pad_token_id).all()
        assert (batch.token_type_ids[row, length:] == 0).all()
        alone = encoded.batch(np.array([source]))
        assert batch.input_ids[row, :length].tolist() == alone.input_ids[0].tolist()
        assert batch.token_type_ids[row, :length].tolist() == alone.token_type_ids[0].tolist()
    assert set(batch.feeds()) == {"input_ids", "attention_mask", "token_type_ids"}


def test_no_items_make_an_empty_batch(trained):
    encoded = trained.encoder.encode([])
    batch = encoded.batch(np.arange(0))
    assert encoded.lengths.shape == (0,)
    assert batch.input_ids.shape == (0, 0)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("input_ids", np.zeros((2, 3), np.int32), "input_ids: expected int64"),
        ("input_ids", np.zeros((2, 3, 1), np.int64), "input_ids: expected int64"),
        ("input_ids", np.zeros(6, np.int64), "input_ids: expected int64"),
        ("attention_mask", np.ones((2, 3), np.bool_), "attention_mask: expected int64"),
        ("attention_mask", np.ones((2, 4), np.int64), "attention_mask: expected int64"),
        ("token_type_ids", np.zeros((3, 2), np.int64), "token_type_ids: expected int64"),
        ("token_type_ids", np.zeros((2, 3), np.float64), "token_type_ids: expected int64"),
        ("truncated", np.zeros(2, np.int64), "truncated: expected bool"),
        ("truncated", np.zeros(3, np.bool_), "truncated: expected bool"),
        ("truncated", np.zeros((2, 1), np.bool_), "truncated: expected bool"),
    ],
)
def test_token_batches_refuse_other_types_and_shapes(name, value, message):
    arrays = {key: np.zeros((2, 3), np.int64) for key in ("input_ids", "attention_mask", "token_type_ids")}
    arrays["truncated"] = np.zeros(2, np.bool_)
    TokenBatch(**arrays)
    with pytest.raises(ValueError, match=message):
        TokenBatch(**(arrays | {name: value}))


@pytest.mark.parametrize("duplicate", [lambda x: pickle.loads(pickle.dumps(x)), copy.deepcopy], ids=["pickle", "copy"])  # noqa: S301
def test_a_pickled_tokenizer_gives_the_same_rows(trained, items, duplicate):
    again = duplicate(trained.encoder)
    assert again.max_length == trained.encoder.max_length
    assert again.to_json() == trained.encoder.to_json()
    assert rows(again, items) == rows(trained.encoder, items)


def test_sizes_agree_with_the_checkpoints_tokenizer(trained):
    assert trained.encoder.vocab_size == len(trained.tokenizer)
    assert trained.encoder.pad_id == trained.tokenizer.pad_token_id


def test_padding_and_truncation_stored_in_the_definition_are_switched_off(trained, items):
    definition = json.loads(trained.encoder.to_json())
    definition["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    definition["padding"] = {
        "strategy": {"Fixed": 64},
        "direction": "Left",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "[PAD]",
    }
    stored = ItemTokenizer(json.dumps(definition), max_length=32)
    assert rows(stored, items) == rows(trained.encoder, items)


@pytest.mark.parametrize("max_length", [7, 0, -1])
def test_a_length_without_room_for_text_is_refused(trained, max_length):
    with pytest.raises(ValueError, match="expected at least 8 tokens"):
        ItemTokenizer(trained.encoder.to_json(), max_length=max_length)


@pytest.mark.parametrize("definition", ["", "{}", "[]", "\x00", '{"version": "1.0", "model": {"type": "None"}}'])
def test_what_is_no_tokenizer_is_refused(definition):
    with pytest.raises(BundleError, match="not a tokenizers definition"):
        ItemTokenizer(definition, max_length=32)


@pytest.mark.parametrize("name", ["[CLS]", "[SEP]", "[PAD]"])
def test_a_vocabulary_without_the_special_tokens_is_refused(trained, name):
    definition = trained.encoder.to_json().replace(name, "[OTHER]")
    with pytest.raises(BundleError, match="BERT-style vocabulary with " + name.replace("[", r"\[")):
        ItemTokenizer(definition, max_length=32)


def test_special_tokens_in_a_text_are_plain_text(trained):
    ids = trained.encoder.encode([Comment("加[SEP]我[CLS]微[PAD]信[MASK]")]).ids.tolist()
    control = [trained.tokenizer.convert_tokens_to_ids(token) for token in ("[CLS]", "[SEP]", "[PAD]", "[MASK]")]
    assert [token for token in ids[1:-1] if token in control] == []
