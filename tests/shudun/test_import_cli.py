"""`shudun data import` and `export` as commands: every malformed file is answered with file, line and reason."""

from __future__ import annotations

import codecs
import csv
import json
from pathlib import Path

import pytest
import yaml

GOOD = {"id": "a", "text": "加我", "label": ["diversion"]}
LINE = json.dumps(GOOD, ensure_ascii=False)
GB = "加微信".encode("gb18030")

UGLY = {
    # name of the file, its bytes, format, place and reason
    "broken JSON in line 7": (
        "all.jsonl",
        b"".join(b'{"text": "%d", "label": []}\n' % i for i in range(6)) + b'{"text": "x", "label": [}\n',
        "doccano",
        "all.jsonl:7: field '(row)': expected one JSON object, got Expecting value: line 1 column 25",
    ),
    "broken element of an array": (
        "tasks.json",
        b'[{"text": "a", "label": []},\n{"text": "b", "label": ,}]',
        "doccano",
        "tasks.json:2: field '(row)': expected one JSON object, got Expecting value: line 1 column 24 (char 23)",
    ),
    "array cut short": (
        "tasks.json",
        b'[{"text": "a"},\n{"text"',
        "label-studio",
        "tasks.json:2: the array does not close",
    ),
    "ragged CSV": (
        "wide.csv",
        "text,diversion\na,1\nb,0\nc,1,多\n".encode(),
        "wide-csv",
        "wide.csv:4: field '(row)': expected 2 cells as in the header, got 3. Quote cells that hold commas",
    ),
    "open quote in a CSV": (
        "wide.csv",
        b'text,diversion\na,1\n"b,0\nc,1\n',
        "wide-csv",
        "wide.csv:3: field '(row)': expected a CSV record, got unexpected end of data.",
    ),
    "unknown label": (
        "all.jsonl",
        f'{LINE}\n{{"text": "x", "label": ["导流"]}}\n'.encode(),
        "doccano",
        "all.jsonl:2: field 'label': expected a label of the taxonomy (diversion, hard_sell, note_only, shill), got",
    ),
    "GB18030 without the option, JSONL": (
        "all.jsonl",
        b'{"text": "a", "label": []}\n{"text": "' + GB + b'", "label": []}\n',
        "doccano",
        "all.jsonl:2: field '(row)': expected valid UTF-8, got byte 0xbc at offset 10 of the line. Give the file's",
    ),
    "GB18030 without the option, CSV cell": (
        "wide.csv",
        b"text,diversion\n" + GB + b",1\n",
        "wide-csv",
        "wide.csv:2: field '(row)': expected valid UTF-8, got an invalid byte in column 'text'. Give",
    ),
    "GB18030 without the option, CSV header": (
        "wide.csv",
        b"text," + GB + b"\na,1\n",
        "wide-csv",
        "wide.csv:1: the CSV header is not valid UTF-8.",
    ),
    "GB18030 without the option, TSV": (
        "train.txt",
        "好\tdiversion\n".encode() + GB + b"\tdiversion\n",
        "paddlenlp",
        "train.txt:2: field '(row)': expected valid UTF-8, got byte 0xbc at offset 0 of the line. Give",
    ),
    "UTF-16": (
        "all.jsonl",
        LINE.encode("utf-16"),
        "doccano",
        "all.jsonl:1: field '(row)': expected valid UTF-8, got byte 0xff at offset 0 of the line.",
    ),
    "10-MB row, JSONL": (
        "all.jsonl",
        f'{LINE}\n{{"text": "{"长" * 3_500_000}", "label": []}}\n'.encode(),
        "doccano",
        "all.jsonl:2: field 'text': expected at most 1,048,576 characters, got str '3,500,000 characters: 长长",
    ),
    "10-MB row, CSV": (
        "wide.csv",
        ("text,diversion\na,1\n" + "x" * 10_000_000 + ",1\n").encode(),
        "wide-csv",
        "wide.csv:3: field 'text': expected at most 1,048,576 characters, got str '10,000,000 characters: xxxx",
    ),
    "embedded NUL": (
        "wide.csv",
        b"text,diversion\na,1\nb\0c,1\n",
        "wide-csv",
        "wide.csv:3: field 'text': expected a text without NUL characters, got str 'b\\x00c'.",
    ),
    "no tab in a TSV": (
        "train.txt",
        "好\tdiversion\r\n坏 diversion\r\n".encode(),
        "paddlenlp",
        "train.txt:2: field '(row)': expected a text, a tab and labels joined with commas, got '坏 diversion'.",
    ),
    "not a file": (None, b"", "doccano", "missing.jsonl: no such file"),
    "another type of file": ("all.xlsx", b"PK", "doccano", "all.xlsx: expected a file ending in .jsonl, .json, .csv"),
    "damaged gzip": ("all.jsonl.gz", b"\x1f\x8b\x08\0\0", "doccano", "all.jsonl.gz: the compressed file is damaged"),
    "nothing in it": ("all.jsonl", b"\n\n", "doccano", "no usable row: 0 read"),
}


