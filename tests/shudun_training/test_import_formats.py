"""Formats of one's own data: what each documents becomes rows; what it does not is answered with file, line, reason."""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import yaml

from shudun import RowError, ShudunError, Taxonomy
from shudun_training.importers import import_dataset
from shudun_training.importers.fields import agreed

datasets.disable_progress_bars()

Import = Callable[..., list[dict[str, Any]]]


def jsonl(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def array(path: Path, rows: list[Any]) -> Path:
    path.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")
    return path


def table(path: Path, *rows: tuple[Any, ...]) -> Path:
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def load(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def taxonomy_file(taxonomy: Taxonomy, tmp_path: Path) -> Path:
    path = tmp_path / "taxonomy.yaml"
    path.write_text(yaml.safe_dump(json.loads(json.dumps(taxonomy.to_dict()))), encoding="utf-8")
    return path


@pytest.fixture
def run(taxonomy_file: Path, tmp_path: Path) -> Import:
    """Import a file with the test taxonomy and return what was written."""

    def run(name: str, source: Path, **options: Any) -> list[dict[str, Any]]:
        import_dataset(name, source, tmp_path / "out", seed=1, taxonomy=taxonomy_file, **options)
        return [row for path in sorted((tmp_path / "out").glob("*.jsonl")) for row in load(path)]

    return run


def labels(rows: list[dict[str, Any]]) -> list[tuple[list[str] | None, list[str]]]:
    return [(row["labels"], row["unknown_labels"]) for row in rows]


# --- doccano --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("column", ["label", "labels", "cats"])
@pytest.mark.parametrize(("write", "name"), [(jsonl, "all.jsonl"), (array, "all.json")])
def test_doccano(column: str, write: Any, name: str, run: Import, tmp_path: Path) -> None:
    rows = [
        {
            "id": 7,
            "text": "加我",
            column: ["diversion", "?shill"],
            "kind": "comment",
            "parent_text": "求",
            "店": "甲",
        },
        {"id": 8, "text": "正文", "title": "题", "kind": "note", column: [], "Comments": []},
        {"id": 9, "text": "没标过"},
    ]
    found = run("doccano", write(tmp_path / name, rows))
    assert labels(found) == [(["diversion"], ["shill"]), ([], []), (None, [])]
    assert [(row["id"], row["kind"]) for row in found] == [("7", "comment"), ("8", "note"), ("9", "comment")]
    assert (found[0]["parent_text"], found[0]["店"], found[1]["title"]) == ("求", "甲", "题")


def test_doccano_csv_joins_labels_with_a_hash(run: Import, tmp_path: Path) -> None:
    path = table(tmp_path / "all.csv", ("id", "text", "label"), (1, "加我", "diversion#hard_sell"), (2, "好", ""))
    assert labels(run("doccano", path)) == [(["diversion", "hard_sell"], []), ([], [])]


def test_an_open_label_that_was_also_given_is_given(run: Import, tmp_path: Path) -> None:
    found = run("doccano", jsonl(tmp_path / "all.jsonl", [{"text": "a", "label": ["?diversion", "diversion"]}]))
    assert labels(found) == [(["diversion"], [])]


@pytest.mark.parametrize(
    ("row", "field", "hint"),
    [
        ({"text": "a", "label": [[0, 1, "diversion"]]}, "label", "text classification"),
        ({"text": "a", "label": ["diversion"], "cats": []}, "labels", "--column labels=NAME"),
        ({"text": "a", "label": ["导流"]}, "label", "--label-map '导流=LABEL'"),
        ({"text": "a", "label": [1]}, "label", "--label-map"),
        ({"text": "a", "label": {"a": 1}}, "label", "list of names"),
        ({"data": "a", "label": []}, "text", "It has data, label; name the right one with --column text=NAME"),
        ({"text": 5, "label": []}, "text", "as text"),
        ({"text": " ", "label": []}, "text", "nothing to label"),
        ({"text": "a\0b", "label": []}, "text", "NUL"),
        ({"text": "长" * 1_100_000, "label": []}, "text", "quote or line break"),
        ({"text": "\ud83d", "label": []}, "(row)", "surrogate"),
        ({"text": "a", "label": ["note_only"]}, "labels", "fix kind"),
        ({"text": "a", "title": "t", "kind": "note", "label": ["note_only", "hard_sell"]}, "labels", "exclude"),
    ],
)
def test_a_row_that_doccano_does_not_write_is_refused(
    row: dict[str, Any], field: str, hint: str, run: Import, tmp_path: Path
) -> None:
    path = tmp_path / "all.jsonl"
    path.write_text(json.dumps({"text": "好", "label": []}) + "\n\n" + json.dumps(row) + "\n", encoding="utf-8")
    with pytest.raises(RowError) as caught:
        run("doccano", path)
    problem = caught.value.problem
    assert (problem.file, problem.line, problem.field) == (str(path), 3, field)
    assert hint in problem.hint
    assert len(str(caught.value)) < 1000
    assert not (tmp_path / "out").exists()


# --- label studio ---------------------------------------------------------------------------------------------------


def task(*annotations: Any, **data: Any) -> dict[str, Any]:
    return {"id": 5, "data": {"text": "加我", **data}, "annotations": list(annotations), "predictions": [1], "meta": {}}


def annotation(*choices: str, control: str = "labels", unknown: tuple[str, ...] = (), **fields: Any) -> dict[str, Any]:
    result = [
        {"from_name": name, "to_name": "text", "type": "choices", "value": {"choices": list(given)}}
        for name, given in ((control, choices), ("unknown_labels", unknown))
        if given
    ]
    return {"id": 1, "completed_by": 1, "was_cancelled": False, "ground_truth": False, "result": result, **fields}


@pytest.mark.parametrize(
    ("annotations", "expected"),
    [
        ([], (None, [])),
        ([annotation()], ([], [])),
        ([annotation("diversion", "shill")], (["diversion", "shill"], [])),
        ([annotation("diversion", control="违规")], (["diversion"], [])),
        ([annotation("diversion", unknown=("shill",))], (["diversion"], ["shill"])),
        ([annotation("diversion"), annotation("diversion", "shill")], (["diversion"], ["shill"])),
        ([annotation("diversion"), annotation("shill")], ([], ["diversion", "shill"])),
        ([annotation("diversion", ground_truth=True), annotation("shill")], (["diversion"], [])),
        ([annotation("diversion", was_cancelled=True), annotation("shill")], (["shill"], [])),
        ([annotation("diversion", was_cancelled=True)], (None, [])),
        ([annotation("diversion"), annotation(unknown=("diversion",))], (["diversion"], [])),
    ],
)
def test_label_studio_annotations_become_one_judgement(
    annotations: list[Any], expected: Any, run: Import, tmp_path: Path
) -> None:
    found = run("label-studio", array(tmp_path / "export.json", [task(*annotations, parent_text="求", shop="甲")]))
    assert labels(found) == [expected]
    assert (found[0]["id"], found[0]["parent_text"], found[0]["shop"]) == ("5", "求", "甲")
    assert "predictions" not in found[0]


def test_label_studio_says_what_it_left_out(run: Import, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    span = {"from_name": "span", "type": "labels", "value": {"start": 0, "end": 1, "labels": ["词"]}}
    entry = annotation("diversion")
    entry["result"].append(span)
    rows = [task(entry, id="a"), task(annotation("shill"), annotation(), id="b"), task(id="c")]
    run("label-studio", array(tmp_path / "export.json", rows))
    out = capsys.readouterr().out
    assert "1 results that are no choices, left out" in out
    assert "1 labels left open because annotators differ" in out
    assert "1 tasks without an annotation, kept as not labelled" in out
    assert "skipped" not in out


def test_label_studio_json_min(run: Import, tmp_path: Path) -> None:
    common = {"annotator": 1, "annotation_id": 1, "created_at": "x", "updated_at": "x", "lead_time": 1.5}
    rows = [
        {"id": 1, "text": "a", "labels": "diversion", **common},
        {"id": 2, "text": "b", "labels": {"choices": ["diversion", "shill"]}, "unknown_labels": "hard_sell", **common},
        {"id": 3, "text": "c", **common},
        {"id": 4, "text": "d", **common, "annotation_id": None},
    ]
    found = run("label-studio", array(tmp_path / "min.json", rows))
    expected = [(["diversion"], []), (["diversion", "shill"], ["hard_sell"]), ([], []), (None, [])]
    assert labels(found) == expected
    assert set(found[0]) == {"id", "kind", "title", "text", "parent_text", "labels", "unknown_labels"}

    # A control by another name is read when it is named, and never taken for "no label".
    renamed = [{"违规" if key == "labels" else key: value for key, value in row.items()} for row in rows]
    with pytest.raises(ShudunError, match="no row has choices of a control 'labels'"):
        run("label-studio", array(tmp_path / "renamed.json", renamed))
    assert labels(run("label-studio", tmp_path / "renamed.json", columns={"labels": "违规"})) == expected


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"id": 1, "data": {"text": "a"}}, "annotations"),
        ({"id": 1, "annotations": []}, "data"),
        (task(7), "annotations"),
        (task({"id": 1}), "annotations.result"),
        (task(annotation("a", control="x") | {"result": [*annotation("a", control="x")["result"],
                                                         *annotation("b", control="y")["result"]]}), "from_name"),
        (task(annotation("色情")), "choices"),
        ({"id": 1, "text": "a", "annotation_id": 3, "labels": 5}, "labels"),
    ],
)  # fmt: skip
def test_a_task_that_label_studio_does_not_write_is_refused(
    row: dict[str, Any], field: str, run: Import, tmp_path: Path
) -> None:
    path = array(tmp_path / "export.json", [task(annotation("shill")), row])
    with pytest.raises(RowError) as caught:
        run("label-studio", path)
    assert (caught.value.problem.line, caught.value.problem.field) == (2, field)


