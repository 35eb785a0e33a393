"""The scoring API: one row per item in order, the same whatever stands beside it, and no silent failure."""

from __future__ import annotations

import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shudun import BundleError, Comment, Note, Scorer, ShudunError, Taxonomy
from shudun import scorer as scorer_module
from shudun.calibration import Calibration
from shudun.items import is_blank
from shudun.policy import Policy
from shudun.tokenization import ItemTokenizer
from shudun_training.onnx_export import graph_outputs

ODD_TEXT = st.text(st.one_of(st.characters(), st.sampled_from("\ud800\x00\u200b\u202e\u0301😀微")))


@pytest.fixture(scope="module")
def expected(scorer, items):
    return scorer.score(items)


def numbers(rows):
    """Scores as one array, NaN where a row has none."""
    labels = next(list(row.scores) for row in rows if row.scores)
    return np.array([[row.scores.get(label, np.nan) for label in labels] for row in rows])


def test_the_fixture_tells_items_apart(scorer, items, expected):
    """Without this the tests of order and of neighbours would show nothing."""
    assert len({tuple(row.scores.values()) for row in expected}) > 0.9 * len(items)
    assert {row.suggestion for row in expected} == {"pass", "review", "block"}
    assert {row.truncated for row in expected} == {True, False}


# --- one path, many views of it -------------------------------------------------------------------------------


def test_every_view_agrees(scorer, items, expected):
    probabilities = scorer.predict_proba(items)
    held = scorer.predict(items)
    assert probabilities.shape == held.shape == (len(items), len(scorer.taxonomy.labels))
    assert list(scorer.score_iter(iter(items))) == scorer.score(tuple(items)) == expected
    for row, scores, labels in zip(expected, probabilities, held, strict=True):
        assert sorted(scorer.taxonomy.index[label] for label in row.labels) == np.flatnonzero(labels).tolist()
        assert row.primary_label == (row.labels[0] if row.labels else None)
        if row.error is None:
            assert list(row.scores) == list(scorer.taxonomy.label_ids)
            assert list(row.scores.values()) == scores.tolist()
        else:
            assert row.scores == {}
            assert np.isnan(scores).all()


def test_scores_are_those_of_the_graph_and_the_calibration(scorer, items, vivid_graph, trained, calibration, taxonomy):
    logits, embeddings = graph_outputs(vivid_graph, trained.encoder, items)
    expected = np.where(taxonomy.applicable([item.kind for item in items]), calibration.apply(logits), 0)
    expected[[is_blank(item) for item in items]] = np.nan
    np.testing.assert_allclose(scorer.predict_proba(items), expected, atol=1e-6)
    np.testing.assert_allclose(scorer.embed(items), embeddings, atol=1e-6)


def test_scores_are_those_of_the_torch_model(make_bundle, trained, items, tmp_path):
    scorer = Scorer.from_bundle(make_bundle(tmp_path / "plain"), "cpu", 1)
    encoded = trained.encoder.encode(items)
    with torch.no_grad():
        for i, item in enumerate(items):
            if is_blank(item):
                continue
            feeds = {name: torch.from_numpy(a) for name, a in encoded.batch(np.array([i])).feeds().items()}
            probabilities = torch.sigmoid(trained.model(**feeds).logits[0]).numpy()
            mask = scorer.taxonomy.applicable([item.kind])[0]
            np.testing.assert_allclose(scorer.predict_proba([item])[0], np.where(mask, probabilities, 0), atol=1e-5)


def test_one_by_one_equals_batched(scorer, items, expected):
    batched = scorer.predict_proba(items)
    single = np.concatenate([scorer.predict_proba([item]) for item in items])
    np.testing.assert_allclose(single, batched, atol=1e-5)
    alone = [scorer.score([item])[0] for item in items]
    assert [(x.labels, x.suggestion, x.truncated) for x in alone] == [
        (x.labels, x.suggestion, x.truncated) for x in expected
    ]


@pytest.mark.parametrize("batch_tokens", [0, 1, 33, 512, 100_000])
def test_the_batch_size_does_not_change_a_score(bundle, scorer, items, batch_tokens):
    other = Scorer.from_bundle(bundle, "cpu", 2, batch_tokens=batch_tokens)
    np.testing.assert_allclose(other.predict_proba(items), scorer.predict_proba(items), atol=1e-5)


@given(order=st.permutations(range(30)), size=st.integers(1, 30))
@settings(max_examples=25)
def test_position_and_neighbours_do_not_change_a_score(scorer, items, order, size):
    chosen = order[:size]
    got = scorer.predict_proba([items[i] for i in chosen])
    np.testing.assert_allclose(got, scorer.predict_proba(items)[chosen], atol=1e-5)


def test_rows_come_back_in_order_with_their_ids(scorer):
    numbered = [Comment("好" * (1 + (i * 37) % 80), id=f"n{i}") for i in range(200)]
    rows = scorer.score(numbered)
    assert [row.id for row in rows] == [item.id for item in numbered]
    assert [row.truncated for row in rows] == [len(item.text) > 30 for item in numbered]