@pytest.fixture
def taxonomy_file(taxonomy, tmp_path):
    path = tmp_path / "taxonomy.yaml"
    path.write_text(yaml.safe_dump(json.loads(json.dumps(taxonomy.to_dict()))), encoding="utf-8")
    return path


@pytest.fixture
def importing(shudun, taxonomy_file, tmp_path):
    """Run the import of a file; returns exit code, stdout and stderr."""

    def run(name, source, *options):
        return shudun("data", "import", name, source, tmp_path / "out", "--taxonomy", taxonomy_file, *options)

    return run


def load(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("case", UGLY)
def test_every_malformed_file_is_answered_with_file_line_and_reason(importing, tmp_path, case):
    name, data, form, reason = UGLY[case]
    path = tmp_path / (name or "missing.jsonl")
    if name:
        path.write_bytes(data)
    code, out, err = importing(form, path)
    assert (code, out) == (1, "")
    assert " ".join(reason.split()) in err
    assert len(err) < 1500
    assert not (tmp_path / "out").exists()
    assert {entry.name for entry in tmp_path.iterdir()} <= {path.name, "taxonomy.yaml"}


@pytest.mark.parametrize("case", [case for case, (_, _, _, reason) in UGLY.items() if "field" in reason])
def test_every_bad_row_can_go_aside_and_the_job_goes_on(importing, tmp_path, case):
    name, data, form, reason = UGLY[case]
    good = {"doccano": '{"text": "好", "label": []}', "wide-csv": "好,1", "paddlenlp": "好\tdiversion"}[form].encode()
    path = tmp_path / name
    if name.endswith(".json"):
        path.write_bytes(b"[" + good + b"," + data.strip()[1:])
        first = 3
    elif name.endswith(".csv"):
        header, _, rest = data.partition(b"\n")
        path.write_bytes(header + b"\n" + good + b"\n" + rest)
        first = int(reason.split(":")[1]) + 1
    else:
        path.write_bytes(good + b"\n" + data)
        first = int(reason.split(":")[1]) + 1
    code, out, err = importing(form, path, "--on-bad-row", "skip")
    assert (code, err) == (0, "")
    side = load(tmp_path / "out" / "rejected" / f"{name}.rejected.jsonl")
    assert side[0]["line"] == first
    written = load(tmp_path / "out" / "all.jsonl")
    record = json.loads((tmp_path / "out" / "import.json").read_text(encoding="utf-8"))["parts"][0]
    assert (record["written"], record["rejected"]) == (len(written), len(side))
    assert record["read"] == len(written) + len(side)
    assert f"{len(side):,} bad" in out
    assert f"bad rows with their reasons: {tmp_path / 'out' / 'rejected'}" in out


def test_bom_and_crlf_do_no_harm(importing, tmp_path):
    path = tmp_path / "wide.csv"
    path.write_bytes(codecs.BOM_UTF8 + "text,diversion\r\n加我,1\r\n好,0\r\n".encode())
    assert importing("wide-csv", path)[0] == 0
    rows = load(tmp_path / "out" / "all.jsonl")
    assert [(row["text"], row["labels"]) for row in rows] == [("加我", ["diversion"]), ("好", [])]


def test_gb18030_is_read_when_it_is_told(importing, tmp_path):
    path = tmp_path / "train.txt"
    path.write_bytes("加微信𠮷\tdiversion\n".encode("gb18030"))
    assert importing("paddlenlp", path, "--encoding", "gb18030")[0] == 0
    assert load(tmp_path / "out" / "all.jsonl")[0]["text"] == "加微信𠮷"
    path.write_text("加微信\tdiversion\n", encoding="utf-8")
    code, _, err = importing("paddlenlp", path, "--encoding", "gb18030")
    assert code == 1
    assert "is valid UTF-8, so it is not gb18030" in err


def test_columns_labels_and_shares_are_taken_from_the_command(importing, tmp_path):
    path = tmp_path / "reviews.csv"
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("nr", "评论", "标签", "店"))
        writer.writerows(
            (i, "".join(chr(0x4E00 + 20 * i + j) for j in range(20)), "导流|好", i // 2) for i in range(80)
        )
    mapping = tmp_path / "map.yaml"
    mapping.write_text("好:\n导流: shill\n", encoding="utf-8")
    columns = [("--column", pair) for pair in ("id=nr", "text=评论", "labels=标签", "group=店")]
    options = {
        "--label-separator": "|",
        "--annotated-labels": "diversion, hard_sell",
        "--split-shares": "train=0.5,validation=0.25,test=0.25",
        "--seed": 3,
    }
    pairs = [*columns, ("--label-map", mapping), ("--label-map", "导流=diversion"), *options.items()]
    code, out, _ = importing("dataset", path, *(part for pair in pairs for part in pair))
    assert code == 0
    splits = {name: load(tmp_path / "out" / f"{name}.jsonl") for name in ("train", "validation", "test")}
    assert sum(map(len, splits.values())) == 80
    assert {tuple(row["labels"]) for rows in splits.values() for row in rows} == {("diversion",)}
    assert {tuple(row["unknown_labels"]) for rows in splits.values() for row in rows} == {("note_only", "shill")}
    assert "reviews.csv: 80 read, 80 written" in out
    assert "split by seed 3 in 40 units" in out


def test_a_published_data_set_needs_its_folder_only(shudun, tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("train", "dev", "test"):
        (tmp_path / "in" / f"{name}.csv").write_text(f"topic,label,TEXT\nx,1,{name}的一句\n", encoding="utf-8")
    code, out, err = shudun("data", "import", "cold", tmp_path / "in", tmp_path / "out")
    assert (code, err) == (0, "")
    assert "train.csv: 1 read, 1 written" in out
    assert sorted(path.name for path in (tmp_path / "out").glob("*.jsonl")) == [
        "test.jsonl",
        "train.jsonl",
        "validation.jsonl",
    ]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--column", "text"], "--column takes FIELD=COLUMN"),
        (["--label-map", "导流"], "--label-map takes OLD=NEW"),
        (["--label-map", "=x"], "--label-map takes OLD=NEW"),
        (["--label-map", "a.yaml", "--label-map", "b.yml"], "takes one YAML file"),
        (["--split-shares", "train"], "--split-shares takes e.g. train=0.8"),
        (["--split-shares", "train=x"], "--split-shares takes e.g. train=0.8"),
        (["--split-shares", "../x=1"], "--split-shares takes e.g. train=0.8"),
        (["--split-shares", "a=0.5,a=0.5"], "--split-shares takes e.g. train=0.8"),
        (["--encoding", "gbk"], "'--encoding'"),
        (["--on-bad-row", "ignore"], "'--on-bad-row'"),
    ],
)
def test_wrong_usage_is_exit_code_2(importing, tmp_path, options, message):
    (tmp_path / "all.jsonl").write_text(LINE + "\n", encoding="utf-8")
    code, out, err = importing("doccano", tmp_path / "all.jsonl", *options)
    assert (code, out) == (2, "")
    assert message in err
    assert not (tmp_path / "out").exists()


