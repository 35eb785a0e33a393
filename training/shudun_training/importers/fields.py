"""Conversion steps that formats share: item fields by column, labels by name, several annotators into one.

Knows the project's row format and the import options, but no format.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any, TypeAlias

from shudun.rows import Row
from shudun_training.importers.contract import ITEM_COLUMNS, ImportOptions

Judgement: TypeAlias = tuple[frozenset[str], frozenset[str]]
"""What one annotator says of a row: positive labels, and labels left open."""


def item_fields(row: Row, values: Mapping[str, Any], options: ImportOptions) -> dict[str, Any]:
    """Id, kind, title, text and parent text from `values`; an id is made of file and line where there is none."""
    found = {name: values.get(options.column(name)) for name in ITEM_COLUMNS}
    if found["text"] is None and not found["title"]:
        hint = f"It has {', '.join(map(str, values)) or 'nothing'}; name the right one with --column text=NAME."
        raise row.problem(options.column("text"), "a text", None, hint)
    for name in ("title", "text", "parent_text"):
        found[name] = _text(row, options.column(name), found[name])
    if found["id"] in (None, ""):
        found["id"] = default_id(row)
    return found


def default_id(row: Row) -> str:
    """File stem and line: unique among the files of one import, and the same in the next one."""
    name = row.file.replace("\\", "/").rpartition("/")[2]
    return f"{name.partition('.')[0]}-{row.record.line}"


def other_columns(values: Mapping[str, Any], options: ImportOptions, used: Collection[str] = ()) -> dict[str, Any]:
    """The columns that are neither item fields nor labels, to be kept beside them; `group` under its own name."""
    taken = {options.column(name) for name in ("group", *ITEM_COLUMNS)} | {*ITEM_COLUMNS, "labels", "unknown_labels"}
    kept = {key: value for key, value in values.items() if key not in taken | set(used)}
    group = values.get(options.column("group"))
    return kept if group in (None, "") else {**kept, "group": str(group)}


def mapped_labels(row: Row, field: str, names: Sequence[Any], options: ImportOptions) -> list[str]:
    """Source labels as labels of the taxonomy, once each.

    Raises:
        RowError: a name that is no string, or that neither the label map nor the taxonomy has.
    """
    known = set(options.checked().label_ids)
    labels = []
    for name in names:
        label = options.label_map.get(name, name) if isinstance(name, str) else None
        if label is None or (label and label not in known):
            hint = f"Map it: --label-map '{name}=LABEL', or '{name}=' to leave it out."
            raise row.problem(field, f"a label of the taxonomy ({', '.join(sorted(known))})", name, hint)
        labels.append(label)
    return list(dict.fromkeys(label for label in labels if label))


def label_names(row: Row, field: str, value: Any, separator: str | None) -> list[Any] | None:
    """The names in a label cell: a list, or a text of names joined by `separator`; `None` when not labelled.

    Without a separator a text is one name. An empty text is "reviewed, no label" in a format whose cells are
    joined names, and "not labelled" elsewhere.
    """
    if value is None or (value == "" and separator is None):
        return None
    if isinstance(value, str):
        parts = [value] if separator is None else value.split(separator)
        return [part.strip() for part in parts if part.strip()]
    if not isinstance(value, list):
        hint = "Write the labels as a list of names, or joined with --label-separator."
        raise row.problem(field, "a list of label names", value, hint)
    return value


def agreed(judgements: Sequence[Judgement], labels: Collection[str]) -> tuple[Judgement, int]:
    """One judgement from several: what all who judge a label say of it; where they differ it is left open.

    Returns:
        The common judgement, and the number of labels on which annotators differ.
    """
    positive, unknown, conflicts = set(), set(), 0
    for label in labels:
        votes = {label in chosen for chosen, left_open in judgements if label not in left_open}
        conflicts += len(votes) == 2
        if votes == {True}:
            positive.add(label)
        elif votes != {False}:
            unknown.add(label)
    return (frozenset(positive), frozenset(unknown)), conflicts


def _text(row: Row, field: str, value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    raise row.problem(field, "a string", value, "Write the value as text.")
