"""Export: what is imported again is what was exported, and what the tools show is whole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from shudun import Comment, Note, RowError, ShudunError, Taxonomy
from shudun.rows import RowReader
from shudun_training.examples import Example, ExampleParser
from shudun_training.exporters import export_rows
from shudun_training.importers import import_dataset

LABELS = ("diversion", "note_only", "shill", "hard_sell")
TOOLS = {"doccano": "rows.jsonl", "label-studio": "tasks.json"}

TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1).filter(str.strip)
META = st.dictionaries(st.sampled_from(["店", "vertical", "annotator", "meta"]), st.text(max_size=5) | st.integers())


@st.composite
def rows(draw: st.DrawFn) -> dict[str, Any]:
    kind = draw(st.sampled_from(["note", "comment"]))
    allowed = [label for label in LABELS if label != ("shill" if kind == "note" else "note_only")]
    labels = draw(st.none() | st.lists(st.sampled_from(allowed), unique=True))
    if labels and {"note_only", "hard_sell"} <= set(labels):
        labels.remove("hard_sell")
    unknown = st.lists(st.sampled_from([label for label in LABELS if label not in (labels or ())]), unique=True)
    extra = {"title": draw(TEXT)} if kind == "note" else {"parent_text": draw(st.just("") | TEXT)}
    text = draw(TEXT if kind == "comment" else st.just("") | TEXT)
    return {"kind": kind, "text": text, "labels": labels, "unknown_labels": draw(unknown), **extra, **draw(META)}


@pytest.fixture(scope="module")
def taxonomy_file(taxonomy: Taxonomy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("taxonomy") / "test.yaml"
    path.write_text(yaml.safe_dump(json.loads(json.dumps(taxonomy.to_dict())), allow_unicode=True), encoding="utf-8")
    return path


def write(path: Path, found: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found), encoding="utf-8")
    return path


def read(path: Path, taxonomy: Taxonomy) -> list[Example]:
    return list(RowReader(path, ExampleParser(taxonomy)))


@pytest.mark.parametrize("tool", TOOLS)
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(found=st.lists(rows(), min_size=1, max_size=6))
def test_what_is_exported_comes_back_as_it_was(
    tool: str, found: list[dict[str, Any]], taxonomy: Taxonomy, taxonomy_file: Path, tmp_path: Path
) -> None:
    source = write(tmp_path / "rows.jsonl", [{"id": f"r{i}", **row} for i, row in enumerate(found)])
    target = tmp_path / "tool" / TOOLS[tool]
    export_rows(tool, source, target, taxonomy=taxonomy_file)
    import_dataset(tool, target, tmp_path / "back", seed=1, taxonomy=taxonomy_file)
    assert read(tmp_path / "back" / "all.jsonl", taxonomy) == read(source, taxonomy)


def test_the_shipped_rows_come_back_as_they_were(tmp_path: Path) -> None:
    """Titles, parents, emoji, evidence spans and unknown labels of a whole split."""
    root = Path(__file__).parents[2]
    taxonomy_path, source = (
        root / "configs" / "taxonomy" / "xhs.yaml",
        root / "data_cards" / "shudun-xhs" / "test.jsonl",
    )
    for tool, name in TOOLS.items():
        export_rows(tool, source, tmp_path / name, taxonomy=taxonomy_path)
        import_dataset(tool, tmp_path / name, tmp_path / tool, seed=1, taxonomy=taxonomy_path)
        back = (tmp_path / tool / "all.jsonl").read_text(encoding="utf-8").splitlines()
        for line, row in zip(source.read_text(encoding="utf-8").splitlines(), back, strict=True):
            before, after = json.loads(line), json.loads(row)
            assert sorted(after.pop("labels")) == sorted(before.pop("labels"))
            assert sorted(after.pop("unknown_labels")) == sorted(before.pop("unknown_labels", []))
            assert after == before


def test_a_doccano_row_holds_open_labels_where_an_annotator_can_settle_them(
    taxonomy_file: Path, tmp_path: Path
) -> None:
    found = [
        {"id": "a", "text": "加我", "labels": ["diversion"], "unknown_labels": ["shill"]},
        {"id": "b", "text": "没标过"},
    ]
    target = tmp_path / "out.jsonl"
    export_rows("doccano", write(tmp_path / "rows.jsonl", found), target, taxonomy=taxonomy_file)
    first, second = map(json.loads, target.read_text(encoding="utf-8").splitlines())
    assert first["label"] == ["diversion", "?shill"]
    assert "label" not in second


def test_label_studio_tasks_name_controls_of_the_interface(
    taxonomy: Taxonomy, taxonomy_file: Path, tmp_path: Path
) -> None:
    found = [
        {"id": "a", "text": "加我", "labels": ["diversion"], "unknown_labels": ["shill"]},
        {"id": "b", "text": "好", "labels": []},
        {"id": "c", "text": "没标过"},
    ]
    source, target, interface = write(tmp_path / "rows.jsonl", found), tmp_path / "t.json", tmp_path / "ui.xml"
    export_rows("label-studio", source, target, taxonomy=taxonomy_file, config=interface)
    tasks = json.loads(target.read_text(encoding="utf-8"))
    view = ET.fromstring(interface.read_text(encoding="utf-8"))  # noqa: S314  our own file
    controls = {choices.get("name"): choices for choices in view.iter("Choices")}
    shown = {text.get("name"): str(text.get("value")).removeprefix("$") for text in view.iter("Text")}
    for task in tasks:
        assert set(shown.values()) <= set(task["data"])
        for result in [result for annotation in task["annotations"] for result in annotation["result"]]:
            control = controls[result["from_name"]]
            assert (result["to_name"], result["type"]) == (control.get("toName"), "choices")
            assert set(result["value"]["choices"]) <= {choice.get("alias") for choice in control}
    assert [len(task["annotations"]) for task in tasks] == [1, 1, 0]
    assert tasks[1]["annotations"] == [{"result": []}]
    assert [choice.get("alias") for choice in controls["labels"]] == list(taxonomy.label_ids)
    assert set(controls) == {"labels", "unknown_labels"}


@pytest.mark.parametrize("tool", TOOLS)
def test_bad_rows_stop_the_export_or_go_aside(tool: str, taxonomy_file: Path, tmp_path: Path) -> None:
    found = [{"id": "a", "text": "好", "labels": []}, {"id": "b", "text": "好", "labels": ["x"]}]
    source = write(tmp_path / "rows.jsonl", found)
    with source.open("a", encoding="utf-8") as file:
        file.write('{"id": "c", "text": "\\ud83d", "labels": []}\n')
    target = tmp_path / "out" / TOOLS[tool]
    with pytest.raises(RowError, match=r"rows\.jsonl:2: field 'labels'"):
        export_rows(tool, source, target, taxonomy=taxonomy_file)
    assert list(target.parent.iterdir()) == []
    export_rows(tool, source, target, taxonomy=taxonomy_file, on_bad_row="skip")
    import_dataset(tool, target, tmp_path / "back", seed=1, taxonomy=taxonomy_file)
    assert (tmp_path / "back" / "all.jsonl").read_text(encoding="utf-8").count("\n") == 1
    side = (target.parent / f"{target.name}.rejected.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["line"] for line in side] == [2, 3]


def test_a_column_that_a_tool_would_take_for_labels_is_refused(taxonomy_file: Path, tmp_path: Path) -> None:
    source = write(tmp_path / "rows.jsonl", [{"id": "a", "text": "好", "labels": [], "label": 1}])
    with pytest.raises(ShudunError, match="row a: doccano would read its column 'label' as labels"):
        export_rows("doccano", source, tmp_path / "out.jsonl", taxonomy=taxonomy_file)
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("tool", "options", "message"),
    [
        ("brat", {}, "unknown annotation tool 'brat'; known: doccano, label-studio"),
        ("doccano", {"config": Path("ui.xml")}, "doccano has no labelling configuration"),
        ("doccano", {"annotated_labels": ["x"]}, "not in taxonomy test: x"),
    ],
)
def test_what_cannot_be_exported_is_refused(
    tool: str, options: dict[str, Any], message: str, taxonomy_file: Path, tmp_path: Path
) -> None:
    source = write(tmp_path / "rows.jsonl", [{"text": "好", "labels": []}])
    with pytest.raises(ShudunError, match=message):
        export_rows(tool, source, tmp_path / "out.jsonl", taxonomy=taxonomy_file, **options)


def test_labels_that_a_source_does_not_annotate_are_exported_as_open(
    taxonomy: Taxonomy, taxonomy_file: Path, tmp_path: Path
) -> None:
    source = write(tmp_path / "rows.jsonl", [{"id": "a", "text": "好", "labels": ["shill"]}])
    export_rows("doccano", source, tmp_path / "out.jsonl", taxonomy=taxonomy_file, annotated_labels=["shill"])
    import_dataset("doccano", tmp_path / "out.jsonl", tmp_path / "back", seed=1, taxonomy=taxonomy_file)
    (example,) = read(tmp_path / "back" / "all.jsonl", taxonomy)
    unknown = frozenset({"diversion", "note_only", "hard_sell"})
    assert example == Example(Comment("好", id="a"), frozenset({"shill"}), unknown, {})
    assert not isinstance(example.item, Note)
