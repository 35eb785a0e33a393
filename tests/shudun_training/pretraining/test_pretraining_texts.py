"""Texts from files: every row is accounted for, held-out texts stay out, emoji get their places."""

from __future__ import annotations

import gzip
import json
import shutil
import unicodedata

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shudun import Comment, Note
from shudun.errors import RowError, ShudunError
from shudun.rendering import render
from shudun_training.pretraining.config import PretrainConfig, TextSource
from shudun_training.pretraining.corpus import TextCounts, describe, readers
from shudun_training.pretraining.emoji import EmojiCover, common_emoji
from shudun_training.pretraining.preparation import is_held_out, open_corpus, prepare
from shudun_training.vocabulary import train_tokenizer


def read(path, tmp_path, on_bad_row="fail", **source):
    (reader,) = readers([TextSource(path=path, **source)], on_bad_row=on_bad_row, rejected_dir=tmp_path / "out")
    items, counts = list(reader), TextCounts()
    reader.count(counts)
    return items, counts


def test_lines_of_a_text_file_are_comments(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeff路上看到的晚霞\r\n\n  \n第二行\n".encode())
    items, counts = read(path, tmp_path)
    assert items == [Comment("路上看到的晚霞", id="row-1"), Comment("第二行", id="row-4")]
    assert (counts.read, counts.good, counts.rejected) == (2, 2, 0)


def test_a_bad_line_stops_or_goes_to_the_side_file(tmp_path):
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress("好吃\n".encode() + b"\xff\xfe\n" + "再来\n".encode()))
    with pytest.raises(RowError, match=r"a\.txt\.gz:2.*valid UTF-8"):
        read(path, tmp_path)
    items, counts = read(path, tmp_path, "skip")
    assert [item.text for item in items] == ["好吃", "再来"]
    assert (counts.read, counts.good, counts.rejected) == (3, 2, 1)
    (line,) = (tmp_path / "out" / "0-a.txt.gz.rejected.jsonl").read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["line"] == 2


def test_a_file_that_is_cut_short_stops_the_run(tmp_path):
    path = tmp_path / "a.txt.gz"
    path.write_bytes(gzip.compress("好吃\n".encode() * 5000)[:-9])
    with pytest.raises(ShudunError, match="damaged or cut short"):
        read(path, tmp_path, "skip")


def test_ids_and_labels_do_not_matter_blank_texts_do(write_jsonl, tmp_path):
    rows = [
        {"id": "a", "text": "好吃", "labels": ["x"]},
        {"id": "a", "content": "", "text": "再来", "parent_text": "面馆"},
        {"id": 1.5, "kind": "note", "title": "晚霞", "text": ""},
        {"text": "  "},
    ]
    items, counts = read(write_jsonl(rows), tmp_path, "skip")
    assert [(type(item), item.text) for item in items] == [(Comment, "好吃"), (Comment, "再来"), (Note, "")]
    assert (counts.read, counts.good, counts.rejected) == (4, 3, 1)
    side = (tmp_path / "out" / "0-rows.jsonl.rejected.jsonl").read_text(encoding="utf-8")
    assert json.loads(side)["line"] == 4


def test_columns_may_have_other_names(tmp_path):
    (tmp_path / "a.csv").write_text("review,reply_to\n好吃,面馆\n", encoding="utf-8")
    items, _ = read(tmp_path / "a.csv", tmp_path, columns={"text": "review", "parent_text": "reply_to"})
    assert items == [Comment("好吃", parent_text="面馆", id="row-2")]


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ShudunError, match=r"nothing\.txt: no such file of texts"):
        describe([TextSource(path=tmp_path / "nothing.txt")])


@settings(max_examples=40)
@given(st.text(min_size=1, max_size=20), st.floats(0.01, 0.4), st.floats(0.01, 0.4))
def test_a_text_is_held_out_by_itself_and_a_smaller_share_is_part_of_a_larger_one(text, a, b):
    small, large = sorted([a, b])
    item = render(Comment(text))
    assert is_held_out(item, large) >= is_held_out(item, small)
    if text.strip():
        assert is_held_out(render(Comment(text, parent_text="面馆")), large) == is_held_out(item, large)


def test_the_share_of_held_out_texts_is_as_asked():
    drawn = [is_held_out(render(Comment(f"第{number}条")), 0.2) for number in range(3000)]
    assert np.mean(drawn) == pytest.approx(0.2, abs=0.02)
    assert not any(is_held_out(render(Comment(f"第{number}条")), 0.0) for number in range(50))


def prepared(config, tokenizer, folder, shown=None):
    records = describe(config.texts)
    progress = (lambda step, rows: shown.append(rows)) if shown is not None else (lambda step, rows: None)
    prepare(config, records, tokenizer, folder, segmenter=None, progress=progress)
    return open_corpus(config, records, tokenizer, folder, segmenter=None)