# --- argilla --------------------------------------------------------------------------------------------------------


def record(answers: list[Any], question: str = "labels", suggestion: Any = None, **metadata: Any) -> dict[str, Any]:
    """As argilla's `Record.to_dict` writes it."""
    return {
        "id": "r1",
        "fields": {"text": "加我", "parent_text": "求"},
        "metadata": metadata,
        "suggestions": {question: {"value": suggestion, "score": None, "agent": "m"}} if suggestion else {},
        "responses": {question: [{"value": value, "user_id": "u"} for value in answers]} if answers else {},
        "vectors": {},
        "_server_id": "s",
    }


ANSWERS = [
    ([], (None, [])),
    ([["diversion"]], (["diversion"], [])),
    ([[]], ([], [])),
    ([["diversion", "shill"], ["diversion"]], (["diversion"], ["shill"])),
    (["shill"], (["shill"], [])),
]


@pytest.mark.parametrize(("answers", "expected"), ANSWERS)
@pytest.mark.parametrize("write", [jsonl, array])
def test_argilla_nested_records(answers: list[Any], expected: Any, write: Any, run: Import, tmp_path: Path) -> None:
    path = write(
        tmp_path / f"records.{'json' if write is array else 'jsonl'}", [record(answers, kind="comment", 店="甲")]
    )
    found = run("argilla", path)
    assert labels(found) == [expected]
    assert (found[0]["id"], found[0]["parent_text"], found[0]["店"]) == ("r1", "求", "甲")
    assert "_server_id" not in found[0]


