"""The n-gram branch as a model: its dictionary, features, fit, blend and file, each against an independent way."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from transformers import AutoModelForSequenceClassification

from shudun import Comment, ShudunError, Taxonomy
from shudun.tokenization import Encoded
from shudun_training.checkpoint import build_tokenizer, item_tokenizer, load_checkpoint, save_checkpoint
from shudun_training.examples import NEGATIVE, POSITIVE, UNKNOWN
from shudun_training.ngram_branch.dictionary import build_dictionary
from shudun_training.ngram_branch.double_array import build_double_array
from shudun_training.ngram_branch.fitting import fit_blend, fit_branch
from shudun_training.ngram_branch.storage import BRANCH_FILE, HEADER, load_branch, save_branch

VOCABULARY = 7


def encoded(rows):
    starts = np.cumsum([0, *map(len, rows)])
    ids = np.array([token for row in rows for token in row], dtype=np.int64)
    none, one = np.zeros(len(rows), np.bool_), np.ones(len(rows), np.int64)
    return Encoded(ids, starts, one, none, one, pad_id=0, max_length=16)


def ngrams(row, max_order):
    return [tuple(row[i : i + n]) for n in range(1, max_order + 1) for i in range(len(row) + 1 - n)]


def spelt(dictionary):
    """The n-grams of a dictionary as tuples of tokens, in order of their numbers."""
    found = [()]
    for prefix, token in zip(dictionary.prefix, dictionary.token, strict=True):
        found.append((*found[prefix], int(token)))
    return found[1:]


texts_of_tokens = st.lists(st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=9), min_size=1, max_size=8)


@given(rows=texts_of_tokens, others=texts_of_tokens, max_order=st.integers(1, 4), min_df=st.integers(1, 3))
def test_the_dictionary_keeps_and_counts_what_a_plain_count_does(rows, others, max_order, min_df):
    frequency = Counter(x for row in rows for x in set(ngrams(row, max_order)))
    kept = {x for x, rows_with in frequency.items() if rows_with >= min_df}
    dictionary, found = build_dictionary(encoded(rows), max_order=max_order, min_df=min_df)
    names = spelt(dictionary)
    assert set(names) == kept
    assert len(names) == len(kept)
    assert [frequency[name] for name in names] == found.tolist()
    assert [sum(len(x) == n for x in kept) for n in range(1, max_order + 1)] == list(dictionary.sizes)
    for texts in (rows, others):
        counts = dictionary.counts(encoded(texts)).toarray()
        for row, count in zip(texts, counts, strict=True):
            expected = Counter(x for x in ngrams(row, max_order) if x in kept)
            assert {name: n for name, n in zip(names, count, strict=True) if n} == expected


@given(rows=texts_of_tokens, max_order=st.integers(1, 4), min_df=st.integers(1, 2))
def test_the_double_array_finds_each_kept_ngram_and_takes_no_other_for_one(rows, max_order, min_df):
    dictionary, _ = build_dictionary(encoded(rows), max_order=max_order, min_df=min_df)
    tables = build_double_array(dictionary, VOCABULARY)
    number = {name: i + 1 for i, name in enumerate(spelt(dictionary))}
    assert tables.single.tolist() == [number.get((token,), 0) for token in range(VOCABULARY)] + [0]
    for name in [(), *number]:
        if not 0 < len(name) < max_order:
            continue
        for token in range(VOCABULARY + 1):  # the last one is padding
            place = tables.base[number[name]] + token
            found = tables.number[place] if tables.check[place] == number[name] else 0
            assert found == number.get((*name, token), 0)


def test_a_double_array_of_many_ngrams_is_dense_and_exact():
    rng = np.random.default_rng(0)
    rows = [(rng.zipf(1.3, 60) % 900).tolist() for _ in range(300)]
    dictionary, _ = build_dictionary(encoded(rows), max_order=3, min_df=1)
    tables = build_double_array(dictionary, 900)
    longer = np.arange(dictionary.sizes[0], len(dictionary))
    places = tables.base[dictionary.prefix[longer]] + dictionary.token[longer]
    assert len(np.unique(places)) == len(longer)
    np.testing.assert_array_equal(tables.number[places], longer + 1)
    np.testing.assert_array_equal(tables.check[places], dictionary.prefix[longer])
    assert len(tables.number) < 1.2 * len(longer) + 900


ITEMS = [Comment(f"加我微信 demo_{i:04d} 领优惠优惠优惠", parent_text="怎么买" if i % 2 else "") for i in range(12)]
ITEMS += [Comment(f"今天的晚霞真好看，走了{i}公里") for i in range(12)]
TRUTH = np.repeat([POSITIVE, NEGATIVE], 12)


def fitted(trained, *columns, **options):
    labels = np.column_stack([np.broadcast_to(column, 24) for column in columns]).astype(np.int64)
    settings = {"max_order": 2, "min_df": 2, "inverse_regularisation": 4.0} | options
    return fit_branch(ITEMS, labels, trained.encoder, **settings)


def alone(branch, trained, *texts):
    return branch.logits(trained.encoder.encode([Comment(text) for text in texts]))


@pytest.mark.parametrize(("max_order", "min_df"), [(1, 1), (2, 2), (3, 2)])
def test_it_is_the_linear_model_that_scikit_learn_fits(max_order, min_df, trained, items):
    rng = np.random.default_rng(0)
    columns = [TRUTH, rng.integers(0, 2, 24), np.where(rng.random(24) < 0.3, UNKNOWN, TRUTH)]
    branch = fitted(trained, *columns, max_order=max_order, min_df=min_df)

    def analyzer(item):
        return ngrams(trained.encoder.encode([item]).ids.tolist(), max_order)

    vectorizer = TfidfVectorizer(analyzer=analyzer, min_df=min_df, sublinear_tf=True).fit(ITEMS)
    assert set(spelt(branch.dictionary)) == set(vectorizer.vocabulary_)
    # In the same order of columns, so that the optimiser takes the same path.
    order = [vectorizer.vocabulary_[name] for name in spelt(branch.dictionary)]
    probes = [*ITEMS, *items]
    features, probe_features = (vectorizer.transform(x)[:, order] for x in (ITEMS, probes))
    for i, column in enumerate(columns):
        known = column != UNKNOWN
        model = LogisticRegression(C=4.0, max_iter=1000).fit(features[known], column[known])
        expected = model.decision_function(probe_features)
        assert np.ptp(expected) > 1
        np.testing.assert_allclose(branch.logits(trained.encoder.encode(probes))[:, i], expected, atol=1e-5)


def test_it_learns_and_unknown_rows_teach_nothing(trained):
    hidden = TRUTH.copy()
    hidden[1:12] = UNKNOWN
    branch = fitted(trained, TRUTH, hidden, np.where(hidden == UNKNOWN, NEGATIVE, hidden))
    spam, clean = alone(branch, trained, "加我微信 demo_9999 领优惠", "晚霞真好看")
    assert spam[0] > 0 > clean[0]
    assert spam[1] > spam[2] + 1


@pytest.mark.parametrize(
    ("value", "bias"), [(NEGATIVE, np.log(0.5 / 24.5)), (POSITIVE, np.log(24.5 / 0.5)), (UNKNOWN, 0)]
)
def test_a_label_with_one_known_class_gets_its_rate_as_a_bias(value, bias, trained):
    branch = fitted(trained, value, TRUTH)
    assert not branch.coefficients[:, 0].any()
    np.testing.assert_allclose(alone(branch, trained, "加我微信", "晚霞")[:, 0], bias, rtol=1e-6)


def test_a_text_without_a_kept_ngram_gets_the_bias(trained):
    branch = fitted(trained, TRUTH, min_df=13)
    kept = set(branch.dictionary.token[: branch.dictionary.sizes[0]].tolist())
    unseen = encoded([[next(x for x in range(5, 300) if x not in kept)] * 3])
    np.testing.assert_array_equal(branch.logits(unseen), branch.bias[None].astype(np.float64))


def test_without_any_ngram_to_keep_the_setting_is_named(trained):
    with pytest.raises(ShudunError, match=r"no n-gram stands in 25 of 24 rows; lower ngram_branch\.min_df"):
        fitted(trained, TRUTH, min_df=25)


@pytest.fixture
def blended():
    """Logits of two systems, and labels drawn from 0.5 times the first plus 2 times the second."""
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(2, 4000, 3)) * 2
    chance = 1 / (1 + np.exp(-(0.5 * first + 2 * second - 1)))
    return first, second, (rng.random(chance.shape) < chance).astype(np.int64)


def test_the_blend_finds_the_weights_the_labels_were_drawn_with(blended):
    first, second, labels = blended
    weights = fit_blend(first, second, labels)
    assert (weights.encoder, weights.branch) == pytest.approx((0.5, 2), rel=0.1)


def test_a_bias_of_the_encoder_does_not_change_its_weight(blended):
    first, second, labels = blended
    shift = np.array([5, -3, 0.5])
    plain, biased = fit_blend(first, second, labels), fit_blend(first + shift, second, labels)
    assert (biased.encoder, biased.branch) == pytest.approx((plain.encoder, plain.branch), rel=0.05)


def test_a_part_that_misleads_gets_no_weight(blended):
    first, second, labels = blended
    assert fit_blend(-first, second, labels).encoder == 0
    assert fit_blend(first, -second, labels).branch == 0


def test_unknown_cells_and_labels_of_one_class_have_no_say(blended):
    first, second, labels = blended
    labels[:2000, 1] = UNKNOWN
    expected = fit_blend(first, second, labels)
    first[:2000, 1] *= -9
    more = [np.concatenate([x, 100 * np.ones((4000, 1))], axis=1) for x in (first, second)]
    found = fit_blend(*more, np.concatenate([labels, np.zeros((4000, 1), np.int64)], axis=1))
    assert (found.encoder, found.branch) == pytest.approx((expected.encoder, expected.branch), rel=1e-4)


def test_separable_rows_give_finite_weights():
    logits = np.array([[-1.0], [-2.0], [1.0], [2.0]])
    weights = fit_blend(logits, logits, np.array([[0], [0], [1], [1]]))
    assert 0 < weights.encoder < 10
    assert weights.branch == pytest.approx(weights.encoder)


def test_what_cannot_be_blended_is_refused(blended):
    first, second, labels = blended
    with pytest.raises(ShudunError, match="no label has positive and negative"):
        fit_blend(first, second, np.full_like(labels, UNKNOWN))
    first[3, 1] = np.nan
    with pytest.raises(ShudunError, match="NaN or Inf"):
        fit_blend(first, second, labels)


@pytest.fixture(scope="module")
def folder(trained, taxonomy, tmp_path_factory):
    path = tmp_path_factory.mktemp("branch") / "checkpoint"
    save_checkpoint(trained.model, trained.tokenizer, path)
    branch = fitted(trained, TRUTH, 1 - TRUTH, UNKNOWN, NEGATIVE)
    weights = replace(branch.weights, encoder=0.25, branch=1.5)
    save_branch(replace(branch, weights=weights), path, trained.encoder, taxonomy)
    return path


def test_a_saved_branch_is_read_back_as_it_was(folder, trained, taxonomy, items):
    before = fitted(trained, TRUTH, 1 - TRUTH, UNKNOWN, NEGATIVE)
    branch = load_branch(folder, trained.encoder, taxonomy)
    encoded_items = trained.encoder.encode(items)
    np.testing.assert_array_equal(branch.logits(encoded_items), before.logits(encoded_items))
    assert (branch.weights.encoder, branch.weights.branch) == (0.25, 1.5)
    logits = np.ones((len(items), 4), np.float32)
    expected = 0.25 + 1.5 * before.logits(encoded_items)
    np.testing.assert_allclose(branch.blend(logits, items, trained.encoder), expected)
    assert branch.summary() == {
        "ngrams": len(before.dictionary),
        "by_order": list(before.dictionary.sizes),
        "encoder_weight": 0.25,
        "branch_weight": 1.5,
    }


def test_a_checkpoint_with_a_branch_is_still_a_stock_folder(folder, trained):
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    ours, _ = load_checkpoint(folder)
    for name, weight in trained.model.state_dict().items():
        assert (model.state_dict()[name] == weight).all()
        assert (ours.state_dict()[name] == weight).all()


def test_a_folder_without_a_branch_has_none(trained, taxonomy, tmp_path):
    assert load_branch(tmp_path, trained.encoder, taxonomy) is None


def _edit(change):
    def edit(path):
        with safe_open(path, framework="numpy") as file:
            header = file.metadata()[HEADER]
        tensors = load_file(path)
        new = change(tensors, header) or header
        save_file(tensors, path, metadata={HEADER: new})

    return edit


def _set(name, index, value):
    def change(tensors, header):
        tensors[name][index] = value

    return _edit(change)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda path: path.write_bytes(path.read_bytes()[:-10]), id="cut-short"),
        pytest.param(lambda path: path.write_bytes(b"junk"), id="overwritten"),
        pytest.param(lambda path: path.write_bytes(b""), id="empty"),
        pytest.param(lambda path: save_file(load_file(path), path), id="no-header"),
        pytest.param(_edit(lambda _, header: header.replace('"version":1', '"version":2')), id="newer-version"),
        pytest.param(_edit(lambda _, header: header.replace('"branch_weight":1.5', '"branch_weight":-1.5')), id="sign"),
        pytest.param(_edit(lambda _, header: header.replace('"sizes":[', '"sizes":[1,')), id="sizes"),
        pytest.param(_edit(lambda tensors, _: tensors.pop("idf") is None), id="tensor-missing"),
        pytest.param(_edit(lambda tensors, _: tensors.update(more=tensors["idf"])), id="tensor-too-many"),
        pytest.param(_edit(lambda tensors, _: tensors.update(token=tensors["token"].astype(np.int64))), id="dtype"),
        pytest.param(_edit(lambda tensors, _: tensors.update(bias=tensors["bias"][:-1].copy())), id="labels-missing"),
        pytest.param(_set("coefficients", (3, 1), np.nan), id="nan"),
        pytest.param(_set("idf", 0, 0.5), id="idf"),
        pytest.param(_set("token", 0, -1), id="token-negative"),
        pytest.param(_set("token", 2, 300), id="token-past-the-vocabulary"),
        pytest.param(_set("prefix", 0, 1), id="single-token-with-prefix"),
        pytest.param(_set("prefix", -1, 0), id="pair-without-prefix"),
        pytest.param(_set("prefix", -1, 10**6), id="prefix-past-the-end"),
        pytest.param(_edit(lambda tensors, _: tensors["token"][:2].sort() or tensors["token"][:2].fill(7)), id="twice"),
    ],
)
def test_a_damaged_file_is_refused(damage, folder, trained, taxonomy, tmp_path):
    copy = shutil.copytree(folder, tmp_path / "copy")
    damage(copy / BRANCH_FILE)
    with pytest.raises(ShudunError, match=rf"{BRANCH_FILE}: damaged: .*; copy it again, or train again"):
        load_branch(copy, trained.encoder, taxonomy)


def test_a_branch_of_another_model_is_refused(folder, trained, taxonomy):
    other = item_tokenizer(build_tokenizer(trained.config, ["完全不同的词表"] * 3), max_length=32)
    with pytest.raises(ShudunError, match=r"made for another model \(tokenizer"):
        load_branch(folder, other, taxonomy)
    longer = item_tokenizer(trained.tokenizer, max_length=48)
    with pytest.raises(ShudunError, match=r"made for another model \(max_length 32, here 48\)"):
        load_branch(folder, longer, taxonomy)
    turned = taxonomy.to_dict()
    turned["labels"] = turned["labels"][::-1]
    with pytest.raises(ShudunError, match=r"made for another model \(labels"):
        load_branch(folder, trained.encoder, Taxonomy.from_dict(turned))
