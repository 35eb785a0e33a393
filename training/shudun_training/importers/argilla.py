"""Argilla 2: exported records, nested (`to_json`, `to_list`) or flat (`to_datasets`, and Parquet or JSONL of it).

Responses to one question count, suggestions never. Of several annotators a label is given where all give it, and left
open where they differ. The flat form tells submitted responses from drafts and discarded ones, which are left out;
the nested form does not say.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from shudun.rows import Row
from shudun_training.importers.contract import ImportOptions, Part, Plan
from shudun_training.importers.datasets_folder import dataset_parts
from shudun_training.importers.fields import Judgement, agreed, item_fields, label_names, mapped_labels, other_columns
from shudun_training.importers.reading import records

RESPONSES, SUGGESTION = ".responses", ".suggestion"
SYSTEM_COLUMNS = ("_server_id", "vectors", "status", "inserted_at", "updated_at")


def plan(path: Path, options: ImportOptions) -> Plan:
    """Read one file of records, or a folder of `datasets`."""
    tally: Counter[str] = Counter()
    convert = partial(_convert, options=options, tally=tally)
    if path.is_dir():
        parts = dataset_parts(path, convert)
    else:
        parts = [Part(path, partial(records, path, options.encoding), convert)]
    return Plan(parts, options.checked(unused=["label_separator"]), options.annotated_labels, tally=tally)


def _convert(row: Row, *, options: ImportOptions, tally: Counter[str]) -> dict[str, Any]:
    nested = isinstance(row.get("fields"), Mapping)
    values, responses, suggested = _nested(row) if nested else _flat(row)
    fields = {**item_fields(row, values, options), **other_columns(values, options)}
    question = _question(row, responses, options)
    answers = responses.get(question, []) if question else []
    judgements = [_judgement(row, question or "", answer, options) for answer in answers]
    if not judgements:
        tally["records with suggestions alone, kept as not labelled"] += suggested
        tally["records without any answer, kept as not labelled"] += not suggested
        return {**fields, "labels": None}
    (labels, unknown), conflicts = agreed(judgements, options.checked().label_ids)
    tally["labels left open because annotators differ"] += conflicts
    return {**fields, "labels": sorted(labels), "unknown_labels": sorted(unknown)}


def _nested(row: Row) -> tuple[dict[str, Any], dict[str, list[Any]], bool]:
    """Columns, the values of all responses by question, and whether there are suggestions."""
    metadata, responses = row.get("metadata") or {}, row.get("responses") or {}
    if not isinstance(metadata, Mapping) or not isinstance(responses, Mapping):
        raise row.problem("responses", "a mapping of questions", responses, "Export with dataset.records.to_json.")
    values = {"id": row.get("id"), **metadata, **row.get("fields")}
    answers = {}
    for question, entries in responses.items():
        if not isinstance(entries, list) or not all(isinstance(entry, Mapping) for entry in entries):
            hint = "Export with dataset.records.to_json."
            raise row.problem(f"responses.{question}", "a list of responses", entries, hint)
        answers[str(question)] = [entry["value"] for entry in entries if entry.get("value") is not None]
    return values, answers, bool(row.get("suggestions"))


def _flat(row: Row) -> tuple[dict[str, Any], dict[str, list[Any]], bool]:
    columns = row.record.values
    answers = {name.removesuffix(RESPONSES): _submitted(row, name) for name in columns if name.endswith(RESPONSES)}
    suggested = any(name.endswith(SUGGESTION) and columns[name] is not None for name in columns)
    of_questions = (RESPONSES, f"{RESPONSES}.", SUGGESTION, f"{SUGGESTION}.")
    values = {
        name: value
        for name, value in columns.items()
        if name not in SYSTEM_COLUMNS and not any(part in name for part in of_questions)
    }
    return values, answers, suggested


def _submitted(row: Row, column: str) -> list[Any]:
    values, statuses = row.get(column) or [], row.get(f"{column}.status")
    if not isinstance(values, Sequence) or isinstance(values, str):
        raise row.problem(column, "a list of responses", values, "Export with dataset.records.to_datasets.")
    if statuses is None:
        statuses = ["submitted"] * len(values)
    if len(statuses) != len(values):
        hint = "Export with dataset.records.to_datasets."
        raise row.problem(f"{column}.status", f"{len(values)} statuses", statuses, hint)
    pairs = zip(values, statuses, strict=True)
    return [value for value, status in pairs if status == "submitted" and value is not None]


def _question(row: Row, responses: Mapping[str, Any], options: ImportOptions) -> str | None:
    question = options.column("labels")
    if question in responses or "labels" in options.columns:
        return question
    if len(responses) > 1:
        hint = "Name the one to read with --column labels=QUESTION."
        raise row.problem("responses", "answers to one question", sorted(responses), hint)
    return next(iter(responses), None)


def _judgement(row: Row, question: str, answer: Any, options: ImportOptions) -> Judgement:
    names = label_names(row, question, answer, None) or []
    return frozenset(mapped_labels(row, question, names, options)), frozenset()
