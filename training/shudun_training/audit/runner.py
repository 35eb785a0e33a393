"""The whole audit on one screen: read once, judge the table, report, and fail where the findings say so."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shudun import terminal
from shudun.errors import ShudunError
from shudun.items import KINDS
from shudun.taxonomy import Taxonomy
from shudun_training.audit.duplicates import clusters_of_keys, conflicts, duplicates_within, leakage
from shudun_training.audit.findings import DEFAULT_LEVELS, FailOn, Finding, Level, failing, parse_levels, with_levels
from shudun_training.audit.html_report import write_html
from shudun_training.audit.labels import count_labels, label_findings
from shudun_training.audit.reading import AuditReader
from shudun_training.audit.report import LENGTH_EDGES, AuditReport
from shudun_training.audit.surface import FEATURES, surface_auc, surface_finding
from shudun_training.audit.table import Columns, RowTable
from shudun_training.audit.terminal_report import print_report
from shudun_training.audit.tokens import load_tokenizer, unknown_by_split, unknown_findings
from shudun_training.config import load_taxonomy
from shudun_training.examples import POSITIVE
from shudun_training.near_duplicates import NearDuplicateIndex
from shudun_training.row_progress import row_progress


def audit_files(
    files: Sequence[Path],
    taxonomy_path: Path,
    *,
    split_of: Sequence[str] = (),
    split_column: str | None = None,
    group_column: str = "group",
    near_duplicates: str = "minhash",
    tokenizer: Path | None = None,
    html: Path | None = None,
    json_path: Path | None = None,
    fail_on: FailOn = "error",
    levels: Sequence[str] = (),
) -> None:
    """Audit files, print the report and write it where asked; see the options of `shudun data audit`.

    Raises:
        ShudunError: a finding at or above `fail_on`, after the reports are written; or unusable arguments and files.
    """
    checked_levels = parse_levels(levels)
    report = audit(
        files,
        load_taxonomy(taxonomy_path),
        split_of=_split_names(split_of, files),
        split_column=split_column,
        group_column=group_column,
        near_duplicates=near_duplicates,
        tokenizer=tokenizer,
        levels=checked_levels,
    )
    print_report(report, terminal.console())
    if json_path is not None:
        report.write_json(json_path)
    if html is not None:
        write_html(report, html)
    if failed := failing(report.findings, fail_on):
        checks = ", ".join(dict.fromkeys(finding.check for finding in failed))
        raise ShudunError(f"the audit found {len(failed)} problem(s) of level {fail_on} or above: {checks}")


def audit(
    files: Sequence[Path],
    taxonomy: Taxonomy,
    *,
    split_of: Mapping[Path, str] | None = None,
    split_column: str | None = None,
    group_column: str = "group",
    near_duplicates: str = "minhash",
    tokenizer: Path | None = None,
    levels: Mapping[str, Level] = DEFAULT_LEVELS,
) -> AuditReport:
    """Read files and judge them; the arguments are those of `audit_files`, parsed.

    Raises:
        ShudunError: a file, a tokenizer or a split column that cannot be used, or no usable row.
    """
    started = time.monotonic()
    loaded = None if tokenizer is None else load_tokenizer(tokenizer)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        table = stack.enter_context(RowTable(taxonomy, group_column=group_column))
        index = stack.enter_context(NearDuplicateIndex()) if near_duplicates == "minhash" else None
        step = stack.enter_context(row_progress())
        reader = AuditReader(taxonomy, table, index, split_of=split_of or {}, split_column=split_column)
        reader.read(files, folder, lambda rows: step("reading", rows))
        if table.empty:
            raise ShudunError(f"no usable row in {', '.join(map(str, files))}")
        columns = table.columns()
        step("comparing", len(columns))
        repeated, compared = _compare(columns, table, index, near_duplicates, reader.splits, taxonomy)
        step("counting", len(columns))
        counts = count_labels(columns, taxonomy.applicable(KINDS), len(reader.splits))
        auc = surface_auc(columns.surface, columns.labels, columns.clean, columns.kind)
        step("tokenising", len(columns))
        unknown = unknown_by_split(loaded, table, columns.split, reader.splits)
        findings = [
            *reader.findings(),
            *compared,
            *label_findings(counts, taxonomy.label_ids, reader.splits),
            surface_finding(auc, taxonomy.label_ids),
            *unknown_findings(unknown),
        ]
        return AuditReport(
            taxonomy=taxonomy,
            files=reader.files,
            splits=reader.splits,
            counts=counts,
            surface=auc,
            lengths=_lengths(columns),
            near_duplicates=near_duplicates,
            repeated=repeated,
            vocabulary="this project's rule, from the training rows" if tokenizer is None else str(tokenizer),
            unknown_tokens=unknown,
            personal_data=reader.personal_data,
            findings=with_levels(findings, levels),
            seconds=time.monotonic() - started,
        )


def _compare(
    columns: Columns,
    table: RowTable,
    index: NearDuplicateIndex | None,
    mode: str,
    splits: Sequence[str],
    taxonomy: Taxonomy,
) -> tuple[dict[str, int], list[Finding]]:
    """Repeated rows by kind of repetition, and findings on everything that stands in two places."""
    groups = clusters_of_keys(columns.group_key)
    findings = [leakage("group_leakage", "groups stand", groups, columns, table, splits)]
    if mode == "off":
        return {}, findings
    exact = clusters_of_keys(columns.text_key)
    near = exact if index is None else index.clusters()
    repeated = {"exactly": len(exact) - len(np.unique(exact))}
    if index is not None:
        repeated["nearly"] = len(near) - len(np.unique(near)) - repeated["exactly"]
    judged = clusters_of_keys(columns.judged_key)
    findings += [
        leakage("near_duplicate_leakage", "families of near-duplicates stand", near, columns, table, splits),
        leakage(
            "judged_text_leakage", "judged texts stand, under whatever parent or title,", judged, columns, table, splits
        ),
        *conflicts(near, columns, table, taxonomy.label_ids),
        *duplicates_within(near, columns, splits),
    ]
    return repeated, findings


def _lengths(columns: Columns) -> dict[str, NDArray[np.int64]]:
    characters = columns.surface[:, FEATURES.index("characters")]
    positive = (columns.labels == POSITIVE).any(axis=1)
    rows = {"positive": positive, "clean": columns.clean}
    return {name: np.histogram(characters[chosen], LENGTH_EDGES)[0] for name, chosen in rows.items()}


def _split_names(pairs: Sequence[str], files: Sequence[Path]) -> dict[Path, str]:
    """File → split from `FILE=SPLIT` options."""
    names = {}
    for pair in pairs:
        file, _, split = pair.rpartition("=")
        if Path(file) not in files or not split:
            raise ShudunError(f"--split-of {pair}: expected FILE=SPLIT with one of the audited files")
        names[Path(file)] = split
    return names
