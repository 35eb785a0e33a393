"""Importers of published data: their own files in, valid rows out, nothing leaked from training into test."""

from __future__ import annotations

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from shudun import RowError, ShudunError
from shudun.rows import RowReader
from shudun_training.config import load_taxonomy
from shudun_training.examples import Example, ExampleParser
from shudun_training.importers import PUBLISHED, import_dataset
from shudun_training.importers.telecom_fraud import FILES as FRAUD_FILES

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"
COLD = ("", "split", "topic", "label", "TEXT")
SWSR = ("index", "weibo_id", "comment_text", "gender", "label", "category", "target")
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
        content = "".join(map(chr, rng.integers(0x4E00, 0x9FA5, 20)))
        rows.append((i, "zhihu", "race", content, int("1" in target), 0, 0, target))
    write(folder / "ToxiCN_1.0.csv", TOXICN, rows)
    return folder


def swsr(folder: Path, *comments: tuple[Any, ...]) -> Path:
    folder.mkdir(exist_ok=True)
    posts = sorted({row[0] for row in comments})
    write(
        folder / "SexWeibo.csv",
        ("weibo_id", "weibo_text"),
        [(post, f"{post}的正文") for post in posts if post != "没有"],
    )
    rows = [(i, post, text, "女", *judged) for i, (post, text, *judged) in enumerate(comments)]
    write(folder / "SexComment.csv", SWSR, rows)
    return folder


def telecom_fraud(folder: Path, rows: int = 8) -> Path:
    folder.mkdir(exist_ok=True)
    for number, (name, (encoding, value, _)) in enumerate(FRAUD_FILES.items()):
        texts = [f"{text(number * 100 + i)}，请回电" for i in range(rows)]
        lines = "content,label\r\n" + "".join(f"{line},{value}\r\n" for line in texts)
        (folder / name).write_bytes(lines.encode(encoding))
    return folder


def text(seed: int) -> str:
    return "".join(map(chr, np.random.default_rng(seed).integers(0x4E00, 0x9FA5, 20)))


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


def test_swsr_comments_carry_their_post_and_stay_with_it(tmp_path: Path) -> None:
    sexist = [("SA", "I"), ("SCB", "G"), ("MA", "I"), ("SO", "G")]
    comments = [(f"帖{i % 25}", text(i), *((1, *sexist[i % 4]) if i % 3 == 0 else (0, "", ""))) for i in range(100)]
    rows = imported("swsr", swsr(tmp_path / "swsr", *comments), tmp_path / "out")
    found = {x.id: x for examples in rows.values() for x in examples}
    assert found["swsr-0"].labels == {"sexist", "appearance_stereotype", "individual_target"}
    assert found["swsr-9"].labels == {"sexist", "cultural_stereotype", "generic_target"}
    assert found["swsr-1"].labels == frozenset()
    assert found["swsr-26"].item.parent_text == "帖1的正文"
    posts = [{x.meta["group"] for x in examples} for examples in rows.values()]
    assert len(set.union(*posts)) == sum(map(len, posts)) == 25


@pytest.mark.parametrize(
    ("row", "field"),
    [
        (("帖", "文", "2", "", ""), "label"),
        (("帖", "文", "1", "", "I"), "category"),
        (("帖", "文", "0", "SA", ""), "category"),
        (("帖", "文", "1", "SA", ""), "target"),
        (("帖", " ", "0", "", ""), "comment_text"),
        (("没有", "文", "0", "", ""), "weibo_id"),
    ],
)
def test_a_row_that_swsr_does_not_document_is_refused(row: tuple[Any, ...], field: str, tmp_path: Path) -> None:
    folder = swsr(tmp_path / "in", ("帖", "好", "0", "", ""), row)
    with pytest.raises(RowError) as caught:
        import_dataset("swsr", folder, tmp_path / "out", seed=1)
    assert (Path(caught.value.problem.file).name, caught.value.problem.line) == ("SexComment.csv", 3)
    assert caught.value.problem.field == field


