"""Scores of rows beside a report: what was saved comes back, rows are known whatever file they came from."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest

from shudun import Comment, Note, ShudunError
from shudun.items import Item
from shudun_training.examples import NEGATIVE, POSITIVE, UNKNOWN
from shudun_training.row_scores import RowScores, load_row_scores, row_scores

LABELS = ("导流", "b")


def some(items: list[Item], seed: int = 0) -> RowScores:
    rng = np.random.default_rng(seed)
    scores = rng.random((len(items), 2), dtype=np.float32)
    references = rng.choice([POSITIVE, NEGATIVE, UNKNOWN], (len(items), 2))
    return row_scores(LABELS, items, scores, scores > 0.5, references)


def test_what_was_saved_comes_back(items: list[Item], tmp_path: Path) -> None:
    saved = some(items)
    saved.save(tmp_path / "new" / "scores.npz")
    loaded = load_row_scores(tmp_path / "new" / "scores.npz")
    assert loaded.label_ids == LABELS
    for name in ("rows", "scores", "selected", "references"):
        before, after = getattr(saved, name), getattr(loaded, name)
        np.testing.assert_array_equal(before, after)
        assert before.dtype == after.dtype, name


def test_the_file_holds_no_text(tmp_path: Path) -> None:
    some([Comment("secret words", id="my-id")]).save(tmp_path / "scores.npz")
    with np.load(tmp_path / "scores.npz") as arrays:
        assert set(arrays) == {"label_ids", "rows", "scores", "selected", "references"}
    content = (tmp_path / "scores.npz").read_bytes()
    assert b"secret" not in content
    assert b"my-id" not in content


def test_rows_are_known_by_what_is_scored() -> None:
    same = some([Comment("a", id="1"), Comment("a", id="2")]).rows
    assert same[0] == same[1]
    others: list[Item] = [Comment("a"), Comment("a", parent_text="b"), Comment("b", parent_text="a")]
    others += [Note("a", ""), Note("", "a"), Note("a", "b"), Note("b", "a"), Comment("\ud800")]
    assert len(set(some(others).rows.tolist())) == len(others)


def test_order_does_not_matter(items: list[Item]) -> None:
    whole = some(items)
    order = np.random.default_rng(1).permutation(len(items))
    parts = (whole.rows, whole.scores, whole.selected, whole.references)
    shuffled = RowScores(LABELS, *(part[order] for part in parts))
    for name in ("rows", "scores", "selected", "references"):
        np.testing.assert_array_equal(getattr(shuffled.ordered(), name), getattr(whole.ordered(), name))


def test_arrays_that_do_not_fit_are_refused() -> None:
    one = some([Comment("a")])
    with pytest.raises(ValueError, match=r"scores: expected shape \(1, 2\), got \(1, 1\)"):
        RowScores(LABELS, one.rows, one.scores[:, :1], one.selected, one.references)


def test_damaged_and_pickled_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "scores.npz"
    some([Comment("a")]).save(path)
    whole = path.read_bytes()
    objects, fewer, array = io.BytesIO(), io.BytesIO(), io.BytesIO()
    np.save(array, np.zeros(3))
    np.savez(objects, label_ids=np.array([{}], dtype=object))
    np.savez(fewer, label_ids=np.array(["a"]))
    for content in (b"", whole[: len(whole) // 2], objects.getvalue(), fewer.getvalue(), array.getvalue()):
        path.write_bytes(content)
        with pytest.raises(ShudunError, match=r"scores\.npz: no scores of rows .*shudun evaluate"):
            load_row_scores(path)
    with pytest.raises(ShudunError, match="no scores of rows"):
        load_row_scores(tmp_path / "missing.npz")