def test_argilla_datasets_tell_drafts_from_submitted_responses(run: Import, tmp_path: Path) -> None:
    """As argilla's `to_datasets` writes it, in a folder with splits."""
    rows = [
        {"id": "a", "status": "completed", "_server_id": "s", "text": "甲",
         "labels.responses": [["diversion"], ["shill"]], "labels.responses.users": ["u", "v"],
         "labels.responses.status": ["submitted", "draft"],
         "labels.suggestion": ["shill"], "labels.suggestion.score": 0.9, "labels.suggestion.agent": "m"},
        {"id": "b", "status": "pending", "_server_id": "s", "text": "乙", "labels.responses": None,
         "labels.responses.users": None, "labels.responses.status": None,
         "labels.suggestion": ["shill"], "labels.suggestion.score": None, "labels.suggestion.agent": None},
    ]  # fmt: skip
    datasets.DatasetDict({"train": datasets.Dataset.from_list(rows)}).save_to_disk(tmp_path / "saved")
    found = run("argilla", tmp_path / "saved")
    assert labels(found) == [(["diversion"], []), (None, [])]
    assert set(found[0]) == {"id", "kind", "title", "text", "parent_text", "labels", "unknown_labels"}
    assert [path.name for path in (tmp_path / "out").glob("*.jsonl")] == ["train.jsonl"]


def test_argilla_asks_which_question_where_there_are_several(run: Import, tmp_path: Path) -> None:
    both = record([["shill"]], "违规")
    both["responses"]["情绪"] = [{"value": "好", "user_id": "u"}]
    path = jsonl(tmp_path / "records.jsonl", [both])
    with pytest.raises(RowError, match="--column labels=QUESTION"):
        run("argilla", path)
    assert labels(run("argilla", path, columns={"labels": "违规"})) == [(["shill"], [])]