def test_tg_spam_is_split_at_the_first_comma_and_quotes_are_text(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    odd = ['1,"看我, ""名字""', "0,2+1.3+2,4+3", "1,", "0, ", '0,"一半']
    (folder / "train.csv").write_text("\n".join(["target,input", *odd, *(f"0,{text(i)}" for i in range(60))]), "utf-8")
    rows = imported("tg_spam", folder, tmp_path / "out")
    found = {x.id: (x.item.text, x.labels) for examples in rows.values() for x in examples}
    assert found["tg_spam-2"] == ('"看我, ""名字""', {"spam"})
    assert found["tg_spam-3"] == ("2+1.3+2,4+3", frozenset())
    assert found["tg_spam-6"] == ('"一半', frozenset())
    assert len(found) == 63
    assert "65 read, 63 written, 2 left out (no text)" in capsys.readouterr().out


@pytest.mark.parametrize(("line", "field"), [("2,甲", "target"), ("甲", "(row)"), ("spam,甲", "target")])
def test_a_line_that_tg_spam_does_not_document_is_refused(line: str, field: str, tmp_path: Path) -> None:
    (tmp_path / "train.csv").write_text(f"target,input\n0,好\n{line}\n", encoding="utf-8")
    with pytest.raises(RowError) as caught:
        import_dataset("tg_spam", tmp_path, tmp_path / "out", seed=1)
    assert (caught.value.problem.line, caught.value.problem.field) == (3, field)


def test_telecom_fraud_has_one_file_in_gb18030_and_cells_that_run_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = telecom_fraud(tmp_path / "in")
    with (folder / "label00-last.csv").open("ab") as file:
        file.write('"开头,0\r\n""中间,0\r\n结尾"",0\r\n末尾",0\r\n""收尾""多引号"",0\r\n'.encode())
    rows = imported("telecom_fraud", folder, tmp_path / "out")
    found = {x.id: x for examples in rows.values() for x in examples}
    assert found["telecom_fraud-label04-2"].item.text == f"{text(400)}，请回电"
    assert found["telecom_fraud-label04-2"].labels == {"impersonating_acquaintances"}
    assert found["telecom_fraud-label00-2"].labels == frozenset()
    assert len(found) == 41
    assert "10 read, 9 written, 1 left out (several messages in one cell)" in capsys.readouterr().out


def test_a_fraud_file_in_another_encoding_or_of_another_class_is_refused(tmp_path: Path) -> None:
    folder = telecom_fraud(tmp_path / "in")
    original = (folder / "label04-last.csv").read_bytes()
    (folder / "label04-last.csv").write_bytes(original + b"\xff\xff,x\r\n")
    with pytest.raises(RowError, match=r"label04-last\.csv:10: field '\(row\)': expected valid GB18030"):
        import_dataset("telecom_fraud", folder, tmp_path / "out", seed=1)
    (folder / "label04-last.csv").write_bytes((folder / "label03-last.csv").read_bytes())
    with pytest.raises(RowError, match=r"label04-last\.csv:2: field 'label': expected 冒充领导、熟人类"):
        import_dataset("telecom_fraud", folder, tmp_path / "out", seed=1)
    (folder / "label04-last.csv").write_bytes(b"a,b\r\n")
    with pytest.raises(ShudunError, match=r"label04-last\.csv:1: expected the header"):
        import_dataset("telecom_fraud", folder, tmp_path / "out", seed=1)


def test_bad_rows_of_a_published_data_set_can_go_aside(tmp_path: Path) -> None:
    folder = cold(tmp_path / "in", test=[("乙", 0), ("丙", 7), ("丁", 1)])
    import_dataset("cold", folder, tmp_path / "out", seed=1, on_bad_row="skip")
    assert len((tmp_path / "out" / "test.jsonl").read_text(encoding="utf-8").splitlines()) == 2
    side = (tmp_path / "out" / "rejected" / "test.csv.rejected.jsonl").read_text(encoding="utf-8")
    assert [json.loads(line)["line"] for line in side.splitlines()] == [3]


@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_the_labels_of_an_importer_are_those_of_its_taxonomy(name: str, tmp_path: Path) -> None:
    from shudun_training.importers.contract import ImportOptions

    if name == "swsr":
        swsr(tmp_path, ("帖", "文", "0", "", ""))
    shipped = load_taxonomy(ROOT / "configs" / "taxonomy" / f"{name}.yaml")
    assert PUBLISHED[name](tmp_path, ImportOptions()).taxonomy.label_ids == shipped.label_ids


def test_missing_files_and_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ShudunError, match=r"train\.csv: no such file"):
        import_dataset("cold", tmp_path, tmp_path / "out", seed=1)
    with pytest.raises(ShudunError, match="unknown data set 'weibo'; known: cold, toxicn, swsr, tg_spam"):
        import_dataset("weibo", tmp_path, tmp_path / "out", seed=1)


# Records, rows left out, and the sizes of train, validation and test, of the original files.
ORIGINALS = {
    "cold": (37_480, 84, (25_726, 6_386, 5_284)),
    "toxicn": (12_011, 0, (9_612, 1_200, 1_199)),
    "swsr": (8_969, 0, (7_086, 1_074, 809)),
    "tg_spam": (18_048, 8, (14_572, 1_664, 1_804)),
    "telecom_fraud": (11_773, 11, (9_400, 1_178, 1_184)),
}
POSITIVES = {
    "cold": {"offensive": 17_978},
    "toxicn": {"toxic": 6_461, "lgbtq": 764, "region": 1_289, "sexism": 2_302, "racism": 1_874, "other_target": 311},
    "swsr": {
        "sexist": 3_093,
        "appearance_stereotype": 40,
        "cultural_stereotype": 974,
        "microaggression": 1_994,
        "sexual_offence": 85,
        "individual_target": 1_814,
        "generic_target": 1_279,
    },
    "tg_spam": {"spam": 8_979},
    "telecom_fraud": dict.fromkeys([label for _, _, label in FRAUD_FILES.values() if label], 1_000),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(PUBLISHED))
def test_the_original_files_import_without_leaks_and_with_the_counts_of_their_source(name: str, tmp_path: Path) -> None:
    if not (SHARED / name).is_dir():
        pytest.skip(f"the original files of {name} are not shipped")
    import_dataset(name, SHARED / name, tmp_path, seed=20261120)
    parser = ExampleParser(load_taxonomy(ROOT / "configs" / "taxonomy" / f"{name}.yaml"))
    rows = {split: list(RowReader(tmp_path / f"{split}.jsonl", parser)) for split in ("train", "validation", "test")}
    read, left_out, sizes = ORIGINALS[name]
    record = json.loads((tmp_path / "import.json").read_text(encoding="utf-8"))
    assert sum(part["read"] for part in record["parts"]) == read
    assert sum(sum(part["dropped"].values()) for part in record["parts"]) == left_out
    assert not any(part["rejected"] for part in record["parts"])
    assert tuple(map(len, rows.values())) == sizes
    assert sum(sizes) == read - left_out

    texts = {split: {example.item.text for example in examples} for split, examples in rows.items()}
    assert not texts["train"] & texts["test"]
    assert not texts["validation"] & (texts["train"] | texts["test"])
    positives = Counter(label for examples in rows.values() for example in examples for label in example.labels)
    # COLD's own positives are 18,041: 63 of them are among the rows that leak.
    assert positives == POSITIVES[name]
    if name == "cold":
        assert "test: 13 of 5,284 rows have a near-duplicate in train" in record["notes"][0]
