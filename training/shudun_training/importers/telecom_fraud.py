"""Telecom_Fraud_Texts_5 (Li et al. 2024): `label00-last.csv` to `label04-last.csv`, ordinary and four kinds of fraud.

For research only, by its authors' terms. `label04` is GB18030, the others are UTF-8. Quotes in `label00` do not
always close, so that some of its cells run on over several messages; these are left out and counted.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from shudun.errors import ShudunError
from shudun.records import CSV_FIELD_CHARS, Encoding, Record, RecordOrBad, has_invalid_bytes, undecodable
from shudun.rows import Row
from shudun_training.importers.checks import ORIGINAL, choice, required
from shudun_training.importers.contract import SHARES, Dropped, ImportOptions, Part, Plan, published_taxonomy

FILES: dict[str, tuple[Encoding, str, str]] = {
    "label00-last.csv": ("utf-8", "0", ""),
    "label01-last.csv": ("utf-8", "冒充公检法及政府机关类", "impersonating_authorities"),
    "label02-last.csv": ("utf-8", "贷款、代办信用卡类", "loan_fraud"),
    "label03-last.csv": ("utf-8", "冒充客服服务", "impersonating_customer_service"),
    "label04-last.csv": ("gb18030", "冒充领导、熟人类", "impersonating_acquaintances"),
}
"""Encoding, the value of the `label` column and our label, by file."""

HEADER = ["content", "label"]


def plan(folder: Path, options: ImportOptions) -> Plan:  # noqa: ARG001  its own columns and labels
    """Read the five files; there is no official split."""
    parts = [
        Part(folder / name, partial(_read, folder / name, encoding), partial(_convert, value=value, label=label))
        for name, (encoding, value, label) in FILES.items()
    ]
    labels = [label for _, _, label in FILES.values() if label]
    return Plan(parts, published_taxonomy("telecom_fraud", labels), shares=SHARES)


def _read(path: Path, encoding: Encoding) -> Iterator[RecordOrBad]:
    """CSV with stray quotes, which a strict reader would refuse."""
    if not path.is_file():
        raise ShudunError(f"{path}: no such file")
    csv.field_size_limit(CSV_FIELD_CHARS)
    codec = "utf-8-sig" if encoding == "utf-8" else encoding
    with path.open(encoding=codec, errors="surrogateescape", newline="") as file:
        reader = csv.reader(file)
        if (header := next(reader, None)) != HEADER:
            raise ShudunError(f"{path}:1: expected the header {HEADER}, got {header}. Use the data set's original file")
        line = reader.line_num + 1
        try:
            for cells in reader:
                if cells:
                    yield _record(cells, str(path), line, encoding)
                line = reader.line_num + 1
        except csv.Error as error:
            raise ShudunError(f"{path}:{line}: {error}. {ORIGINAL}") from error


def _record(cells: list[str], name: str, line: int, encoding: Encoding) -> RecordOrBad:
    raw = ",".join(cells).encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if any(map(has_invalid_bytes, cells)):
        return undecodable(name, line, "an invalid byte", raw, encoding)
    return Record(line, dict(zip(HEADER, cells, strict=False)), raw)


def _convert(row: Row, *, value: str, label: str) -> dict[str, Any] | Dropped:
    choice(row, "label", (value,))
    text = required(row, "content")
    if f",{value}\n" in text.replace("\r\n", "\n"):
        return Dropped("several messages in one cell")
    file = Path(row.file).name.partition("-")[0]
    return {"id": f"telecom_fraud-{file}-{row.record.line}", "text": text, "labels": [label] if label else []}
