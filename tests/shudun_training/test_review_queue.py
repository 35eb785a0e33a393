"""`shudun data noise`: planted flips come first, unknown labels are left alone, probabilities from three sources."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray

from shudun import Comment, Scorer, ShudunError, Taxonomy
from shudun.rows import RowReader
from shudun_training.config import load_taxonomy
from shudun_training.examples import NEGATIVE, POSITIVE, UNKNOWN, ExampleParser, label_matrix
from shudun_training.label_noise import LEAST_CELLS, doubtful_first, label_quality
from shudun_training.review_queue import review_queue
from shudun_training.unseen_probabilities import FOLDS, out_of_fold

ROOT = Path(__file__).parents[2]
XHS = load_taxonomy(ROOT / "configs" / "taxonomy" / "xhs.yaml")
CUES = {"diversion": "加我微信 demo_0000", "shill": "真的好用姐妹冲", "hard_sell": "最后三天限时抢购"}
WriteJsonl = Callable[..., Path]


@pytest.fixture
def taxonomy_file(taxonomy: Taxonomy, tmp_path: Path) -> Path:
    path = tmp_path / "taxonomy.yaml"
    path.write_text(yaml.safe_dump(json.loads(json.dumps(taxonomy.to_dict()))), encoding="utf-8")
    return path


def flipped_rows(count: int = 200, flips: int = 10) -> tuple[list[dict[str, Any]], set[tuple[str, str]]]:
    """Comments with cues for their labels; `flips` labels in all are turned round; those cells by id and label."""
    rng = np.random.default_rng(0)
    rows, planted = [], set()
    for i in range(count):
        labels = [label for label in CUES if rng.random() < 0.3]
        filler = "".join(rng.choice(list("今天天气不错去江边走了走晚饭吃的面"), 12))
        rows.append({"id": f"r{i}", "text": filler + "，".join(CUES[label] for label in labels), "labels": labels})
    for i in rng.choice(count, flips, replace=False).tolist():
        label = str(rng.choice(list(CUES)))
        rows[i]["labels"] = sorted({*rows[i]["labels"]} ^ {label})
        planted.add((f"r{i}", label))
    return rows, planted


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_planted_flips_stand_first(write_jsonl: WriteJsonl, taxonomy_file: Path, tmp_path: Path) -> None:
    rows, planted = flipped_rows()
    output, doccano = tmp_path / "queue" / "q.jsonl", tmp_path / "doccano.jsonl"
    review_queue([write_jsonl(rows)], taxonomy_file, output, group_column=None, doccano=doccano, limit=40)
    queue = read(output)
    assert [row["rank"] for row in queue] == list(range(1, 41))
    top = {(row["id"], row["label"]) for row in queue[: 2 * len(planted)]}
    assert len(planted & top) >= 0.9 * len(planted)
    by_id = {row["id"]: row for row in rows}
    for row in queue:
        given = by_id[row["id"]]
        assert (row["given"] == "positive") == (row["label"] in given["labels"])
        assert row["text"] == given["text"]
        assert sorted(row["labels"]) == sorted(given["labels"])
        assert 0 <= row["probability"] <= 1
    flags = [row["flagged"] for row in queue]
    assert flags == sorted(flags, reverse=True)
    assert flags[0]
    questions = read(doccano)
    assert len({row["id"] for row in questions}) == len(questions) == len({row["id"] for row in queue})
    assert questions[0]["id"] == queue[0]["id"]
    assert questions[0]["Comments"][0].startswith(f"{queue[0]['label']}: given {queue[0]['given']}, p=")


def test_unknown_and_inapplicable_labels_are_never_judged(
    write_jsonl: WriteJsonl, taxonomy_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows, _ = flipped_rows(120)
    for row in rows[::2]:
        row["labels"] = [label for label in row["labels"] if label != "shill"]
        row["unknown_labels"] = ["shill"]
    output = tmp_path / "q.jsonl"
    review_queue([write_jsonl(rows)], taxonomy_file, output, group_column=None, limit=10_000)
    judged = {(row["id"], row["label"]) for row in read(output)}
    assert len(judged) == 120 * 2 + 60
    assert not any(label == "note_only" for _, label in judged)
    assert not any((row["id"], "shill") in judged for row in rows[::2])
    assert "not judged, fewer than 5 positives or negatives: note_only" in " ".join(capsys.readouterr().out.split())


def test_quality_of_a_label_does_not_depend_on_the_others() -> None:
    rng = np.random.default_rng(0)
    labels = np.where(rng.random((300, 2)) < 0.3, POSITIVE, NEGATIVE)
    probabilities = np.clip(np.where(labels == POSITIVE, 0.7, 0.2) + rng.normal(0, 0.15, labels.shape), 0.01, 0.99)
    labels[::3, 1] = UNKNOWN
    quality, flagged = label_quality(labels, probabilities)
    alone, alone_flagged = label_quality(labels[:, 1:], probabilities[:, 1:])
    np.testing.assert_array_equal(quality[:, 1:], alone)
    np.testing.assert_array_equal(flagged[:, 1:], alone_flagged)
    assert np.isnan(quality[::3, 1]).all()
    assert not flagged[::3, 1].any()
    known = labels != UNKNOWN
    assert ((quality[known] >= 0) & (quality[known] <= 1)).all()


def test_labels_with_too_few_rows_and_rows_without_a_score_are_left_out() -> None:
    labels = np.zeros((40, 2), dtype=np.int64)
    labels[: LEAST_CELLS - 1, 0] = POSITIVE
    labels[:20, 1] = POSITIVE
    probabilities = np.linspace(0.01, 0.99, 80).reshape(40, 2)
    probabilities[7, 1] = np.nan
    quality, _ = label_quality(labels, probabilities)
    assert np.isnan(quality[:, 0]).all()
    assert np.flatnonzero(np.isnan(quality[:, 1])).tolist() == [7]
    with pytest.raises(ShudunError, match="no label has 5 positive and 5 negative rows"):
        label_quality(labels[:, :1], probabilities[:, :1])


def test_the_order_takes_labels_and_values_in_turn() -> None:
    labels = np.array([[1, 1], [1, 0], [0, 0], [0, UNKNOWN]])
    quality = np.array([[0.1, 0.8], [0.2, 0.6], [0.3, 0.7], [0.4, np.nan]])
    flagged = np.array([[False, False], [False, False], [False, True], [False, False]])
    order = [tuple(cell) for cell in doubtful_first(labels, quality, flagged).tolist()]
    assert order == [(2, 1), (0, 0), (2, 0), (1, 1), (0, 1), (1, 0), (3, 0)]


def test_a_row_is_judged_by_a_model_that_saw_no_near_duplicate_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    texts = ["".join(map(chr, rng.integers(0x4E00, 0x9FA5, 30))) for _ in range(60)]
    items = [item for text in texts for item in (text, text + "！")]
    seen: list[set[str]] = []

    class Recorder:
        def fit(self, items: list[Any], labels: NDArray[np.int64]) -> Recorder:
            seen.append({item.text[:30] for item in items})
            return self

        def predict_proba(self, items: list[Any]) -> NDArray[np.float32]:
            assert not seen[-1] & {item.text[:30] for item in items}
            return np.full((len(items), 1), len(seen), dtype=np.float32)

    monkeypatch.setattr("shudun_training.unseen_probabilities.LinearBaseline", Recorder)
    labels = (rng.random((120, 1)) < 0.5).astype(np.int64)
    probabilities = out_of_fold([Comment(text) for text in items], labels, None, seed=1)
    assert len(seen) == FOLDS
    assert set(np.unique(probabilities).tolist()) == {1.0, 2.0, 3.0, 4.0, 5.0}


def test_a_bundle_and_its_scored_file_give_the_same_queue(
    write_jsonl: WriteJsonl, taxonomy_file: Path, tmp_path: Path, tiny_bundle: Path
) -> None:
    rows, _ = flipped_rows(60)
    source = write_jsonl(rows)
    scorer = Scorer.from_bundle(tiny_bundle)
    scored = [row.to_dict() for row in scorer.score([row["text"] for row in rows])]
    scores = write_jsonl([row | {"id": given["id"]} for row, given in zip(scored, rows, strict=True)][::-1], "s.jsonl")
    review_queue([source], taxonomy_file, tmp_path / "a.jsonl", group_column=None, bundle=tiny_bundle)
    review_queue([source], taxonomy_file, tmp_path / "b.jsonl", group_column=None, scores=scores)
    assert read(tmp_path / "a.jsonl") == read(tmp_path / "b.jsonl")
    first = read(tmp_path / "a.jsonl")[0]
    index = next(i for i, row in enumerate(rows) if row["id"] == first["id"])
    assert first["probability"] == pytest.approx(scored[index]["scores"][first["label"]], abs=1e-4)


def test_a_scored_row_with_an_error_is_left_out_and_a_missing_one_refused(
    write_jsonl: WriteJsonl, taxonomy_file: Path, tmp_path: Path, taxonomy: Taxonomy
) -> None:
    rows, _ = flipped_rows(60)
    scored: list[Any] = [{"id": row["id"], "scores": dict.fromkeys(taxonomy.label_ids, 0.3)} for row in rows]
    scored[0] = {"id": "r0", "scores": {}, "error": "no text to score"}
    source, output = write_jsonl(rows), tmp_path / "q.jsonl"
    review_queue([source], taxonomy_file, output, group_column=None, scores=write_jsonl(scored, "s.jsonl"), limit=999)
    assert "r0" not in {row["id"] for row in read(output)}
    for broken in (scored[:-1], [*scored[:-1], {"id": "r59", "scores": {"shill": 0.1}}]):
        with pytest.raises(ShudunError, match="expected scores of every label for the row with id r59"):
            review_queue([source], taxonomy_file, output, group_column=None, scores=write_jsonl(broken, "s.jsonl"))


def test_unusable_arguments_are_refused(write_jsonl: WriteJsonl, taxonomy_file: Path, tmp_path: Path) -> None:
    source, output = write_jsonl(flipped_rows(60)[0]), tmp_path / "q.jsonl"
    with pytest.raises(ShudunError, match="give one"):
        review_queue([source], taxonomy_file, output, group_column=None, bundle=tmp_path, scores=tmp_path)
    with pytest.raises(ShudunError, match="no row has a 'brand', which --group-column names"):
        review_queue([source], taxonomy_file, output, group_column="brand")
    bad = write_jsonl([{"text": ""}], "bad.jsonl")
    with pytest.raises(ShudunError, match="no usable row in"):
        review_queue([bad], taxonomy_file, output, group_column=None, on_bad_row="skip")
    assert (tmp_path / "q.jsonl.rejected-0.jsonl").is_file()


@pytest.mark.slow
def test_the_queue_of_the_shipped_data_holds_planted_flips(tmp_path: Path) -> None:
    """5 % of each label's positives dropped, and as many negatives set: measured 41 % in the first as many places."""
    files = [ROOT / "data_cards" / "shudun-xhs" / f"{split}.jsonl" for split in ("train", "validation")]
    examples = [example for path in files for example in RowReader(path, ExampleParser(XHS))]
    labels = label_matrix(examples, XHS)
    given, planted = labels.copy(), np.zeros(labels.shape, dtype=np.bool_)
    rng = np.random.default_rng(1)
    for column in range(labels.shape[1]):
        count = max(1, round(0.05 * (labels[:, column] == POSITIVE).sum()))
        for value in (POSITIVE, NEGATIVE):
            chosen = rng.choice(np.flatnonzero(labels[:, column] == value), count, replace=False)
            given[chosen, column] = POSITIVE + NEGATIVE - value
            planted[chosen, column] = True
    groups = [example.meta["group"] for example in examples]
    probabilities = out_of_fold([example.item for example in examples], given, groups, seed=1)
    order = doubtful_first(given, *label_quality(given, probabilities))
    found = planted[order[:, 0], order[:, 1]]
    flips = int(planted.sum())
    assert found[:50].mean() >= 0.6
    assert found[:flips].sum() >= 0.35 * flips
    assert found[: 4 * flips].sum() >= 0.6 * flips
