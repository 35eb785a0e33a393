"""One pass over labelled files: rows into the table, signatures into the index, and what is judged row by row."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from shudun.errors import ShudunError
from shudun.items import Note
from shudun.rendering import plain_text
from shudun.rows import Row, RowReader
from shudun.seen import SeenIds
from shudun.taxonomy import Taxonomy
from shudun_training.audit.findings import EXAMPLES, Finding
from shudun_training.audit.report import AuditedFile
from shudun_training.audit.table import RowTable
from shudun_training.examples import Example, ExampleParser
from shudun_training.near_duplicates import NearDuplicateIndex
from shudun_training.personal_data import find_personal_data
from shudun_training.splitting import signatures

CHUNK_ROWS = 2048


@dataclass(slots=True)
class Cases:
    """How often something was met, and the first examples of it."""

    count: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, example: str) -> None:
        """Count one case."""
        self.count += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(example)

    def finding(self, check: str, message: str) -> Finding:
        """The cases as a finding; `message` follows their number."""
        return Finding(check, self.count, f"{self.count:,} {message}", tuple(self.examples))


@dataclass(frozen=True, slots=True)
class _Located:
    """An example, and whether the row itself names its id."""

    example: Example
    named: bool

    @property
    def id(self) -> str | None:
        return self.example.id


class AuditReader:
    """Reads files into a table and an index, and keeps what it meets on the way."""

    def __init__(
        self,
        taxonomy: Taxonomy,
        table: RowTable,
        index: NearDuplicateIndex | None,
        *,
        split_of: Mapping[Path, str],
        split_column: str | None,
    ) -> None:
        self.splits: list[str] = []
        self.files: list[AuditedFile] = []
        self.personal_data: Counter[str] = Counter()
        self._parser = ExampleParser(taxonomy)
        self._table = table
        self._index = index
        self._split_of = split_of
        self._split_column = split_column
        self._cases = {name: Cases() for name in ("invalid", "repeated", "personal", "links", "evidence")}

    def read(self, files: Sequence[Path], folder: Path, progress: Callable[[int], None]) -> None:
        """Read all files; `folder` takes the rows that cannot be used, `progress` the number of rows so far.

        Raises:
            ShudunError: an unreadable file, or a row without the split column.
        """
        with SeenIds() as seen:
            for number, path in enumerate(files):
                self._read_file(path, folder / f"{number}.jsonl", seen, progress)

    def findings(self) -> list[Finding]:
        """What was met row by row."""
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in sorted(self.personal_data.items()) if kind != "link")
        return [
            self._cases["invalid"].finding("invalid_rows", "rows cannot be used; `shudun data validate` lists them"),
            self._cases["repeated"].finding("repeated_ids", "ids stand in more than one file"),
            self._cases["personal"].finding("personal_data", f"findings that look like real personal data: {kinds}"),
            self._cases["links"].finding("links", "links to real domains"),
            self._cases["evidence"].finding("missing_evidence", "positive labels without a span in rows with evidence"),
        ]

    def _read_file(self, path: Path, side: Path, seen: SeenIds, progress: Callable[[int], None]) -> None:
        reader = RowReader(path, self._parse, on_bad_row="skip", rejected_path=side)
        rows = iter(reader)
        while chunk := list(islice(rows, CHUNK_ROWS)):
            examples = [row.example for row in chunk]
            self._table.add(examples, [self._split_number(path, example) for example in examples])
            if self._index is not None:
                self._index.add(signatures([plain_text(example.item) for example in examples]))
            for row in chunk:
                self._judge(row, path, seen)
            progress(sum(file.good for file in self.files) + reader.good)
        self.files.append(AuditedFile(str(path), reader.read, reader.good, reader.rejected))
        for reason in islice(_reasons(side), EXAMPLES):
            self._cases["invalid"].add(reason)
        self._cases["invalid"].count += max(reader.rejected - EXAMPLES, 0)

    def _parse(self, row: Row) -> _Located:
        return _Located(self._parser(row), named=row.get_optional("id") is not None)

    def _split_number(self, path: Path, example: Example) -> int:
        name: object = self._split_of.get(path, path.name.partition(".")[0])
        if self._split_column is not None:
            name = example.meta.get(self._split_column)
            if not isinstance(name, str) or not name:
                raise ShudunError(f"{path}: row {example.id} has no '{self._split_column}', which --split-column names")
        if name not in self.splits:
            self.splits.append(str(name))
        return self.splits.index(str(name))

    def _judge(self, row: _Located, path: Path, seen: SeenIds) -> None:
        example = row.example
        if row.named and example.id is not None and not seen.add(example.id):
            self._cases["repeated"].add(f"{example.id} again in {path.name}")
        for found in find_personal_data(_all_text(example)):
            self.personal_data[found.kind] += 1
            self._cases["links" if found.kind == "link" else "personal"].add(
                f"{example.id}: {found.kind} {found.masked}"
            )
        spans = example.meta.get("evidence")
        if spans is not None and spans != "":
            covered = {span["label"] for span in (json.loads(spans) if isinstance(spans, str) else spans)}
            for label in sorted(example.labels - covered):
                self._cases["evidence"].add(f"{example.id}: {label}")


def _all_text(example: Example) -> str:
    item = example.item
    return f"{item.title}\n{item.text}" if isinstance(item, Note) else f"{item.text}\n{item.parent_text}"


def _reasons(side: Path) -> Iterator[str]:
    if side.exists():
        with side.open(encoding="utf-8") as lines:
            for line in lines:
                problem = json.loads(line)
                yield f"{problem['file']}:{problem['line']}: {problem['field']}: expected {problem['expected']}"