def test_a_stream_is_read_in_chunks_and_comes_back_in_order(scorer, items, expected, monkeypatch):
    monkeypatch.setattr(scorer_module, "CHUNK_ITEMS", 7)
    taken = []

    def source():
        for item in items:
            taken.append(item)
            yield item

    stream = scorer.score_iter(source())
    assert taken == []
    rows = [next(stream)]
    assert len(taken) == 14  # one chunk handed out, the next one running
    rows += stream
    assert taken == items
    np.testing.assert_allclose(numbers(rows), numbers(expected), atol=1e-5)


def test_no_items_give_no_rows(scorer, taxonomy):
    assert scorer.score([]) == []
    assert list(scorer.score_iter([])) == []
    assert scorer.predict_proba([]).shape == scorer.predict([]).shape == (0, len(taxonomy.labels))
    assert scorer.embed([]).shape == (0, 32)


def test_embeddings_have_one_row_per_item(scorer, items):
    embeddings = scorer.embed(items)
    assert embeddings.shape == (len(items), 32)
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(scorer.embed(items[::-1])[::-1], embeddings, atol=1e-5)


# --- what counts as what --------------------------------------------------------------------------------------


def test_a_string_counts_as_a_comment(scorer):
    texts = ["加我微信 demo_0000", "好吃", "。"]
    assert scorer.score(texts) == scorer.score([Comment(text) for text in texts])
    assert (scorer.predict_proba(texts) == scorer.predict_proba([Comment(text) for text in texts])).all()
    assert (scorer.embed(texts) == scorer.embed([Comment(text) for text in texts])).all()


@pytest.mark.parametrize("method", ["score", "predict_proba", "predict", "embed", "score_iter"])
def test_one_bare_string_is_not_taken_for_a_list_of_characters(scorer, method):
    with pytest.raises(TypeError, match="wrap it in a list"):
        list(getattr(scorer, method)("加我微信"))


@pytest.mark.parametrize("method", ["score", "predict_proba", "predict", "embed", "score_iter"])
def test_what_is_no_item_is_refused(scorer, method):
    with pytest.raises(TypeError, match="expected Note, Comment or str, got int"):
        list(getattr(scorer, method)([Comment("x"), 3]))


def test_the_title_and_the_parent_count(scorer):
    rows = scorer.score(
        [Note("求链接", "好吃"), Note("", "好吃"), Comment("好吃"), Comment("好吃", parent_text="求链接")]
    )
    assert len({row.scores["diversion"] for row in rows}) == 4


def test_a_label_never_holds_where_it_does_not_apply(make_vivid, taxonomy):
    certain = Calibration(np.full(4, 1e-3), np.full(4, 10.0))
    scorer = Scorer.from_bundle(make_vivid(calibration=certain), "cpu", 1)
    note, comment = scorer.score([Note("标题", "正文"), Comment("评论")])
    assert set(note.labels) <= {"diversion", "note_only", "hard_sell"}
    assert set(comment.labels) == {"diversion", "shill", "hard_sell"}
    assert (note.scores["shill"], comment.scores["note_only"]) == (0.0, 0.0)
    assert note.scores["note_only"] > 0.99
    assert comment.scores["shill"] > 0.99


def test_of_the_exclusive_pair_only_one_holds(make_vivid, items):
    certain = Calibration(np.full(4, 1e-3), np.full(4, 10.0))
    rows = Scorer.from_bundle(make_vivid(calibration=certain), "cpu", 1).score(items)
    assert not any({"note_only", "hard_sell"} <= set(row.labels) for row in rows)


def test_the_surface_says_what_was_loaded(bundle, scorer, taxonomy, points):
    assert scorer.taxonomy == taxonomy
    assert scorer.points == points
    assert (scorer.device, scorer.threads) == ("cpu", 1)
    assert scorer.manifest.name == "tiny"


# --- rows that fail -------------------------------------------------------------------------------------------


