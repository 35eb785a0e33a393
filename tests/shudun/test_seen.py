"""Seen ids: exactly the second and later occurrences are known, for any id and for many."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from shudun.seen import SeenIds


@given(ids=st.lists(st.text(st.one_of(st.characters(), st.sampled_from("ab\ud800\x00")), max_size=3)))
def test_only_repeated_ids_are_known(ids):
    with SeenIds() as seen:
        assert [seen.add(row_id) for row_id in ids] == [row_id not in ids[:i] for i, row_id in enumerate(ids)]


def test_alike_ids_are_kept_apart():
    ids = ["", " ", "a", "A", "a ", "\x00", "a\x00", "é", "e\u0301", "\ud800", "\ufffd", "1", "01"]
    with SeenIds() as seen:
        assert all(seen.add(row_id) for row_id in ids)
        assert not any(seen.add(row_id) for row_id in ids)


def test_many_ids_and_two_sets_at_once():
    with SeenIds() as one, SeenIds() as two:
        assert all(one.add(f"row-{i}") for i in range(50_000))
        assert not any(one.add(f"row-{i}") for i in range(0, 50_000, 1000))
        assert two.add("row-0")


def test_a_set_starts_empty_each_time():
    seen = SeenIds()
    for _ in range(2):
        with seen:
            assert seen.add("a")
            assert not seen.add("a")
