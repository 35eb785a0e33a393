"""Label Studio: rows as a JSON array of tasks with annotations, and the configuration of a labelling interface.

Positive labels are choices of the control `labels`, open ones of the control `unknown_labels`, so that an annotator
can settle them. A row that is not labelled is a task without an annotation; one without any label has an annotation
without result.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any
from xml.etree import ElementTree as ET  # writes only; nothing is parsed

from shudun.taxonomy import Taxonomy
from shudun_training.examples import Example
from shudun_training.importers.label_studio import UNKNOWN_CONTROL
from shudun_training.importers.parsing import item_columns

CONTROL, OBJECT = "labels", "text"


def write(examples: Iterable[Example], file: IO[str], taxonomy: Taxonomy) -> None:
    """Write an array with one task for each example, one a line."""
    file.write("[")
    for number, example in enumerate(examples):
        task = json.dumps(_task(example, taxonomy), ensure_ascii=False, default=str)
        file.write((",\n" if number else "\n") + task)
    file.write("\n]\n")


def write_config(path: Path, taxonomy: Taxonomy) -> None:
    """Write the labelling interface (XML): texts, the labels with their definitions, and the labels left open."""
    view = ET.Element("View")
    for name in ("title", "parent_text", OBJECT):
        ET.SubElement(view, "Header", value={"title": "标题", "parent_text": "上文", OBJECT: "正文"}[name])
        ET.SubElement(view, "Text", name=name, value=f"${name}")
    for control, heading in ((CONTROL, "违规类型"), (UNKNOWN_CONTROL, "不确定的类型")):
        ET.SubElement(view, "Header", value=heading)
        choices = ET.SubElement(view, "Choices", name=control, toName=OBJECT, choice="multiple")
        for label in taxonomy.labels:
            hint = label.definition_zh or label.definition_en
            # The alias is what an annotation stores; the value is what a person reads.
            ET.SubElement(choices, "Choice", value=f"{label.name_zh} {label.id}", alias=label.id, hint=hint)
    ET.indent(view)
    path.write_text(ET.tostring(view, encoding="unicode") + "\n", encoding="utf-8")


def _task(example: Example, taxonomy: Taxonomy) -> dict[str, Any]:
    task: dict[str, Any] = {"data": {**item_columns(example.item), **example.meta}, "annotations": []}
    if set(taxonomy.label_ids) <= example.unknown_labels:
        return task
    chosen = {CONTROL: example.labels, UNKNOWN_CONTROL: example.unknown_labels}
    result = [
        {"from_name": control, "to_name": OBJECT, "type": "choices", "value": {"choices": _ordered(labels, taxonomy)}}
        for control, labels in chosen.items()
        if labels
    ]
    return {**task, "annotations": [{"result": result}]}


def _ordered(labels: frozenset[str], taxonomy: Taxonomy) -> list[str]:
    return [label for label in taxonomy.label_ids if label in labels]