def test_a_poison_row_fails_alone(make_vivid, edit_weights, vivid_graph, trained, scorer, items):
    poison = trained.tokenizer.convert_tokens_to_ids("晚")

    def edit(name, weights):
        if name.endswith("word_embeddings.weight"):
            weights[poison] = np.nan
        return weights

    poisoned = Scorer.from_bundle(make_vivid(graph=edit_weights(vivid_graph, edit)), "cpu", 1)
    seen = [item for item in items if not is_blank(item)]
    rows, sound = poisoned.score(seen), scorer.score(seen)
    hit = np.array(["晚" in item.text[:20] or "晚" in getattr(item, "title", "") for item in seen])
    assert 0 < hit.sum() < len(seen)
    for row, other, is_hit in zip(rows, sound, hit, strict=True):
        assert row.truncated == other.truncated
        if is_hit:
            assert (row.labels, dict(row.scores), row.primary_label, row.suggestion) == ((), {}, None, "review")
            assert "non-finite" in row.error
        else:
            assert row.error is None
            np.testing.assert_allclose(list(row.scores.values()), list(other.scores.values()), atol=1e-5)
    assert (np.isnan(poisoned.predict_proba(seen)).all(axis=1) == hit).all()
    assert not poisoned.predict(seen)[hit].any()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_non_finite_model_never_calls_anything_clean(make_vivid, edit_weights, vivid_graph, items, value):
    def edit(name, weights):
        return np.full_like(weights, value) if name.endswith("classifier.weight") else weights

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scorer = Scorer.from_bundle(make_vivid(graph=edit_weights(vivid_graph, edit)), "cpu", 1)
        rows = scorer.score(items)
        assert {(row.suggestion, row.labels, row.error is None) for row in rows} == {("review", (), False)}
        assert [row.id for row in rows] == [item.id for item in items]
        assert np.isnan(scorer.predict_proba(items)).all()
        assert not scorer.predict(items).any()


@pytest.mark.parametrize(
    "blank", [Comment(""), Comment(" \n\t\u3000"), Comment("", parent_text="求链接"), Note("", ""), Note(" ", "\n"), ""]
)
def test_nothing_to_read_is_never_called_clean(scorer, blank):
    rows = scorer.score(["好吃", blank, "求链接"])
    assert [row.error for row in rows] == [None, "no text to score", None]
    assert (rows[1].labels, dict(rows[1].scores), rows[1].suggestion) == ((), {}, "review")
    assert np.isnan(scorer.predict_proba(["好吃", blank])).all(axis=1).tolist() == [False, True]
    assert not scorer.predict([blank]).any()


@pytest.mark.parametrize("item", [Note("只有标题", ""), Note("", "只有正文"), Comment("。"), Comment("\u200b")])
def test_any_text_of_its_own_is_scored(scorer, item):
    assert scorer.score([item])[0].error is None


# --- odd texts ------------------------------------------------------------------------------------------------


@given(texts=st.lists(ODD_TEXT, max_size=5))
@settings(max_examples=50)
def test_any_text_gets_finite_scores(scorer, texts):
    rows = scorer.score([*texts, *(Note(text, text) for text in texts)])
    assert len(rows) == 2 * len(texts)
    for row, text in zip(rows, texts * 2, strict=True):
        assert (row.error is None) == bool(text.strip()) == bool(row.scores)
        assert all(0.0 <= score <= 1.0 for score in row.scores.values())


def test_a_huge_text_among_small_ones_is_scored_and_flagged(scorer):
    rows = scorer.score(["好吃", "长" * 10_000_000, "求链接"])
    assert [row.truncated for row in rows] == [False, True, False]
    assert all(row.error is None for row in rows)
    np.testing.assert_allclose(
        list(rows[0].scores.values()), list(scorer.score(["好吃"])[0].scores.values()), atol=1e-5
    )


# --- processes, threads and bundles that do not fit -----------------------------------------------------------


def test_a_pickled_scorer_gives_the_same_rows(scorer, items, expected):
    assert pickle.loads(pickle.dumps(scorer)).score(items) == expected  # noqa: S301


def test_calls_from_many_threads_are_not_swapped(scorer, items):
    expected = {i: scorer.predict_proba(items[i:]) for i in range(10)}
    with ThreadPoolExecutor(8) as pool:
        jobs = [(i, pool.submit(scorer.predict_proba, items[i:])) for i in range(10) for _ in range(5)]
        for i, job in jobs:
            np.testing.assert_allclose(job.result(), expected[i], atol=1e-5)


def test_a_graph_with_another_number_of_labels_is_refused(make_bundle, taxonomy, points, tmp_path):
    shorter = taxonomy.to_dict()
    shorter["labels"], shorter["exclusive"] = shorter["labels"][:3], []
    parts = {
        "taxonomy": Taxonomy.from_dict(shorter),
        "calibration": Calibration.identity(3),
        "points": points[:3],
    }
    folder = make_bundle(tmp_path / "bundle", **parts)
    with pytest.raises(BundleError, match="4 outputs, the taxonomy 3 labels"):
        Scorer.from_bundle(folder, "cpu", 1)


def test_a_policy_without_a_needed_tier_is_refused(make_bundle, policy, tmp_path):
    lacking = Policy("p", "1", {tier: rule for tier, rule in policy.tiers.items() if tier != "T3"})
    folder = make_bundle(tmp_path / "bundle", policy=lacking)
    with pytest.raises(ShudunError, match=r"no rule for tiers \['T3'\]"):
        Scorer.from_bundle(folder, "cpu", 1)


def test_the_length_of_the_bundle_counts(make_vivid, trained):
    short = ItemTokenizer(trained.encoder.to_json(), max_length=16)
    scorer = Scorer.from_bundle(make_vivid(tokenizer=short), "cpu", 1)
    assert [row.truncated for row in scorer.score(["好" * 14, "好" * 15])] == [False, True]