# --- paddlenlp ------------------------------------------------------------------------------------------------------


def test_paddlenlp(run: Import, tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_bytes("加我\tdiversion,shill\r\n一\t二\t hard_sell\r\n干净\t\r\n".encode())
    (tmp_path / "dev.txt").write_text("验证\tshill\n", encoding="utf-8")
    single = run("paddlenlp", tmp_path / "train.txt")
    assert [(row["id"], row["text"], row["labels"]) for row in single] == [
        ("train-1", "加我", ["diversion", "shill"]),
        ("train-2", "一\t二", ["hard_sell"]),
        ("train-3", "干净", []),
    ]
    run("paddlenlp", tmp_path)
    # The file of the import before, which was not split, is gone.
    assert sorted(path.name for path in (tmp_path / "out").glob("*.jsonl")) == ["train.jsonl", "validation.jsonl"]
    assert load(tmp_path / "out" / "train.jsonl") == single
    with pytest.raises(ShudunError, match=r"expected train\.txt, dev\.txt, test\.txt in this folder"):
        run("paddlenlp", tmp_path / "out")


def test_a_line_without_a_tab_is_refused(run: Import, tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    path.write_text("加我\tdiversion\n加我 diversion\n", encoding="utf-8")
    with pytest.raises(RowError, match=r"train\.txt:2: field '\(row\)': expected a text, a tab and labels"):
        run("paddlenlp", path)


# --- wide csv -------------------------------------------------------------------------------------------------------


def test_wide_csv(run: Import, tmp_path: Path) -> None:
    path = table(
        tmp_path / "wide.csv",
        ("id", "text", "diversion", "水军", "hard_sell", "shop"),
        (1, "a", 1, 0, 0, "甲"),
        (2, "b", "0.0", "1.0", "", "乙"),
        (3, "c", "", "", "", "丙"),
    )
    found = run("wide-csv", path, label_map={"水军": "shill"})
    assert labels(found) == [
        (["diversion"], ["note_only"]),
        (["shill"], ["note_only", "hard_sell"]),
        (None, []),
    ]
    assert [row["shop"] for row in found] == ["甲", "乙", "丙"]


def test_wide_csv_columns_that_mean_one_label_are_joined(run: Import, tmp_path: Path) -> None:
    rows = [("text", "vx", "qq"), ("a", 1, 0), ("b", 0, 0), ("c", 0, ""), ("d", "", 1)]
    found = run("wide-csv", table(tmp_path / "w.csv", *rows), label_map={"vx": "diversion", "qq": "diversion"})
    judged = [(row["labels"], "diversion" in row["unknown_labels"]) for row in found]
    assert judged == [(["diversion"], False), ([], False), (None, False), (["diversion"], False)]


@pytest.mark.parametrize("cell", ["2", "yes", "是", "-1"])
def test_a_wide_cell_that_is_neither_1_nor_0_is_refused(cell: str, run: Import, tmp_path: Path) -> None:
    path = table(tmp_path / "w.csv", ("text", "shill"), ("a", 1), ("b", cell))
    with pytest.raises(RowError, match=r"w\.csv:3: field 'shill': expected 1, 0 or nothing"):
        run("wide-csv", path)


def test_a_wide_file_without_a_label_column_is_refused(run: Import, tmp_path: Path) -> None:
    path = table(tmp_path / "w.csv", ("text", "水军"), ("a", 1))
    with pytest.raises(ShudunError, match=r"no column is named as a label .*it has text, 水军"):
        run("wide-csv", path)


# --- tables and datasets --------------------------------------------------------------------------------------------


def test_a_table_with_a_column_map(run: Import, tmp_path: Path) -> None:
    path = table(tmp_path / "r.csv", ("nr", "评论", "标签", "店"), (1, "a", "导流|水军", "甲"), (2, "b", "正常", "乙"))
    found = run(
        "dataset",
        path,
        columns={"id": "nr", "text": "评论", "labels": "标签", "group": "店"},
        label_map={"导流": "diversion", "水军": "shill", "正常": ""},
        label_separator="|",
    )
    assert labels(found) == [(["diversion", "shill"], []), ([], [])]
    assert [(row["id"], row["group"]) for row in found] == [("1", "甲"), ("2", "乙")]
    assert "标签" not in found[0]


def test_class_labels_of_a_data_set_are_named_by_its_features(run: Import, tmp_path: Path) -> None:
    names = datasets.ClassLabel(names=["正常", "diversion", "shill"])
    features = {"text": datasets.Value("string"), "one": names, "many": datasets.List(names)}
    rows = {"text": ["a", "b", "c"], "one": [0, 1, -1], "many": [[], [1, 2], [2]]}
    splits = {name: datasets.Dataset.from_dict(rows, datasets.Features(features)) for name in ("train", "test")}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    one = run("dataset", tmp_path / "saved", columns={"labels": "one"}, label_map={"正常": ""})
    assert labels(one) == [([], []), (["diversion"], []), (None, [])] * 2
    many = run("dataset", tmp_path / "saved", columns={"labels": "many"})
    assert labels(many) == [([], []), (["diversion", "shill"], []), (["shill"], [])] * 2


def test_integers_without_names_are_refused(run: Import, tmp_path: Path) -> None:
    with pytest.raises(RowError, match="--label-map '1=LABEL'"):
        run("dataset", jsonl(tmp_path / "r.jsonl", [{"text": "a", "labels": [1]}]))


def test_a_data_set_that_cannot_be_loaded_is_refused(run: Import, tmp_path: Path) -> None:
    with pytest.raises(ShudunError, match="neither a file, a folder of datasets"):
        run("dataset", tmp_path / "nowhere")


# --- what all share -------------------------------------------------------------------------------------------------


def test_annotated_labels_make_the_others_unknown_in_every_row(run: Import, tmp_path: Path) -> None:
    path = jsonl(tmp_path / "r.jsonl", [{"text": "a", "label": ["shill"]}, {"text": "b", "label": []}, {"text": "c"}])
    found = run("doccano", path, annotated_labels=["shill", "hard_sell"])
    assert labels(found) == [(["shill"], ["diversion", "note_only"]), ([], ["diversion", "note_only"]), (None, [])]
    with pytest.raises(RowError, match="labels that this source annotates"):
        run("doccano", path, annotated_labels=["hard_sell"])


def test_bad_rows_go_aside_and_counts_add_up(run: Import, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "all.jsonl"
    good = json.dumps({"text": "好", "label": []}).encode()
    lines = [good, b"{", b'{"text": "\xb5"}', b'{"text": "a", "label": ["x"]}', good, b'{"id": "all-1", "text": "a"}']
    path.write_bytes(b"\n".join(lines))
    found = run("doccano", path, on_bad_row="skip")
    assert [row["id"] for row in found] == ["all-1", "all-5"]
    side = load(tmp_path / "out" / "rejected" / "all.jsonl.rejected.jsonl")
    assert [(row["line"], row["field"]) for row in side] == [(2, "(row)"), (3, "(row)"), (4, "label"), (6, "id")]
    assert all(set(row) == {"file", "line", "field", "expected", "got", "hint", "raw"} for row in side)
    assert all(row["file"] == str(path) for row in side)
    assert f"{path}: 6 read, 2 written, 4 bad" in capsys.readouterr().out
    record = json.loads((tmp_path / "out" / "import.json").read_text(encoding="utf-8"))
    (part,) = record["parts"]
    assert part["read"] == part["written"] + sum(part["dropped"].values()) + part["rejected"] == 6

    # The next import into the same folder leaves nothing of this one.
    path.write_bytes(good)
    assert len(run("doccano", path, on_bad_row="skip")) == 1
    assert sorted(entry.name for entry in (tmp_path / "out").iterdir()) == ["all.jsonl", "import.json"]


def test_a_split_of_our_own_keeps_groups_and_near_duplicates_together(run: Import, tmp_path: Path) -> None:
    rows = [
        {"text": f"{''.join(chr(0x4E00 + (i // 2) * 40 + j) for j in range(25))}{'！' * (i % 2)}",
         "label": ["shill"] if i % 4 < 2 else [], "brand": f"牌{i // 8}"}
        for i in range(200)
    ]  # fmt: skip
    path = jsonl(tmp_path / "all.jsonl", rows)
    shares = {"train": 0.6, "validation": 0.2, "test": 0.2}
    found = run("doccano", path, split_shares=shares, columns={"group": "brand"})
    splits = {name: load(tmp_path / "out" / f"{name}.jsonl") for name in shares}
    assert sorted(row["id"] for row in found) == sorted(f"all-{i}" for i in range(1, 201))
    assert not (tmp_path / "out" / "all.jsonl").exists()
    groups = [{row["group"] for row in rows} for rows in splits.values()]
    assert len(set.union(*groups)) == sum(map(len, groups)) == 25
    assert all(abs(len(splits[name]) - 200 * share) <= 16 for name, share in shares.items())
    first = [path.read_bytes() for path in sorted((tmp_path / "out").iterdir())]
    run("doccano", path, split_shares=shares, columns={"group": "brand"})
    assert [path.read_bytes() for path in sorted((tmp_path / "out").iterdir())] == first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"columns": {"txt": "a"}}, "--column: no field txt; there are id, kind, title, text"),
        ({"label_map": {"a": "b"}}, "--label-map, --annotated-labels: not in taxonomy test: b"),
        ({"annotated_labels": ["b"]}, "--label-map, --annotated-labels: not in taxonomy test: b"),
        ({"split_shares": {"train": 0.7, "test": 0.2}}, "split shares must be multiples of 0.05 and sum to 1"),
        ({"split_shares": {"train": 0.8, "test": 0.2}}, "needs at least 20 groups of rows, got 1"),
        ({"encoding": "gb18030"}, "is valid UTF-8, so it is not gb18030"),
        ({"taxonomy": None}, "need a taxonomy"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    options: dict[str, Any], message: str, taxonomy_file: Path, tmp_path: Path
) -> None:
    path = jsonl(tmp_path / "r.jsonl", [{"text": "甲", "label": []}])
    with pytest.raises(ShudunError, match=re.escape(message)):
        import_dataset("doccano", path, tmp_path / "out", seed=1, **({"taxonomy": taxonomy_file} | options))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "file", "options", "flag"),
    [
        ("paddlenlp", "r.txt", {"columns": {"text": "a"}}, "--column"),
        ("label-studio", "r.json", {"label_separator": "|"}, "--label-separator"),
        ("argilla", "r.json", {"label_separator": "|"}, "--label-separator"),
        ("wide-csv", "r.csv", {"label_separator": "|"}, "--label-separator"),
    ],
)
def test_an_option_that_a_format_has_no_use_for_is_refused(
    name: str, file: str, options: dict[str, Any], flag: str, run: Import, tmp_path: Path
) -> None:
    (tmp_path / file).touch()
    with pytest.raises(ShudunError, match=f"this format has no use for {flag}; leave it out"):
        run(name, tmp_path / file, **options)