def config_of(base_config, texts, share, **changes):
    values = {**base_config, "texts": texts, "held_out": {"share": share}, **changes}
    return PretrainConfig.model_validate(values)


def texts_of(store):
    return [tuple(store.ids[a:b].tolist()) for a, b in zip(store.starts, store.starts[1:], strict=False)]


def test_held_out_texts_are_in_no_training_row_and_repeats_count(base_config, tokenizer, tmp_path, corpus):
    (path,) = base_config["texts"]
    config = config_of(base_config, [{"path": path, "repeat": 3}], 0.3)
    made = prepared(config, tokenizer, tmp_path / "store")
    train, held_out = texts_of(made.train), texts_of(made.held_out)
    (counts,) = made.counts
    assert counts["trained"] + counts["held_out"] == counts["good"] == counts["read"] == len(corpus)
    assert len(train) == 3 * counts["trained"]
    assert len(held_out) == counts["held_out"] > 10
    assert all(train.count(text) % 3 == 0 for text in train)
    everything = texts_of(prepared(config_of(base_config, [path], 0.0), tokenizer, tmp_path / "all").train)
    assert sorted([*train[::3], *held_out]) == sorted(everything)
    # What is judged is never shared, whatever it stands beside.
    sides = [is_held_out(render(item), 0.3) for item in corpus]
    held = {item.text for item, out in zip(corpus, sides, strict=True) if out}
    assert not held & {item.text for item, out in zip(corpus, sides, strict=True) if not out}


def test_a_store_is_used_again_until_something_changes(base_config, tokenizer, tmp_path):
    source = tmp_path / "texts.jsonl"
    shutil.copy(base_config["texts"][0], source)
    config = config_of(base_config, [str(source)], 0.1)
    first, second, third, fourth = [], [], [], []
    prepared(config, tokenizer, tmp_path / "store", first)
    prepared(config, tokenizer, tmp_path / "store", second)
    assert first
    assert not second
    prepared(config_of(base_config, [str(source)], 0.2), tokenizer, tmp_path / "store", third)
    assert third
    with source.open("a", encoding="utf-8") as file:
        file.write('{"text": "晚霞好吃"}\n')
    made = prepared(config_of(base_config, [str(source)], 0.2), tokenizer, tmp_path / "store", fourth)
    assert fourth
    assert made.counts[0]["read"] == 121


def test_texts_that_are_cut_are_counted(base_config, tokenizer, tmp_path):
    source = tmp_path / "long.txt"
    source.write_text("晚霞" * 200 + "\n好吃\n", encoding="utf-8")
    made = prepared(config_of(base_config, [str(source)], 0.0), tokenizer, tmp_path / "store")
    assert made.counts[0]["truncated"] == 1
    assert max(made.train.lengths) == tokenizer.max_length


def test_no_text_left_is_an_error(base_config, tokenizer, tmp_path):
    source = tmp_path / "empty.txt"
    source.write_text("\n", encoding="utf-8")
    with pytest.raises(ShudunError, match="no text is left to train on"):
        prepared(config_of(base_config, [str(source)], 0.0), tokenizer, tmp_path / "store")


def test_common_emoji_are_single_and_distinct():
    emoji = common_emoji()
    assert len(emoji) == len(set(emoji)) > 400
    assert all(len(char) == 1 and unicodedata.category(char) in {"So", "Sk", "Sm", "Po", "Mn", "No"} for char in emoji)
    assert {"😂", "❤", "🐧", "➕", "🔗", "㊙"} <= set(emoji)


def test_emoji_of_the_texts_and_common_ones_are_in_the_vocabulary():
    rare = ["🪿", "🦖", "🏻"]
    assert not set(rare) & set(common_emoji())
    cover = EmojiCover()
    texts = [*["今天下班路上看到晚霞"] * 9, *(f"{'好吃了'[n]}{char}" for n, char in enumerate(rare)), "1#©"]
    watched = cover.watch(texts)
    made = train_tokenizer(watched, vocab_size=2000, min_frequency=3, always=cover)
    vocabulary = made.get_vocab()
    assert [*common_emoji(), *rare] == list(cover)
    assert set(cover) | {"晚", "霞"} <= set(vocabulary)
    # Neither rare characters nor digits and signs that are only emoji with a selector behind them.
    assert not {"好", "©"} & set(vocabulary)
    assert made.encode("😂🦖", add_special_tokens=False).tokens == ["😂", "🦖"]


def test_a_vocabulary_without_room_for_emoji_is_refused():
    with pytest.raises(ShudunError, match="vocab_size is 200: no room for"):
        train_tokenizer(["晚霞"], vocab_size=200, always=EmojiCover())


def test_the_vocabulary_is_never_larger_than_asked():
    texts = [chr(0x4E00 + number) for number in range(3000)]
    made = train_tokenizer(texts, vocab_size=1500, min_frequency=1, always=EmojiCover())
    assert made.get_vocab_size() == 1500
