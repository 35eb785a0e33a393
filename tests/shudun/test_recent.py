"""Repeated texts: computed once, with the same rows as ever; memory bounded."""

from __future__ import annotations

import numpy as np

from shudun import Comment, Note, Scorer, scorer
from shudun.recent import TEXT_CHARACTERS, RecentResults, distinct
from shudun.rendering import render


def remember(recent, numbers, length=3):
    texts = [render(Comment(f"{number}".rjust(length, "字"))) for number in numbers]
    logits = np.array([[number, -number] for number in numbers], dtype=np.float32)
    recent.remember(texts, logits, np.array([number % 2 == 0 for number in numbers]))
    return texts


def test_what_is_remembered_comes_back_as_it_was():
    recent = RecentResults()
    texts = remember(recent, range(5))
    known = recent.known([texts[3], render(Comment("别的")), texts[2]])
    assert list(known) == [texts[3], texts[2]]
    assert known[texts[3]].logits.tolist() == [3.0, -3.0]
    assert [known[text].truncated for text in known] == [False, True]


def test_the_older_half_is_forgotten_and_long_texts_are_not_kept():
    recent = RecentResults(capacity=10)
    remember(recent, range(10))
    late = remember(recent, [10])
    assert len(recent) == 6
    assert list(recent.known(late)) == late
    remember(recent, range(100, 160))
    assert len(recent) <= 10
    before = len(recent)
    remember(recent, [7], length=TEXT_CHARACTERS + 1)
    assert len(recent) == before


def test_a_remembered_row_does_not_keep_its_chunk_alive():
    recent, logits = RecentResults(), np.zeros((1000, 4), dtype=np.float32)
    text = render(Comment("短"))
    recent.remember([text], logits[:1], np.array([False]))
    assert recent.known([text])[text].logits.base is None


def test_distinct_texts_are_those_that_render_differently():
    items = [Comment("好", id="1"), Comment("好", id="2"), Note("好", ""), Comment("好", "求"), Comment("好")]
    texts, copies = distinct(items)
    assert copies.tolist() == [0, 0, 1, 2, 0]
    assert texts == [render(items[0]), render(items[2]), render(items[3])]


def test_a_stream_with_repeats_gives_the_rows_of_single_texts_and_computes_each_once(bundle, items, monkeypatch):
    monkeypatch.setattr(scorer, "CHUNK_ITEMS", 7)
    whole = Scorer.from_bundle(bundle, "cpu", 2)
    expected = [whole.score([item])[0] for item in items]
    computed = []
    start = whole._session.start

    def counted(encoded, batching):
        computed.append(len(encoded.starts) - 1)
        return start(encoded, batching)

    monkeypatch.setattr(whole._session, "start", counted)
    rows = list(whole.score_iter([*items, *items, *reversed(items)]))
    assert rows == [*expected, *expected, *reversed(expected)]
    # What is still running when a chunk starts is not known yet: at most one chunk is computed twice.
    assert sum(computed) <= len(distinct(items)[0]) + 7