def test_an_unknown_source_names_those_there_are(importing, tmp_path):
    code, _, err = importing("brat", tmp_path)
    assert code == 1
    assert "unknown data set 'brat'; known: cold, toxicn, swsr, tg_spam, telecom_fraud, doccano, label-studio" in err


def test_rows_go_out_and_come_back(shudun, importing, taxonomy_file, tmp_path):
    rows = [
        {"id": "a", "text": "加我", "parent_text": "求", "labels": ["diversion"], "unknown_labels": ["shill"]},
        {"id": "b", "kind": "note", "title": "题", "text": "好", "labels": []},
    ]
    source = tmp_path / "rows.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    for tool, name in (("doccano", "out.jsonl"), ("label-studio", "out.json")):
        options = ["--interface", tmp_path / "ui.xml"] if tool == "label-studio" else []
        code, out, err = shudun("data", "export", tool, source, tmp_path / name, "--taxonomy", taxonomy_file, *options)
        assert (code, err) == (0, "")
        assert "2 rows read, 2 written, 0 bad" in out
        assert importing(tool, tmp_path / name)[0] == 0
        back = load(tmp_path / "out" / "all.jsonl")
        for before, after in zip(rows, back, strict=True):
            assert {key: after[key] for key in before} == before
    assert (tmp_path / "ui.xml").read_text(encoding="utf-8").startswith("<View>")


@pytest.mark.parametrize("tool", ["doccano", "label-studio"])
def test_an_export_of_a_bad_row_is_refused(shudun, taxonomy_file, tmp_path, tool):
    source = tmp_path / "rows.jsonl"
    source.write_text('{"text": "a", "labels": ["x"]}\n', encoding="utf-8")
    code, out, err = shudun("data", "export", tool, source, tmp_path / "o", "--taxonomy", taxonomy_file)
    assert (code, out) == (1, "")
    assert f"{Path(source)}:1: field 'labels'" in err
    assert not (tmp_path / "o").exists()
