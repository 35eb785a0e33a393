"""`shudun data split`: every good row in one file, unchanged; groups and near-duplicates together; leaks refused."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shudun import RowError, ShudunError
from shudun_training import split_files
from shudun_training.config import load_taxonomy
from shudun_training.placement import Placement
from shudun_training.split_files import check_split, largest_deviation, parse_shares, split_file

ROOT = Path(__file__).parents[2]
XHS = ROOT / "configs" / "taxonomy" / "xhs.yaml"
TAXONOMY = load_taxonomy(XHS)
SHARES = "train=0.7,validation=0.1,test=0.2"
WriteJsonl = Callable[..., Path]


def labelled(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Unrelated rows in groups of one to three, with columns of their own."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(count):
        labels = [label for label in ("dm_solicitation", "shill_comment") if rng.random() < 0.3]
        text = "".join(map(chr, rng.integers(0x4E00, 0x9FA5, 25))) + " 😀"
        rows.append(
            {"id": f"r{i}", "text": text, "labels": labels, "brand": f"b{i // rng.integers(1, 4)}", "n": [i, None]}
        )
    return rows


def lines(path: Path) -> list[str]:
    return path.read_text(encoding="utf-8").splitlines()


def split(source: Path, output: Path, **options: Any) -> dict[str, list[str]]:
    split_file(source, output, XHS, **({"shares": SHARES, "group_column": "brand", "seed": 1} | options))
    return {path.stem: lines(path) for path in output.glob("*.jsonl") if "rejected" not in path.name}


@pytest.mark.parametrize("seed", range(3))
def test_every_row_lands_in_one_file_as_it_stood_and_no_group_is_parted(
    write_jsonl: WriteJsonl, tmp_path: Path, seed: int
) -> None:
    rows = labelled(200, seed)
    rows += [row | {"id": row["id"] + "x", "text": row["text"] + "！", "brand": None} for row in rows[:40]]
    source = write_jsonl(rows)
    found = split(source, tmp_path / "out", seed=seed)
    assert Counter(line for written in found.values() for line in written) == Counter(lines(source))
    assert set(found) == {"train", "validation", "test"}
    place = {json.loads(line)["id"]: name for name, written in found.items() for line in written}
    brands: dict[str, set[str]] = {}
    for row in rows[:200]:
        brands.setdefault(row["brand"], set()).add(place[row["id"]])
    assert all(len(names) == 1 for names in brands.values())
    assert all(place[f"r{i}"] == place[f"r{i}x"] for i in range(40))
    assert len(found["train"]) == pytest.approx(0.7 * len(rows), abs=0.06 * len(rows))
    check_split(tmp_path / "out", XHS, group_column="brand")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "test.jsonl",
        "train.jsonl",
        "validation.jsonl",
    ]


def test_the_same_seed_gives_the_same_files(write_jsonl: WriteJsonl, tmp_path: Path) -> None:
    source = write_jsonl(labelled(100))
    first, again, other = (split(source, tmp_path / str(i), seed=seed) for i, seed in enumerate((3, 3, 4)))
    assert first == again != other


def test_a_csv_file_becomes_rows_with_all_its_columns(tmp_path: Path) -> None:
    rows = [row | {"labels": json.dumps(row["labels"]), "n": f"{i},\n"} for i, row in enumerate(labelled(60))]
    with (tmp_path / "rows.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    found = split(tmp_path / "rows.csv", tmp_path / "out")
    written = [json.loads(line) for part in found.values() for line in part]
    assert sorted(written, key=lambda row: row["id"]) == sorted(rows, key=lambda row: row["id"])


def test_bad_rows_end_the_split_or_go_to_a_side_file(write_jsonl: WriteJsonl, tmp_path: Path) -> None:
    rows: list[Any] = labelled(60)
    rows.insert(5, {"id": "bad", "text": "x", "labels": ["nothing"]})
    source = write_jsonl(rows)
    with pytest.raises(RowError, match=r"rows\.jsonl:6: field 'labels'"):
        split(source, tmp_path / "fail")
    assert list((tmp_path / "fail").iterdir()) == []
    found = split(source, tmp_path / "skip", on_bad_row="skip")
    assert sum(map(len, found.values())) == 60
    (side,) = lines(tmp_path / "skip" / "rows.jsonl.rejected.jsonl")
    assert json.loads(json.loads(side)["raw"])["id"] == "bad"
    check_split(tmp_path / "skip", XHS, group_column="brand")


def test_counts_and_the_largest_deviation_are_shown(
    write_jsonl: WriteJsonl, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = labelled(100)
    found = split(write_jsonl(rows), tmp_path / "out")
    output = " ".join(capsys.readouterr().out.replace("│", " ").split())
    counts = [
        sum("dm_solicitation" in json.loads(line)["labels"] for line in found[name]) for name in parse_shares(SHARES)
    ]
    assert "dm_solicitation " + " ".join(map(str, counts)) in output
    assert "100 rows read, 100 good, 0 bad" in output
    assert "largest deviation from the asked shares: " in output


def test_the_largest_deviation_names_label_and_split() -> None:
    labels = np.zeros((10, len(TAXONOMY.labels)), dtype=np.int8)
    labels[:4, 1] = 1
    file = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 1], dtype=np.int16)
    nothing = np.zeros(10, dtype=np.int64)
    rows = Placement(file, nothing, labels, nothing.astype(np.uint64), nothing, raw_sum=0)
    sentence = largest_deviation(rows, {"a": 0.5, "b": 0.5}, TAXONOMY)
    assert sentence.endswith("dm_solicitation in a, 100.0% (4 of 4) instead of 50.0%")


@pytest.mark.parametrize(
    ("second", "options", "message"),
    [
        ({"text": "一句别的话，讲的是猫和狗", "brand": "b0"}, {"group_column": "brand"}, "1 group"),
        ({"text": "{}！"}, {"group_column": None}, "1 near-duplicate family"),
        ({"text": "{}"}, {"group_column": None}, "1 near-duplicate family"),
    ],
    ids=["group", "edit", "copy"],
)
def test_an_existing_split_that_leaks_is_refused(
    write_jsonl: WriteJsonl, tmp_path: Path, second: dict[str, str], options: dict[str, Any], message: str
) -> None:
    rows = labelled(4)
    write_jsonl(rows[:3], "train.jsonl")
    path = write_jsonl(rows[3:], "test.jsonl")
    check_split(tmp_path, XHS, **options)
    leak = second | {"id": "leak", "labels": [], "text": second["text"].format(rows[0]["text"])}
    write_jsonl([*rows[3:], leak], path.name)
    with pytest.raises(ShudunError, match=rf"leakage: {message}\(.*\) in more than one split, e\.g\. test:2 ~ train:1"):
        check_split(tmp_path, XHS, **options)


@pytest.mark.parametrize("files", [["train.jsonl"], ["train.jsonl", "train.csv"], []], ids=["one", "twice", "none"])
def test_a_folder_without_two_splits_is_refused(tmp_path: Path, files: list[str]) -> None:
    for name in [*files, "readme.md", "x.jsonl.rejected.jsonl"]:
        (tmp_path / name).write_text('{"text": "好"}\n', encoding="utf-8")
    with pytest.raises(ShudunError, match="one file for each of at least two splits"):
        check_split(tmp_path, XHS, group_column=None)


def test_a_group_column_that_no_row_has_is_refused(write_jsonl: WriteJsonl, tmp_path: Path) -> None:
    with pytest.raises(ShudunError, match="no row has a 'barnd', which --group-column names"):
        split(write_jsonl(labelled(30)), tmp_path / "out", group_column="barnd")


def test_a_file_that_would_be_overwritten_is_refused(write_jsonl: WriteJsonl, tmp_path: Path) -> None:
    source = write_jsonl(labelled(30), "train.jsonl")
    before = source.read_bytes()
    with pytest.raises(ShudunError, match="stands where a split would be written"):
        split(source, tmp_path)
    assert source.read_bytes() == before


def test_nothing_takes_its_name_when_the_written_rows_leak_or_differ(
    write_jsonl: WriteJsonl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check reads what was written: a split that parts groups, or a file that changes meanwhile, is caught."""
    source = write_jsonl(labelled(60))
    with monkeypatch.context() as patch:
        patch.setattr(split_files, "grouped_split", lambda labels, *_, **__: np.resize(["train", "test"], len(labels)))
        with pytest.raises(ShudunError, match=r"leakage: \d+ group"):
            split(source, tmp_path / "out")
    real = split_files.grouped_split

    def swap(*arguments: Any, **options: Any) -> Any:
        source.write_text(source.read_text(encoding="utf-8").replace('"n": [7,', '"n": [8,'), encoding="utf-8")
        return real(*arguments, **options)

    monkeypatch.setattr(split_files, "grouped_split", swap)
    with pytest.raises(ShudunError, match="the written rows are not those of"):
        split(source, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("shares", ["", "train", "train=x", "train=0", "a=0.5,a=0.5", "../a=1", "train=nan"])
def test_shares_of_another_form_are_refused(shares: str) -> None:
    with pytest.raises(ShudunError, match="expected NAME=SHARE"):
        parse_shares(shares)


def test_shares_are_parsed_in_order() -> None:
    assert list(parse_shares(" test=0.2, train=0.8 ").items()) == [("test", 0.2), ("train", 0.8)]
