"""Importers of public data: their own files in, valid rows out, nothing leaked from training into test."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shudun import RowError, ShudunError
from shudun.rows import RowReader
from shudun_training.config import load_taxonomy
from shudun_training.examples import Example, ExampleParser
from shudun_training.importers import IMPORTERS, import_dataset

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"
COLD = ("", "split", "topic", "label", "TEXT")
TOXICN = ("", "platform", "topic", "content", "toxic", "toxic_type", "expression", "target")


def write(path: Path, header: tuple[str, ...], rows: list[tuple[Any, ...]]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([header, *rows])
    return path


def cold(folder: Path, **files: list[tuple[str, Any]]) -> Path:
    folder.mkdir(exist_ok=True)
    for name in ("train", "dev", "test"):
        rows = files.get(name, [(f"{name}里的一句话", 0)])
        write(folder / f"{name}.csv", COLD, [(i, name, "region", label, text) for i, (text, label) in enumerate(rows)])
    return folder


def toxicn(folder: Path, targets: list[str]) -> Path:
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    rows = []
    for i, target in enumerate(targets):
        text = "".join(map(chr, rng.integers(0x4E00, 0x9FA5, 20)))
        rows.append((i, "zhihu", "race", text, int("1" in target), 0, 0, target))
    write(folder / "ToxiCN_1.0.csv", TOXICN, rows)
    return folder


def imported(name: str, folder: Path, output: Path) -> dict[str, list[Example]]:
    """Import, and read what was written through the parser that training uses."""
    import_dataset(name, folder, output, seed=1)
    parser = ExampleParser(load_taxonomy(ROOT / "configs" / "taxonomy" / f"{name}.yaml"))
    return {split: list(RowReader(output / f"{split}.jsonl", parser)) for split in ("train", "validation", "test")}


def test_cold_keeps_its_official_split_without_repeated_texts(tmp_path: Path) -> None:
    folder = cold(
        tmp_path / "cold",
        train=[("甲", 1), ("乙", 0)],
        dev=[("丙", 1), ("甲", 1), ("丁", 0)],
        test=[("丁", 0), ("乙", 0), ("戊", 1)],
    )
    rows = imported("cold", folder, tmp_path / "out")
    found = {split: [(x.item.text, sorted(x.labels)) for x in examples] for split, examples in rows.items()}
    assert found == {
        "train": [("甲", ["offensive"]), ("乙", [])],
        "validation": [("丙", ["offensive"])],
        "test": [("丁", []), ("戊", ["offensive"])],
    }
    assert rows["train"][0].meta["topic"] == "region"


def test_toxicn_becomes_toxicity_and_targets_split_by_seed(tmp_path: Path) -> None:
    targets = ["[0, 0, 0, 0, 0, 0]", "[0, 1, 0, 0, 0, 0]", "[1, 0, 1, 0, 0, 0]", "[0, 0, 0, 0, 0, 1]"] * 15
    folder = toxicn(tmp_path / "toxicn", targets)
    rows = imported("toxicn", folder, tmp_path / "out")
    labels = {x.id: sorted(x.labels) for examples in rows.values() for x in examples}
    assert [labels[f"toxicn-{i + 2}"] for i in range(4)] == [
        [],
        ["region", "toxic"],
        ["lgbtq", "sexism", "toxic"],
        ["toxic"],
    ]
    assert sorted(map(len, rows.values())) == [6, 6, 48]
    import_dataset("toxicn", folder, tmp_path / "again", seed=1)
    import_dataset("toxicn", folder, tmp_path / "other", seed=2)
    first, again, other = ((tmp_path / name / "test.jsonl").read_bytes() for name in ("out", "again", "other"))
    assert first == again != other


@pytest.mark.parametrize("target", ["", "region", "[0, 1]", "[0, 2, 0, 0, 0, 0]", "[[0], 0, 0, 0, 0, 0]", "{'a': 1}"])
def test_a_target_that_toxicn_does_not_document_is_refused(target: str, tmp_path: Path) -> None:
    with pytest.raises(RowError) as caught:
        import_dataset("toxicn", toxicn(tmp_path / "in", [target]), tmp_path / "out", seed=1)
    assert (caught.value.problem.line, caught.value.problem.field) == (2, "target")


@pytest.mark.parametrize(("row", "field"), [(("甲", "2"), "label"), (("甲", ""), "label"), ((" ", 1), "TEXT")], ids=str)
def test_a_row_that_cold_does_not_document_is_refused(row: tuple[str, Any], field: str, tmp_path: Path) -> None:
    folder = cold(tmp_path / "in", test=[("乙", 0), row])
    with pytest.raises(RowError) as caught:
        import_dataset("cold", folder, tmp_path / "out", seed=1)
    assert (Path(caught.value.problem.file).name, caught.value.problem.line) == ("test.csv", 3)
    assert caught.value.problem.field == field
    assert not (tmp_path / "out").exists()


def test_missing_files_and_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ShudunError, match=r"train\.csv: no such file"):
        import_dataset("cold", tmp_path, tmp_path / "out", seed=1)
    with pytest.raises(ShudunError, match="unknown data set 'weibo'; known: cold, toxicn"):
        import_dataset("weibo", tmp_path, tmp_path / "out", seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(IMPORTERS))
def test_the_original_files_import_without_leaks(name: str, tmp_path: Path) -> None:
    if not (SHARED / name).is_dir():
        pytest.skip(f"the original files of {name} are not shipped")
    rows = imported(name, SHARED / name, tmp_path)
    texts = {split: {example.item.text for example in examples} for split, examples in rows.items()}
    assert not texts["train"] & texts["test"]
    assert not texts["validation"] & (texts["train"] | texts["test"])
    assert {label for example in rows["train"] for label in example.labels} == set(
        load_taxonomy(ROOT / "configs" / "taxonomy" / f"{name}.yaml").label_ids
    )
    sizes = {"cold": (25_726, 6_300, 5_284), "toxicn": (9_609, 1_201, 1_201)}[name]
    assert tuple(map(len, rows.values())) == pytest.approx(sizes, rel=0.03)
    assert json.loads((tmp_path / "train.jsonl").read_text(encoding="utf-8").splitlines()[0])["kind"] == "comment"