def test_an_official_split_is_not_split_again(run: Import, tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("a\tshill\n", encoding="utf-8")
    with pytest.raises(ShudunError, match="official split"):
        run("paddlenlp", tmp_path, split_shares={"train": 1.0})


@pytest.mark.parametrize("name", ["cold", "swsr"])
def test_a_published_data_set_takes_no_options_of_ones_own(name: str, taxonomy_file: Path, tmp_path: Path) -> None:
    with pytest.raises(ShudunError, match="leave out --taxonomy, --encoding"):
        import_dataset(name, tmp_path, tmp_path / "out", seed=1, taxonomy=taxonomy_file, encoding="gb18030")


def test_bom_and_crlf_are_no_part_of_a_row(run: Import, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_bytes(codecs.BOM_UTF8 + '{"text": "甲", "label": []}\r\n{"text": "乙", "label": []}\r\n'.encode())
    assert [row["text"] for row in run("doccano", path)] == ["甲", "乙"]


@pytest.mark.parametrize(
    ("votes", "expected", "conflicts"),
    [
        ([({"a"}, set())], ({"a"}, set()), 0),
        ([({"a"}, set()), (set(), set())], (set(), {"a"}), 1),
        ([({"a"}, set()), (set(), {"a"})], ({"a"}, set()), 0),
        ([(set(), {"a"}), (set(), {"a"})], (set(), {"a"}), 0),
        ([(set(), set()), (set(), {"a"})], (set(), set()), 0),
    ],
)
def test_annotators_agree_on_what_all_who_judge_it_say(votes: Any, expected: Any, conflicts: int) -> None:
    judgements = [(frozenset(given), frozenset(left_open)) for given, left_open in votes]
    assert agreed(judgements, ["a", "b"]) == (tuple(map(frozenset, expected)), conflicts)
