"""Label Studio: JSON exports (tasks with annotations) and JSON-MIN, choices of one control.

Of several annotations of a task, a `ground_truth` one alone counts; else a label is given where all annotators give
it, and left open where they differ. Skipped annotations, drafts and predictions do not count; a task without
annotation is not labelled. Choices of a control named `unknown_labels` leave labels open.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from shudun.errors import ShudunError
from shudun.rows import Row
from shudun_training.importers.contract import ImportOptions, Part, Plan, only_file
from shudun_training.importers.fields import Judgement, agreed, item_fields, mapped_labels, other_columns
from shudun_training.importers.reading import records

UNKNOWN_CONTROL = "unknown_labels"

MIN_COLUMNS = ("annotator", "annotation_id", "created_at", "updated_at", "lead_time", "agreement")
"""What JSON-MIN adds to the data of a task."""

SEVERAL_ROWS = "In JSON-MIN each annotation is a row of its own; export JSON, which keeps the annotations of a task."


def plan(path: Path, options: ImportOptions) -> Plan:
    """Read one exported file."""
    only_file(path, ".json", ".jsonl", ".json.gz", ".jsonl.gz")
    tally: Counter[str] = Counter()
    seen: Counter[str] = Counter()
    convert = partial(_convert, options=options, tally=tally, seen=seen)
    part = Part(path, partial(records, path, options.encoding), convert)
    verify = partial(_verify, seen, options.column("labels"), path)
    return Plan(
        [part], options.checked(unused=["label_separator"]), options.annotated_labels, tally=tally, verify=verify
    )


def _verify(seen: Counter[str], control: str, path: Path) -> None:
    # JSON-MIN leaves out a control without choices: a wrong name would make every row clean.
    if seen["annotated"] and not seen["control"]:
        raise ShudunError(f"{path}: no row has choices of a control '{control}'; name it with --column labels=NAME")


def _convert(row: Row, *, options: ImportOptions, tally: Counter[str], seen: Counter[str]) -> dict[str, Any]:
    values = row.record.values
    if "annotations" in values or "completions" in values:
        return _convert_task(row, options, tally)
    if isinstance(values.get("data"), Mapping):
        hint = "Export tasks as JSON, with their annotations."
        raise row.problem("annotations", "a list of annotations", None, hint)
    return _convert_min(row, options, seen)


def _convert_task(row: Row, options: ImportOptions, tally: Counter[str]) -> dict[str, Any]:
    data = row.get("data")
    if not isinstance(data, Mapping):
        raise row.problem("data", "a mapping of the task's fields", data, "Export tasks as JSON.")
    values = {"id": row.get("id"), **data}
    judgements = [_judgement(row, annotation, options, tally) for annotation in _annotations(row, tally)]
    fields = {**item_fields(row, values, options), **other_columns(values, options)}
    if not judgements:
        tally["tasks without an annotation, kept as not labelled"] += 1
        return {**fields, "labels": None}
    (labels, unknown), conflicts = agreed(judgements, options.checked().label_ids)
    tally["labels left open because annotators differ"] += conflicts
    return {**fields, "labels": sorted(labels), "unknown_labels": sorted(unknown)}


def _annotations(row: Row, tally: Counter[str]) -> list[Mapping[str, Any]]:
    """The annotations that count."""
    field = "annotations" if "annotations" in row.record.values else "completions"
    annotations = row.get(field) or []
    if not isinstance(annotations, list) or not all(isinstance(entry, Mapping) for entry in annotations):
        hint = "Export as JSON, with whole annotations (not only their ids)."
        raise row.problem(field, "a list of annotations", annotations, hint)
    done = [entry for entry in annotations if not entry.get("was_cancelled") and not entry.get("skipped")]
    tally["annotations skipped by their annotator, left out"] += len(annotations) - len(done)
    return [entry for entry in done if entry.get("ground_truth")] or done


def _judgement(row: Row, annotation: Mapping[str, Any], options: ImportOptions, tally: Counter[str]) -> Judgement:
    chosen: dict[str, list[Any]] = {}
    results = annotation.get("result")
    if not isinstance(results, list):
        raise row.problem("annotations.result", "a list of results", results, "Export tasks as JSON.")
    for result in results:
        value = result.get("value") if isinstance(result, Mapping) else None
        if not isinstance(value, Mapping) or not isinstance(value.get("choices"), list):
            tally["results that are no choices, left out"] += 1
            continue
        chosen.setdefault(str(result.get("from_name")), []).extend(value["choices"])
    unknown = mapped_labels(row, UNKNOWN_CONTROL, chosen.pop(UNKNOWN_CONTROL, []), options)
    labels = mapped_labels(row, "choices", _of_one_control(row, chosen, options), options)
    return frozenset(labels), frozenset(unknown) - frozenset(labels)


def _of_one_control(row: Row, chosen: Mapping[str, list[Any]], options: ImportOptions) -> list[Any]:
    control = options.column("labels")
    if control in chosen or "labels" in options.columns:
        return chosen.get(control, [])
    if len(chosen) > 1:
        hint = "Name the one to read with --column labels=NAME."
        raise row.problem("from_name", "choices of one control", sorted(chosen), hint)
    return next(iter(chosen.values()), [])


def _convert_min(row: Row, options: ImportOptions, seen: Counter[str]) -> dict[str, Any]:
    values = row.record.values
    control = options.column("labels")
    used = (*MIN_COLUMNS, control, UNKNOWN_CONTROL)
    fields = {**item_fields(row, values, options), **other_columns(values, options, used)}
    if values.get("annotation_id") is None:
        return {**fields, "labels": None}
    seen["annotated"] += 1
    seen["control"] += control in values
    labels = mapped_labels(row, control, _min_choices(row, control), options)
    unknown = mapped_labels(row, UNKNOWN_CONTROL, _min_choices(row, UNKNOWN_CONTROL), options)
    return {**fields, "labels": labels, "unknown_labels": [label for label in unknown if label not in labels]}


def _min_choices(row: Row, control: str) -> list[Any]:
    """JSON-MIN writes one choice as a text, several as `{"choices": [...]}`, and none not at all."""
    value = row.get(control)
    if isinstance(value, Mapping):
        value = value.get("choices")
    if value is None or isinstance(value, str):
        return [value] if value else []
    if not isinstance(value, list):
        raise row.problem(control, "a choice or a list of choices", value, "Export JSON instead of JSON-MIN.")
    return value
